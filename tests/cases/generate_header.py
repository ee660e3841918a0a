#!/usr/bin/env python3
"""Writes nodes.json as C++: generate_header.py CONTRACT.json OUT.h."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from nodes import ACCEPTED, REFUSED, REFUSED_VALUES, SYMBOLIC, Dim, NodeCase

sys.path.insert(0, str(Path(__file__).parents[2] / "op" / "contract"))
from generate_header import DTYPES, constant, write_if_changed

FIRST_SYMBOL = -2  # op/core/sizes.h


class Symbols(dict):
    """Numbers for the names of one case's symbolic dimensions."""

    def __missing__(self, name: str) -> int:
        self[name] = FIRST_SYMBOL - len(self)
        return self[name]


def shape(dims: list[Dim], symbols: Symbols) -> str:
    numbers = [symbols[dim] if isinstance(dim, str) else -1 if dim is None else dim for dim in dims]
    return "{" + ", ".join(map(str, numbers)) + "}"


def number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NAN" if math.isnan(value) else "INFINITY"


def node_case(case: NodeCase, output_names: list[str]) -> str:
    symbols = Symbols()
    lines = ["  {", "    NodeCase c;", f'    c.name = "{case.name}";', f"    c.error = {json.dumps(case.error)};"]
    for name, (dtype, dims) in case.inputs.items():
        tensor = f"TensorDesc{{DType::{DTYPES[dtype]}, {shape(dims, symbols)}}}"
        lines.append(f"    c.node.inputs[contract::Input::{constant(name)}] = {tensor};")
    lines += [f"    c.node.attributes.{name} = {number(value)};" for name, value in case.attributes.items()]
    lines += [f"    c.node.outputs[contract::Output::{constant(name)}] = true;" for name in case.outputs]
    lines += [f"    c.nonpad = {shape(values, symbols)};" for values in case.values.values()]
    for name, dims in case.shapes.items():
        lines.append(f"    c.shapes[{output_names.index(name)}] = {shape(dims, symbols)};")
    return "\n".join([*lines, "    cases.push_back(c);\n  }"])


def table(name: str, cases: list[NodeCase], output_names: list[str]) -> str:
    body = "\n".join(node_case(case, output_names) for case in cases)
    return f"inline std::vector<NodeCase> {name}() {{\n  std::vector<NodeCase> cases;\n{body}\n  return cases;\n}}\n"


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    contract = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    output_names = [tensor["name"] for tensor in contract["outputs"]]
    tables = {
        "accepted_nodes": ACCEPTED,
        "symbolic_nodes": SYMBOLIC,
        "refused_nodes": REFUSED,
        "refused_value_nodes": REFUSED_VALUES,
    }
    text = "// Generated from tests/cases/nodes.json; do not edit.\n#pragma once\n\n#include <cmath>\n\n"
    text += '#include "tests/op/core/node_case.h"\n\nnamespace flashonnx {\n\n'
    text += "\n".join(table(name, cases, output_names) for name, cases in tables.items())
    write_if_changed(Path(sys.argv[2]), text + "\n}  // namespace flashonnx\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
