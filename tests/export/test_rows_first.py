"""RoPE and norms between the Transpose of the heads and the product: no Transpose is left."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.forms import (
    HEADS,
    SIZE,
    SIZES,
    WIDTH,
    Change,
    assert_fused,
    attention,
    join_heads,
    same,
    split_heads,
    times,
)
from tests.export.graphs import Graph

CONTRIB = "com.microsoft"
HALF = SIZE // 2


def tables(graph: Graph, rank: int = 4) -> list[str]:
    """cos and sin of (…, row, feature) for as many rows as the first input has."""
    rows = graph.unsqueeze(graph.cast(graph.positions(graph.dim(graph.inputs[0].name, 1)), np.float32), 1)
    speeds = np.tile(10.0 ** -np.arange(HALF), 2)
    angles = graph.op("Mul", rows, graph.constant(speeds, np.float32))
    found = [graph.op(name, angles) for name in ("Cos", "Sin")]
    return [graph.unsqueeze(table, *range(rank - 2)) for table in found] if rank > 2 else found


def part(graph: Graph, value: str, start: int, end: int) -> str:
    return graph.op("Slice", value, graph.ints(start), graph.ints(end), graph.ints(3))


def rotate(rank: int = 4) -> Change:
    """x·cos + rotate_half(x)·sin, with tables of that rank."""

    def apply(graph: Graph, value: str) -> str:
        cos, sin = tables(graph, rank)
        first, second = part(graph, value, 0, HALF), part(graph, value, HALF, SIZE)
        turned = graph.op("Concat", graph.op("Neg", second), first, axis=-1)
        return graph.op("Add", graph.op("Mul", value, cos), graph.op("Mul", turned, sin))

    return apply


def by_operator(opset: int, half: int = HALF) -> Change:
    def apply(graph: Graph, value: str) -> str:
        cos, sin = (part_of_table(graph, table, half) for table in tables(graph, 2))
        if opset >= 23:
            x = graph.inputs[0].name
            ids = graph.expand(graph.unsqueeze(graph.positions(graph.dim(x, 1)), 0), (x, 0), (x, 1))
            return graph.op("RotaryEmbedding", value, cos, sin, ids)
        return graph.op("RotaryEmbedding", value, graph.ints(0), cos, sin, domain=CONTRIB)

    return apply


def part_of_table(graph: Graph, table: str, half: int) -> str:
    return graph.op("Slice", table, graph.ints(0), graph.ints(half), graph.ints(1))


def normalise(graph: Graph, value: str) -> str:
    """RMSNorm, as Gemma 3 and Qwen 3 have it."""
    squares = graph.op("Pow", value, graph.constant(2, np.float32))
    mean = graph.op("ReduceMean", squares, graph.ints(-1), keepdims=1)
    root = graph.op("Sqrt", graph.op("Add", mean, graph.constant(1e-6, np.float32)))
    weight = graph.constant(np.linspace(0.5, 1.5, SIZE), np.float32)
    return graph.op("Mul", graph.op("Mul", value, graph.op("Reciprocal", root)), weight)


def rotate_a_part(graph: Graph, value: str) -> str:
    """GPT-NeoX turns some features and passes the others."""
    passed = part(graph, value, HALF, SIZE)
    rotated = by_operator(18, HALF // 2)(graph, part(graph, value, 0, HALF))
    return graph.op("Concat", rotated, passed, axis=-1)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_rope_of_primitive_operators_stays_by_head(rank):
    """Its tables by rows would broadcast between rows and features, which costs as much as the Transposes."""
    fused = assert_fused(attention(on_q=rotate(rank), on_k=rotate(rank), keys="rows"))
    assert fused.op_types.count("Transpose") == 4


@pytest.mark.parametrize("opset", [18, 23])
def test_rope_as_an_operator(opset):
    fused = assert_fused(attention(opset=opset, on_q=by_operator(opset), on_k=by_operator(opset)))
    assert "Transpose" not in fused.op_types
    assert fused.attributes["q_num_heads"] == HEADS
    assert fused.op_types.count("RotaryEmbedding") == 2


@pytest.mark.parametrize("change", [normalise, rotate_a_part])
def test_norms_and_features_that_pass(change):
    fused = assert_fused(attention(on_q=change, on_k=change))
    assert "Transpose" not in fused.op_types


def test_grouped_heads():
    fused = assert_fused(attention(on_q=by_operator(18), on_k=by_operator(18), kv_heads=2))
    assert "Transpose" not in fused.op_types
    assert fused.attributes["kv_num_heads"] == 2


def test_q_k_and_v_out_of_one_tensor_after_the_transpose():
    """GPT-NeoX: Split by features, then RoPE on two of the three."""
    graph = Graph()
    packed = graph.input("qkv", np.float32, ("batch", "rows", 3 * WIDTH))
    q, k, v = graph.ops(3, "Split", split_heads(graph, packed), axis=3, num_outputs=3)
    q, k = (by_operator(18)(graph, value) for value in (q, k))
    scores = times(SIZE**-0.5)(graph, graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)))
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    graph.outputs.append(join_heads(graph, y))
    assert "Transpose" not in assert_fused(graph).op_types


def test_a_rotated_key_that_is_wanted_stays_as_it_is():
    """A model that returns its keys needs them by head."""
    graph = attention(on_k=by_operator(18), on_y=same)
    graph.outputs.append(next(node.output[0] for node in graph.nodes if node.op_type == "RotaryEmbedding"))
    fused = assert_fused(graph, SIZES)
    assert fused.op_types.count("RotaryEmbedding") == 1


def test_what_mixes_heads_stays_where_it_is():
    def mixed(graph: Graph, value: str) -> str:
        return graph.op("Mul", value, graph.op("ReduceMean", value, graph.ints(1), keepdims=1))

    fused = assert_fused(attention(on_k=mixed))
    assert "Transpose" in fused.op_types
