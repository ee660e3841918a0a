#!/usr/bin/env python3
"""Writes the C++ form of the contract: generate_header.py flash_attention.json flashonnx/contract.h."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Rule = dict[str, Any]

DTYPES = {
    "bool": "kBool",
    "bfloat16": "kBFloat16",
    "double": "kDouble",
    "float": "kFloat",
    "float16": "kFloat16",
    "int64": "kInt64",
}


def constant(name: str) -> str:
    """left_window_size -> kLeftWindowSize."""
    return "k" + "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def braced(items: Iterable[object]) -> str:
    return "{" + ", ".join(str(item) for item in items) + "}"


def cpp_bool(value: object) -> str:
    return "true" if value else "false"


class Header:
    """The generated file, section by section."""

    def __init__(self, contract: Rule) -> None:
        self.contract = contract
        self.sizes = [size["name"] for size in contract["sizes"]]
        self.types = list(contract["types"])
        self.inputs = [tensor["name"] for tensor in contract["inputs"]]
        self.outputs = [tensor["name"] for tensor in contract["outputs"]]

    def text(self) -> str:
        sections = [
            self.head(),
            self.indices("Size", self.sizes),
            self.indices("Type", self.types),
            self.indices("Attribute", [a["name"] for a in self.contract["attributes"]]),
            self.indices("Input", self.inputs),
            self.indices("Output", self.outputs),
            self.defaults(),
            self.table("SizeRule", "kSizes", map(self.size_rule, self.contract["sizes"])),
            self.table("TypeRule", "kTypes", map(self.type_rule, self.types)),
            self.table("AttributeRule", "kAttributes", map(self.attribute_rule, self.contract["attributes"])),
            self.tensors("kInputs", self.contract["inputs"], self.inputs),
            self.tensors("kOutputs", self.contract["outputs"], self.outputs),
            self.table("Exclusion", "kExclusions", self.exclusions()),
            "}  // namespace flashonnx::contract\n",
        ]
        return "\n".join(sections)

    def head(self) -> str:
        contract = self.contract
        return f"""\
// Generated from op/contract/flash_attention.json; do not edit.
#pragma once

#include "op/contract/rules.h"

namespace flashonnx::contract {{

constexpr char kDomain[] = "{contract["domain"]}";
constexpr char kOpType[] = "{contract["op_type"]}";
constexpr int kSinceVersion = {contract["since_version"]};
constexpr int64_t kMaxSize = {contract["max_size"]};
constexpr char kPresentInputs[] = "{contract["layer_attributes"]["inputs"]}";
constexpr char kPresentOutputs[] = "{contract["layer_attributes"]["outputs"]}";
constexpr char kPackedQkv[] = "{contract["layer_attributes"]["packed"]}";
"""

    @staticmethod
    def indices(kind: str, names: list[str]) -> str:
        listed = "".join(f"    {constant(name)},\n" for name in names)
        return f"struct {kind} {{\n  enum : int {{\n{listed}  }};\n}};\nconstexpr int kNum{kind}s = {len(names)};\n"

    def defaults(self) -> str:
        lines = []
        for attribute in self.contract["attributes"]:
            if attribute["default"] is not None:
                cpp_type = "double" if attribute["type"] == "float" else "int64_t"
                lines.append(f"constexpr {cpp_type} {constant(attribute['name'])}Default = {attribute['default']};\n")
        return "".join(lines)

    @staticmethod
    def table(cpp_type: str, name: str, rows: Iterable[str]) -> str:
        body = "".join(f"    {row},\n" for row in rows)
        return f"inline constexpr {cpp_type} {name}[] = {{\n{body}}};\n"

    def tensors(self, name: str, tensors: list[Rule], siblings: list[str]) -> str:
        return self.table("TensorRule", name, (self.tensor_rule(tensor, siblings) for tensor in tensors))

    def size_index(self, name: str | None) -> int:
        return -1 if name is None else self.sizes.index(name)

    def size_rule(self, size: Rule) -> str:
        terms = braced(self.size_index(name) for name in size.get("sum", [None, None]))
        multiple = self.size_index(size.get("multiple_of"))
        return braced([f'"{size["name"]}"', size.get("min", 0), terms, multiple, size.get("absent", -1)])

    def type_rule(self, name: str) -> str:
        allowed = [other for other in self.contract["types"][name] if other != "T"]
        or_t = cpp_bool("T" in self.contract["types"][name])
        return braced([f'"{name}"', len(allowed), braced(f"DType::{DTYPES[a]}" for a in allowed), or_t])

    def attribute_rule(self, attribute: Rule) -> str:
        allowed = attribute.get("allowed", [])
        return braced(
            [
                f'"{attribute["name"]}"',
                cpp_bool(attribute["type"] == "float"),
                cpp_bool("min" in attribute),
                attribute.get("min", 0),
                len(allowed),
                braced(allowed),
                attribute.get("with_rank", 0),
                self.size_index(attribute["name"] if attribute["name"] in self.sizes else None),
            ]
        )

    def dim_rule(self, text: str) -> str:
        factors: list[str | None] = [*text.split("*"), None]
        return braced([braced(self.size_index(name) for name in factors[:2])])

    def shape_rule(self, shape: list[str]) -> str:
        return braced([len(shape), braced(map(self.dim_rule, shape))])

    def tensor_rule(self, tensor: Rule, siblings: list[str]) -> str:
        broadcast = "broadcast_to" in tensor
        shapes = [tensor["broadcast_to"]] if broadcast else tensor["shapes"]
        return braced(
            [
                f'"{tensor["name"]}"',
                self.types.index(tensor["type"]),
                cpp_bool(tensor.get("optional")),
                siblings.index(tensor["with"]) if "with" in tensor else -1,
                self.inputs.index(tensor["same_rank_as"]) if "same_rank_as" in tensor else -1,
                cpp_bool(broadcast),
                len(shapes),
                braced(map(self.shape_rule, shapes)),
            ]
        )

    def exclusions(self) -> list[str]:
        rows = []
        for index, tensor in enumerate(self.contract["inputs"]):
            for other in tensor.get("without", []):
                is_output = other in self.outputs
                others = self.outputs if is_output else self.inputs
                rows.append(braced([index, cpp_bool(is_output), others.index(other)]))
        return rows


def write_if_changed(path: Path, text: str) -> None:
    """Leaves an equal file alone, so that nothing is rebuilt for it."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    contract = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write_if_changed(Path(sys.argv[2]), Header(contract).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
