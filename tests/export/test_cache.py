"""KV caches: Concat of past and new keys around a site."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.forms import (
    HEADS,
    SIZE,
    WIDTH,
    Change,
    assert_fused,
    join_heads,
    repeat_heads,
    same,
    split_heads,
    times,
)
from tests.export.graphs import Graph

SIZES = ({"batch": 2, "rows": 6, "past": 4}, {"batch": 1, "rows": 1, "past": 30}, {"batch": 3, "rows": 5, "past": 0})


def cached(
    kv_heads: int = HEADS,
    *,
    new: str = "rows",
    axis: int = 2,
    with_presents: bool = True,
    on_scores: Change = same,
) -> Graph:
    """Causal attention of `rows` queries on `past` and `new` keys; outputs y and the grown caches."""
    graph = Graph()
    q = split_heads(graph, graph.input("q", np.float32, ("batch", "rows", WIDTH)))
    grown = []
    for name in ("k", "v"):
        fresh = split_heads(graph, graph.input(name, np.float32, ("batch", new, kv_heads * SIZE)), kv_heads)
        past = graph.input(f"past_{name}", np.float32, ("batch", kv_heads, "past", SIZE))
        grown.append(graph.op("Concat", past, fresh, axis=axis))
    key, value = (repeat_heads(graph, each, kv_heads) if kv_heads != HEADS else each for each in grown)
    scores = times(SIZE**-0.5)(graph, graph.op("MatMul", q, graph.transpose(key, 0, 1, 3, 2)))
    y = graph.op("MatMul", graph.op("Softmax", causal(graph, on_scores(graph, scores)), axis=-1), value)
    graph.outputs += [join_heads(graph, y), *(grown if with_presents else [])]
    return graph


def causal(graph: Graph, scores: str) -> str:
    """Row i sees keys up to i + the number of keys that are not queries."""
    rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
    past = graph.op("Sub", graph.dim(scores, 3), graph.dim(scores, 2))
    allowed = graph.op("LessOrEqual", keys, graph.unsqueeze(graph.op("Add", rows, past), 1))
    return graph.op("Where", allowed, scores, graph.constant(-np.inf, np.float32))


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_past_and_present(kv_heads):
    fused = assert_fused(cached(kv_heads), SIZES)
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["is_causal"] == 1
    assert list(fused.node.input[4:6]) == ["past_k", "past_v"]
    assert list(fused.node.output[1:]) == [output.name for output in fused.model.graph.output[1:]]


def test_presents_that_nobody_wants_are_not_made():
    fused = assert_fused(cached(with_presents=False), SIZES)
    assert len(fused.node.output) == 1


def test_more_new_keys_than_queries_are_no_cache():
    """The op would count its queries from the first new key."""
    sizes = ({"batch": 2, "rows": 3, "past": 4, "new": 7},)
    fused = assert_fused(cached(new="new"), sizes)
    assert len(fused.node.input) < 5 or not fused.node.input[4]
    assert fused.op_types.count("Concat") == 2


def test_heads_appended_are_no_cache():
    """Concat of other heads, not of other keys."""
    graph = Graph()
    q, k, v = (split_heads(graph, graph.input(name, np.float32, ("batch", "rows", WIDTH))) for name in "qkv")
    key, value = (
        graph.op("Concat", graph.input(f"more_{name}", np.float32, ("batch", 2, "rows", SIZE)), each, axis=1)
        for name, each in (("k", k), ("v", v))
    )
    query = graph.op("Concat", graph.input("more_q", np.float32, ("batch", 2, "rows", SIZE)), q, axis=1)
    scores = graph.op("MatMul", query, graph.transpose(key, 0, 1, 3, 2))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value))
    fused = assert_fused(graph)
    assert fused.op_types.count("Concat") == 3


def test_a_cache_of_a_shorter_type_than_the_output_stays_beside_the_op():
    """The op has one type: float32 where a mask has widened the scores, while the cache is of half precision."""
    graph = Graph()
    q, *fresh = (graph.input(name, np.float16, ("batch", HEADS, "rows", SIZE)) for name in "qkv")
    past = [graph.input(f"past_{name}", np.float16, ("batch", HEADS, "past", SIZE)) for name in "kv"]
    key, value = (graph.op("Concat", old, new, axis=2) for old, new in zip(past, fresh, strict=True))
    product = graph.op("MatMul", q, graph.transpose(key, 0, 1, 3, 2))
    scores = causal(graph, times(SIZE**-0.5)(graph, graph.cast(product, np.float32)))
    probabilities = graph.op("Softmax", scores, axis=-1)
    graph.outputs.append(join_heads(graph, graph.op("MatMul", probabilities, graph.cast(value, np.float32))))
    fused = assert_fused(graph, SIZES, tolerance=1e-2)
    assert fused.op_types.count("Concat") == 2
