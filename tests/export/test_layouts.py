"""Layouts of Q, K, V and the output: whatever moves elements around the op goes away where it can."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import flashonnx.fusion
from tests.export.forms import HEADS, SIZE, WIDTH, assert_fused, assert_left_alone, attention, same, split_heads, times
from tests.export.graphs import Graph


def packed(take) -> Graph:
    """Q, K and V out of one product; take(graph, product) gives the three, each (batch, head, row, feature)."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "rows", 16))
    weight = np.random.default_rng(0).standard_normal((16, 3 * WIDTH)) / 4
    q, k, v = take(graph, graph.op("MatMul", x, graph.constant(weight, np.float32)))
    scores = times(SIZE**-0.5)(graph, graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)))
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    graph.outputs.append(graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH))
    return graph


def split_first(graph: Graph, product: str) -> list[str]:
    parts = graph.ops(3, "Split", product, axis=2, num_outputs=3)
    return [split_heads(graph, part) for part in parts]


def split_last(graph: Graph, product: str) -> list[str]:
    """As vision models do: (3, batch, head, row, feature), then one of three."""
    moved = graph.transpose(graph.reshape(product, 0, 0, 3, HEADS, SIZE), 2, 0, 3, 1, 4)
    return [graph.op("Gather", moved, graph.constant(index, np.int64), axis=0) for index in range(3)]


def test_heads_are_split_and_joined_by_the_op():
    assert assert_fused(attention()).op_types == ["FlashAttention"]


def test_k_transposed_in_one_go():
    graph = Graph()
    q, k, v = (graph.input(name, np.float32, ("batch", "rows", WIDTH)) for name in "qkv")
    key = graph.transpose(graph.reshape(k, 0, 0, HEADS, SIZE), 0, 2, 3, 1)
    scores = times(SIZE**-0.5)(graph, graph.op("MatMul", split_heads(graph, q), key))
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), split_heads(graph, v))
    graph.outputs.append(graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH))
    assert assert_fused(graph).op_types == ["FlashAttention"]


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_are_not_repeated(kv_heads):
    fused = assert_fused(attention(kv_heads=kv_heads))
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["kv_num_heads"] == kv_heads
    assert fused.attributes["q_num_heads"] == HEADS


def test_heads_tiled_in_the_other_order_are_not_grouped():
    """Query head h reads key head h % 2, which grouped heads cannot say: K and V stay repeated."""

    def tiled(graph: Graph, value: str) -> str:
        return graph.op("Tile", value, graph.ints(1, 2, 1, 1))

    graph = Graph()
    q = graph.input("q", np.float32, ("batch", "rows", WIDTH))
    k, v = (graph.input(name, np.float32, ("batch", "rows", 2 * SIZE)) for name in "kv")
    key, value = (tiled(graph, split_heads(graph, each, 2)) for each in (k, v))
    scores = graph.op("MatMul", split_heads(graph, q), graph.transpose(key, 0, 1, 3, 2))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value))
    fused = assert_fused(graph)
    assert fused.op_types.count("Tile") == 2


def test_one_key_head_by_broadcasting():
    graph = Graph()
    q = graph.input("q", np.float32, ("batch", "rows", WIDTH))
    k, v = (graph.input(name, np.float32, ("batch", "rows", SIZE)) for name in "kv")
    key, value = (graph.unsqueeze(each, 1) for each in (k, v))
    scores = graph.op("MatMul", split_heads(graph, q), graph.transpose(key, 0, 1, 3, 2))
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    graph.outputs.append(graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH))
    fused = assert_fused(graph)
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["kv_num_heads"] == 1


def test_packed_and_split_stays_one_product():
    assert assert_fused(packed(split_first)).op_types == ["FlashAttention", "MatMul", "Split"]


def test_packed_and_split_after_the_transpose():
    fused = assert_fused(packed(split_last))
    assert fused.op_types == ["FlashAttention", "MatMul", "Slice", "Slice", "Slice"]


def test_heads_folded_into_the_batch():
    """As bmm wants them, and nn.MultiheadAttention with weights."""
    graph = Graph()
    inputs = [graph.input(name, np.float32, ("batch", "rows", WIDTH)) for name in "qkv"]
    q, k, v = (graph.reshape(split_heads(graph, value), -1, (value, 1), SIZE) for value in inputs)
    scores = times(SIZE**-0.5)(graph, graph.op("MatMul", q, graph.transpose(k, 0, 2, 1)))
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    y = graph.reshape(y, -1, HEADS, (inputs[0], 1), SIZE)
    graph.outputs.append(graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH))
    assert assert_fused(graph).op_types == ["FlashAttention"]


def test_einsum_without_transposes():
    graph = Graph()
    q, k, v = (
        graph.reshape(graph.input(name, np.float32, ("batch", "rows", WIDTH)), 0, 0, HEADS, SIZE) for name in "qkv"
    )
    scores = graph.op("Einsum", q, k, equation="bihd,bjhd->bhij")
    y = graph.op("Einsum", graph.op("Softmax", scores, axis=-1), v, equation="bhij,bjhd->bihd")
    graph.outputs.append(graph.reshape(y, 0, 0, WIDTH))
    assert assert_fused(graph).op_types == ["FlashAttention"]


def test_inputs_that_have_heads_already_stay_rank_4():
    graph = Graph()
    q, k, v = (graph.input(name, np.float32, ("batch", HEADS, "rows", SIZE)) for name in "qkv")
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v))
    fused = assert_fused(graph)
    assert fused.op_types == ["FlashAttention"]
    assert "q_num_heads" not in fused.attributes


def test_a_value_read_twice_keeps_its_other_reader():
    graph = attention(on_y=same)
    y = graph.outputs[0]
    graph.outputs[:] = [graph.transpose(y, 0, 2, 1, 3), graph.op("Neg", y)]
    assert_fused(graph)


def test_values_multiplied_over_rows_are_left_alone():
    """Pᵀ·V: the probabilities' rows are summed over, not their keys."""
    graph = attention(on_probabilities=lambda g, p: g.transpose(p, 0, 1, 3, 2))
    assert_left_alone(graph, "does not sum over the keys", "MatMul")


def test_equal_sizes_do_not_confuse():
    """Batch, heads, rows and features all 4, and K wrongly transposed: still told apart by what the nodes do."""
    graph = Graph()
    q, k, v = (graph.input(name, np.float32, (4, 4, 4, 4)) for name in "qkv")
    scores = graph.op("MatMul", q, k)  # K not transposed: it is Kᵀ then, which is as good a K as any
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v))
    assert assert_fused(graph, ({},)).op_types == ["FlashAttention", "Transpose"]


def test_names_of_outputs_stay():
    graph = attention()
    model = graph.model()
    fused = flashonnx.fusion.fuse(model).model
    assert [output.name for output in fused.graph.output] == [output.name for output in model.graph.output]


def test_opset_13_to_25_and_the_checker():
    for opset in (13, 17, 18, 21, 23, 25):
        fused = assert_fused(attention(opset=opset))
        assert onnx.helper.get_node_attr_value(fused.node, "q_num_heads") == HEADS
