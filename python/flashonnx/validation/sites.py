"""Attention sites of a fused file, and the values of the unfused file that they replace.

Fusion keeps the name of the value that a site hands to the rest of the graph. Where it moved a Transpose or Reshape
behind the op, that value lies a few layout ops further on, so the search follows those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from flashonnx import contract

_LAYOUT_OPS = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"}


@dataclass(frozen=True)
class Site:
    """A FlashAttention node, and the value to compare: named alike in both files, or None if there is no such value."""

    name: str
    output: str
    shared: str | None


def find_sites(reference: str | Path, model: str | Path) -> list[Site]:
    """The sites of `model`, in its order; both are paths of ONNX files."""
    known = {name for node in onnx.load(reference, load_external_data=False).graph.node for name in node.output}
    graph = onnx.load(model, load_external_data=False).graph
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return [
        Site(node.name or node.output[0], node.output[0], _shared(node.output[0], known, consumers))
        for node in graph.node
        if (node.domain, node.op_type) == (contract.DOMAIN, contract.OP_TYPE)
    ]


def _shared(name: str, known: set[str], consumers: dict[str, list[onnx.NodeProto]]) -> str | None:
    while name not in known:
        following = consumers.get(name, [])
        if len(following) != 1 or following[0].op_type not in _LAYOUT_OPS:
            return None
        name = following[0].output[0]
    return name
