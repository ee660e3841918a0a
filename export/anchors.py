"""Where attention may be: every Softmax, and every node that is an attention by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir
from flashonnx.fusion.attention import Attention, from_softmax
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.native import from_group_query_attention, from_multi_head_attention, from_onnx_attention

Read = Callable[[ir.Node, Facts], Attention]


def anchors(graph: ir.Graph) -> Iterator[tuple[ir.Node, Read]]:
    """Each node that may be the heart of an attention, with what reads it."""
    for node in graph:
        read = _READERS.get((node.domain, node.op_type))
        if read is not None:
            yield node, read


def _softmax(node: ir.Node, facts: Facts) -> Attention:
    rank = facts.rank(node.inputs[0])
    opset = node.graph.opset_imports.get("", 1) if node.graph is not None else 1  # type: ignore[union-attr]
    axis = node.attributes.get_int("axis", -1 if opset >= 13 else 1)
    if axis % rank != rank - 1:
        raise Refusal(f"the softmax is over axis {axis} of {rank}, not over the last", node)
    return from_softmax(node, facts)


_READERS: dict[tuple[str, str], Read] = {
    ("", "Softmax"): _softmax,
    ("", "Attention"): from_onnx_attention,
    ("com.microsoft", "MultiHeadAttention"): from_multi_head_attention,
    ("com.microsoft", "GroupQueryAttention"): from_group_query_attention,
}
