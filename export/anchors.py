"""Where attention may be: every Softmax, and every node that is an attention by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention, from_softmax
from flashonnx.fusion.contrib_types import CONTRIB_DOMAIN
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.native import from_flash_attention, from_onnx_attention
from flashonnx.fusion.native_contrib import (
    from_group_query_attention,
    from_multi_head_attention,
    from_packed_attention,
)

# What brings a node's attention into normal form; what the node takes packed it takes apart with new nodes beside it.
Read = Callable[[ir.Node, Emitter], Attention]


def anchors(graph: ir.Graph) -> Iterator[tuple[ir.Node, Read]]:
    """Each node that may be the heart of an attention, with what reads it; those in bodies of If and Loop too."""
    for node in graph.all_nodes():
        read = _READERS.get((node.domain, node.op_type))
        if read is not None:
            yield node, read if node.graph is graph else _in_a_body


# How many nodes away from a softmax its two products may be.
_REACH = 16


def is_attention(node: ir.Node, facts: Facts) -> bool:
    """Whether a Softmax stands between two products of activations; a classifier's or a router's does not.

    What depends on nothing but the batch size, such as learned queries, counts as an activation.
    """
    if node.op_type != "Softmax":
        return True
    return _meets_product(node, facts, _producers) and _meets_product(node, facts, _consumers)


def _meets_product(node: ir.Node, facts: Facts, neighbours: Callable[[ir.Node], list[ir.Node]]) -> bool:
    seen = {node}
    front = [node]
    for _ in range(_REACH):
        front = [new for old in front for new in neighbours(old) if new not in seen]
        seen.update(front)
        products = [node for node in front if node.op_type in _PRODUCTS and len(node.inputs) > _PRODUCTS[node.op_type]]
        seconds = [product.inputs[_PRODUCTS[product.op_type]] for product in products]
        if any(facts.constant(value) is None for value in seconds):
            return True
        front = [candidate for candidate in front if candidate not in products]
    return False


# Products of two tensors, those of integers too, and which input the second tensor is.
_PRODUCTS = {"MatMul": 1, "FusedMatMul": 1, "Gemm": 1, "Einsum": 1, "MatMulInteger": 1, "QLinearMatMul": 3}


def _producers(node: ir.Node) -> list[ir.Node]:
    return list(node.predecessors())


def _consumers(node: ir.Node) -> list[ir.Node]:
    return list(node.successors())


def _in_a_body(node: ir.Node, emitter: Emitter) -> Attention:
    raise Refusal("it is inside the body of an If, Loop or Scan", node)


def _softmax(node: ir.Node, emitter: Emitter) -> Attention:
    rank = emitter.facts.rank(node.inputs[0])
    axis = node.attributes.get_int("axis", -1)
    if axis % rank != rank - 1:
        raise Refusal(f"the softmax is over axis {axis} of {rank}, not over the last", node)
    return from_softmax(node, emitter.facts)


_READERS: dict[tuple[str, str], Read] = {
    ("", "Softmax"): _softmax,
    ("", "Attention"): from_onnx_attention,
    (contract.DOMAIN, contract.OP_TYPE): from_flash_attention,
    (CONTRIB_DOMAIN, "Attention"): from_packed_attention,
    (CONTRIB_DOMAIN, "MultiHeadAttention"): from_multi_head_attention,
    (CONTRIB_DOMAIN, "GroupQueryAttention"): from_group_query_attention,
}
