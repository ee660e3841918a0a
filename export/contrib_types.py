"""Output types of com.microsoft's operators, which onnx has no inference for: those that ONNX Runtime's optimizers and
the fusions of onnxscript write into files. Source: the operators' schemas in ONNX Runtime 1.32 (ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from flashonnx.fusion.tensor_type import Shape, SizeError, Type, broadcast

CONTRIB_DOMAIN = "com.microsoft"

Types = list[Type | None]


def import_contrib(graph: ir.Graph) -> None:
    """Imports com.microsoft's operators if the file uses them without: only ONNX Runtime takes that."""
    if CONTRIB_DOMAIN not in graph.opset_imports and any(node.domain == CONTRIB_DOMAIN for node in graph.all_nodes()):
        graph.opset_imports[CONTRIB_DOMAIN] = 1


def _padded(types: Types, count: int) -> Types:
    return [*types, *[None] * count][:count]


def _multi_head_attention(node: ir.Node, types: Types) -> Types:
    query, key, value, *_, past = _padded(types, 7)
    heads = node.attributes.get_int("num_heads", 1)
    if query is None or heads < 1:
        return []
    if len(query.shape) == 5:  # (batch, row, head, 3, feature)
        key = value = query = Type(query.dtype, (*query.shape[:2], heads * query.shape[4]))
    if key is not None and len(key.shape) == 5:  # (batch, row, head, 2, feature)
        key = value = Type(key.dtype, (*key.shape[:2], heads * key.shape[4]))
    if key is None or value is None:
        return []
    present_key, present_value = (_present(tensor, heads, past) for tensor in (key, value))
    output = Type(query.dtype, (*query.shape[:2], heads * present_value.shape[3]))
    if len(types) > 8 and types[8] is not None:  # past_sequence_length: the caches are buffers
        return [output]
    return [output, present_key, present_value]


def _present(new: Type, heads: int, past: Type | None) -> Type:
    """The grown cache, (batch, head, row, feature)."""
    past_rows = 0 if past is None else past.shape[2]
    if len(new.shape) == 4:
        return Type(new.dtype, (*new.shape[:2], past_rows + new.shape[2], new.shape[3]))
    batch, rows, width = new.shape
    return Type(new.dtype, (batch, heads, past_rows + rows, width // heads))


def _group_query_attention(node: ir.Node, types: Types) -> Types:
    """With a past, total_sequence_length decides whether the caches grow or are buffers of a length of their own."""
    query, key, value, past = _padded(types, 4)
    heads, kv_heads = node.attributes.get_int("num_heads", 1), node.attributes.get_int("kv_num_heads", 1)
    if query is None or min(heads, kv_heads) < 1:
        return []
    if key is None or value is None:  # query holds all three
        batch, rows, width = query.shape
        size = width // (heads + 2 * kv_heads)
        query = Type(query.dtype, (batch, rows, heads * size))
        key = value = Type(query.dtype, (batch, rows, kv_heads * size))
    if past is not None:
        return [query]
    return [query, _present(key, kv_heads, None), _present(value, kv_heads, None)]


def _attention(node: ir.Node, types: Types) -> Types:
    """Attention with the weights of Q, K and V in one."""
    x, weights, _, _, past = _padded(types, 5)
    heads = node.attributes.get_int("num_heads", 1)
    if x is None or weights is None or heads < 1:
        return []
    batch, rows, _ = x.shape
    sizes = node.attributes.get_ints("qkv_hidden_sizes", [weights.shape[1] // 3] * 3)
    total = rows + (0 if past is None else past.shape[3])
    present = Type(x.dtype, (2, batch, heads, total, sizes[0] // heads))
    return [Type(x.dtype, (batch, rows, sizes[2])), present]


def _skip_normalization(node: ir.Node, types: Types) -> Types:
    """Normalised input + skip (+ bias); mean and variance are of training; the sum itself."""
    return [types[0], None, None, types[0]]


def _embed_layer_normalization(node: ir.Node, types: Types) -> Types:
    ids, _, words = _padded(types, 3)
    if ids is None or words is None:
        return []
    embedded = Type(words.dtype, (*ids.shape, words.shape[-1]))
    return [embedded, Type(ir.DataType.INT32, ids.shape[:1]), embedded]


def _fused_matmul(node: ir.Node, types: Types) -> Types:
    """MatMul of operands whose last two axes may be swapped."""
    first, second = types[:2]
    if first is None or second is None or min(len(first.shape), len(second.shape)) < 2:
        return []
    if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
        return []
    a, b = _matrices(node, first, second)
    if a[-1] != b[-2]:
        raise SizeError(f"FusedMatMul: {a} by {b}")
    return [Type(first.dtype, (*broadcast(node, [a[:-2], b[:-2]]), a[-2], b[-1]))]


def _fused_gemm(node: ir.Node, types: Types) -> Types:
    first, second = types[:2]
    if first is None or second is None:
        return []
    a, b = _matrices(node, first, second)
    return [Type(first.dtype, (a[0], b[1]))]


def _matrices(node: ir.Node, first: Type, second: Type) -> tuple[Shape, Shape]:
    """The shapes as they are multiplied, after transA and transB."""

    def swapped(shape: Shape, flag: str) -> Shape:
        return (*shape[:-2], shape[-1], shape[-2]) if node.attributes.get_int(flag, 0) else shape

    return swapped(first.shape, "transA"), swapped(second.shape, "transB")


def _same_as_first(node: ir.Node, types: Types) -> Types:
    return types[:1]


_TYPES: dict[str, Callable[[ir.Node, Types], Types]] = {
    "Attention": _attention,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "GroupQueryAttention": _group_query_attention,
    "MultiHeadAttention": _multi_head_attention,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
    **dict.fromkeys(["BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding"], _same_as_first),
}


def contrib_types(node: ir.Node, types: Types) -> Types | None:
    """The types of the node's outputs, None where unknown; None if the operator is not known at all."""
    read = _TYPES.get(node.op_type) if node.domain == CONTRIB_DOMAIN else None
    if read is None:
        return None
    try:
        found = read(node, types)
    except (IndexError, ValueError):  # ranks that the operator does not take
        found = []
    return _padded(found, len(node.outputs))
