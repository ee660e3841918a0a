"""Nodes that are an attention by themselves are lowered like any other; com.microsoft's in test_native_contrib.py."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import flashonnx.fusion
from tests.export.forms import (
    HEADS,
    SIZE,
    WIDTH,
    assert_fused,
    complete,
    fuse,
    join_heads,
    repeat_heads,
    split_heads,
)
from tests.export.graphs import Graph


def inputs(graph: Graph, kv_heads: int = HEADS, keys: str = "rows") -> list[str]:
    q = graph.input("q", np.float32, ("batch", "rows", WIDTH))
    return [q, *(graph.input(name, np.float32, ("batch", keys, kv_heads * SIZE)) for name in "kv")]


def cache(graph: Graph, heads: int = HEADS) -> list[str]:
    return [graph.input(name, np.float32, ("batch", heads, "past", SIZE)) for name in ("past_key", "past_value")]


CACHE_SIZES = ({"batch": 2, "rows": 6, "past": 4}, {"batch": 1, "rows": 1, "past": 30})


@pytest.mark.parametrize("opset", [23, 24])
def test_attention_of_rank_4_between_transposes(opset):
    graph = Graph(opset)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    graph.outputs.append(join_heads(graph, graph.op("Attention", q, k, v, is_causal=1)))
    fused = assert_fused(graph)
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["is_causal"] == 1
    assert fused.attributes["q_num_heads"] == HEADS


def test_attention_of_rank_3():
    graph = Graph(23)
    q, k, v = inputs(graph, kv_heads=2)
    graph.outputs.append(graph.op("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=2, scale=0.3, softcap=5.0))
    fused = assert_fused(graph)
    assert fused.attributes["kv_num_heads"] == 2
    assert fused.attributes["softcap"] == pytest.approx(5.0)


def test_attention_with_repeated_heads_gets_them_grouped():
    graph = Graph(23)
    q, k, v = inputs(graph, kv_heads=2)
    key, value = (repeat_heads(graph, split_heads(graph, each, 2), 2) for each in (k, v))
    graph.outputs.append(join_heads(graph, graph.op("Attention", split_heads(graph, q), key, value)))
    fused = assert_fused(graph)
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["kv_num_heads"] == 2


def test_attention_with_a_mask_by_value():
    graph = Graph(23)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    mask = graph.cast(graph.input("mask", np.int64, ("batch", "rows"), integers=(0, 1), is_padding=True), np.bool_)
    mask = graph.expand(graph.unsqueeze(mask, 1, 2), (mask, 0), 1, (mask, 1), (mask, 1))
    graph.outputs.append(join_heads(graph, graph.op("Attention", q, k, v, mask)))
    fused = assert_fused(graph)
    assert fused.site.mask == "padding"
    assert "Expand" not in fused.op_types


def test_attention_with_a_cache():
    graph = Graph(23)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    past_key, past_value = cache(graph)
    y, key, value = graph.ops(3, "Attention", q, k, v, "", past_key, past_value, is_causal=1)
    graph.outputs += [join_heads(graph, y), key, value]
    fused = assert_fused(graph, CACHE_SIZES)
    assert len(fused.node.output) == 3
    assert flashonnx.fusion.fuse(graph.model()).report.verification.startswith("equal")


def test_attention_whose_scores_are_wanted_is_left_alone():
    graph = Graph(23)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    y, _, _, scores = graph.ops(4, "Attention", q, k, v)
    graph.outputs += [y, scores]
    fused = fuse(complete(graph))
    assert not fused.site.fused
    assert "qk_matmul_output" in fused.site.reason


def test_windows_and_lengths():
    graph = Graph(25)
    q, k, v = inputs(graph, keys="keys")
    lengths = graph.input("lengths", np.int64, ("batch",), integers=(0, 1, 5, 9))
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    windows = {"left_window_size": 3, "right_window_size": 2}
    graph.outputs.append(graph.op("Attention", q, k, v, "", "", "", lengths, **heads, **windows))
    fused = assert_fused(graph)
    assert fused.attributes["left_window_size"] == 3
    assert fused.attributes["right_window_size"] == 2
    assert len(fused.node.input) == 7


def test_a_mask_for_the_first_keys_only_is_left_alone():
    graph = Graph(24)
    q, k, v = (graph.input(name, np.float32, (2, HEADS, 5, SIZE)) for name in "qkv")
    graph.outputs.append(graph.op("Attention", q, k, v, graph.input("mask", np.bool_, (5, 3))))
    fused = fuse(complete(graph))
    assert not fused.site.fused
    assert "shorter than the keys" in fused.site.reason


def test_a_past_key_without_a_past_value_is_left_alone():
    graph = Graph(23)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    graph.outputs.append(graph.op("Attention", q, k, v, "", cache(graph)[0]))
    fused = fuse(graph.model())
    assert not fused.site.fused
    assert "without a past value" in fused.site.reason


@pytest.mark.parametrize("kind", ["sinks", "lse"])
def test_the_op_itself_is_left_alone_where_it_has_more_than_onnx(kind):
    graph = Graph(23)
    q, k, v = (split_heads(graph, value) for value in inputs(graph))
    more = ["", "", "", "", graph.constant(np.zeros(HEADS), np.float32)] if kind == "sinks" else []
    outputs = graph.ops(5, "FlashAttention", q, k, v, *more, domain="flashonnx")
    graph.outputs += [outputs[0], outputs[4]] if kind == "lse" else outputs[:1]
    model = graph.model()
    model.opset_import.append(onnx.helper.make_opsetid("flashonnx", 1))
    fused = fuse(model)
    assert not fused.site.fused
    assert kind in fused.site.reason
