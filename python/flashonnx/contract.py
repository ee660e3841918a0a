"""The op's contract, as Python sees it: names, indices, defaults and types of flash_attention.json, and nothing else.

The C++ side is made from the same file; what is allowed is checked there only (`flashonnx.native.check`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Attribute:
    """An attribute; `default` is None where absence has a meaning of its own."""

    name: str
    type: str  # "int" or "float"
    default: int | float | None
    doc: str


@dataclass(frozen=True)
class Tensor:
    """An input or output; `type` is a key of TYPES."""

    name: str
    index: int
    type: str
    optional: bool
    shapes: tuple[tuple[str, ...], ...]  # each one allowed; for attn_mask, what it is broadcast to
    doc: str


def _tensors(rows: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=row["name"],
            index=index,
            type=row["type"],
            optional=row.get("optional", False),
            shapes=tuple(tuple(shape) for shape in row.get("shapes", [row.get("broadcast_to", [])])),
            doc=row.get("doc", ""),
        )
        for index, row in enumerate(rows)
    )


_DATA: dict[str, Any] = json.loads(Path(__file__).with_name("flash_attention.json").read_text(encoding="utf-8"))

DOMAIN: str = _DATA["domain"]
OP_TYPE: str = _DATA["op_type"]
SINCE_VERSION: int = _DATA["since_version"]
DOC: str = _DATA["doc"]

# Attributes for TensorRT: which tensors a node has, by index, and that Q, K and V are one.
PRESENT_INPUTS: str = _DATA["layer_attributes"]["inputs"]
PRESENT_OUTPUTS: str = _DATA["layer_attributes"]["outputs"]
PACKED_QKV: str = _DATA["layer_attributes"]["packed"]

# ONNX's type names by type variable; "T" within another variable stands for the type of T.
TYPES: dict[str, list[str]] = _DATA["types"]

ATTRIBUTES: tuple[Attribute, ...] = tuple(
    Attribute(row["name"], row["type"], row["default"], row["doc"]) for row in _DATA["attributes"]
)
INPUTS: tuple[Tensor, ...] = _tensors(_DATA["inputs"])
OUTPUTS: tuple[Tensor, ...] = _tensors(_DATA["outputs"])

INPUT_INDEX: dict[str, int] = {tensor.name: tensor.index for tensor in INPUTS}
OUTPUT_INDEX: dict[str, int] = {tensor.name: tensor.index for tensor in OUTPUTS}
