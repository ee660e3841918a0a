"""nodes.json for Python: the same cases that the C++ tests get from generate_header.py. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

Dim = int | str | None  # a symbol by its name; None where unknown

_DATA = json.loads(Path(__file__).with_name("nodes.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class NodeCase:
    """One node, and what is to become of it: `shapes` if it is accepted, else `error`."""

    name: str
    inputs: dict[str, tuple[str, list[Dim]]]  # ONNX's name of the element type, and the shape
    attributes: dict[str, float]
    outputs: list[str]
    values: dict[str, list[int]] = field(default_factory=dict)
    shapes: dict[str, list[Dim]] = field(default_factory=dict)
    error: str = ""

    def __str__(self) -> str:
        return self.name


def _case(row: dict) -> NodeCase:
    inputs = {**_DATA["bases"][row["base"]], **row.get("inputs", {})}
    shapes = row.get("shapes", {})
    return NodeCase(
        name=row["name"],
        inputs={name: (tensor[0], tensor[1]) for name, tensor in inputs.items() if tensor is not None},
        attributes=row.get("attributes", {}),
        outputs=row.get("outputs", list(shapes) or ["Y"]),
        values=row.get("values", {}),
        shapes=shapes,
        error=row.get("error", ""),
    )


ACCEPTED = [_case(row) for row in _DATA["accepted"]]
SYMBOLIC = [_case(row) for row in _DATA["symbolic"]]
REFUSED = [_case(row) for row in _DATA["refused"]]
REFUSED_VALUES = [_case(row) for row in _DATA["refused_values"]]
