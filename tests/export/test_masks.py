"""Masks by meaning: however they are spelled, they end up in attributes, or in a mask as small as it can be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.forms import HEADS, Change, assert_fused, attention, times
from tests.export.graphs import Graph

LOWEST = float(np.finfo(np.float32).min)


def distance(graph: Graph, scores: str) -> str:
    """Key position less query position, (rows, keys)."""
    rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
    return graph.op("Sub", keys, graph.unsqueeze(rows, 1))


def at_most(limit: int) -> Change:
    return lambda graph, scores: graph.op("LessOrEqual", distance(graph, scores), graph.constant(limit, np.int64))


def window(left: int, right: int) -> Change:
    def allowed(graph: Graph, scores: str) -> str:
        near = graph.op("GreaterOrEqual", distance(graph, scores), graph.constant(-left, np.int64))
        return graph.op("And", near, at_most(right)(graph, scores))

    return allowed


def padding(graph: Graph, scores: str) -> str:
    """attention_mask as a bool of (batch, 1, 1, keys)."""
    mask = graph.input("attention_mask", np.int64, ("batch", "rows"), integers=(0, 1), is_padding=True)
    return graph.unsqueeze(graph.cast(mask, np.bool_), 1, 2)


def both(first: Change, second: Change) -> Change:
    return lambda graph, scores: graph.op("And", first(graph, scores), second(graph, scores))


def by_addition(allowed: Change, fill: float) -> Change:
    def masked(graph: Graph, scores: str) -> str:
        zero, excluded = graph.constant(0.0, np.float32), graph.constant(fill, np.float32)
        bias = graph.op("Where", allowed(graph, scores), zero, excluded)
        return graph.op("Add", times(0.4)(graph, scores), bias)

    return masked


def by_replacement(allowed: Change, fill: float) -> Change:
    def masked(graph: Graph, scores: str) -> str:
        scaled = times(0.4)(graph, scores)
        return graph.op("Where", allowed(graph, scores), scaled, graph.constant(fill, np.float32))

    return masked


SPELLINGS = {"added lowest": (by_addition, LOWEST), "added infinity": (by_addition, -np.inf)}
SPELLINGS |= {"replaced lowest": (by_replacement, LOWEST), "replaced infinity": (by_replacement, -np.inf)}


@pytest.fixture(params=SPELLINGS)
def spell(request):
    spelling, fill = SPELLINGS[request.param]
    return lambda allowed: spelling(allowed, fill)


def test_causal(spell):
    fused = assert_fused(attention(on_scores=spell(at_most(0))))
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["is_causal"] == 1
    assert fused.site.mask == "causal"


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 0), (2, 5)])
def test_window(spell, left, right):
    fused = assert_fused(attention(on_scores=spell(window(left, right))))
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["left_window_size"] == left
    assert fused.attributes.get("right_window_size", 0) == right


def test_window_wider_than_any_size_looked_at():
    sizes = ({"batch": 1, "rows": 150}, {"batch": 2, "rows": 9})
    fused = assert_fused(attention(on_scores=by_addition(window(99, 0), LOWEST)), sizes)
    assert fused.attributes["left_window_size"] == 99
    assert fused.attributes["is_causal"] == 1


def test_padding(spell):
    fused = assert_fused(attention(on_scores=spell(padding)))
    assert fused.site.mask == "padding"
    assert fused.node.input[3]
    assert "Softmax" not in fused.op_types


def test_padding_expanded_to_all_rows_is_passed_small():
    def expanded(graph: Graph, scores: str) -> str:
        return graph.expand(padding(graph, scores), (scores, 0), 1, (scores, 2), (scores, 3))

    fused = assert_fused(attention(on_scores=by_addition(expanded, LOWEST)))
    assert fused.site.mask == "padding"
    assert "Expand" not in fused.op_types


def test_causal_and_padding(spell):
    fused = assert_fused(attention(on_scores=spell(both(at_most(0), padding))))
    assert fused.site.mask == "causal + padding"
    assert fused.attributes["is_causal"] == 1
    assert "LessOrEqual" not in fused.op_types


def test_window_and_padding(spell):
    fused = assert_fused(attention(on_scores=spell(both(window(3, 0), padding))))
    assert fused.site.mask == "causal window of 4 + padding"


def test_two_masks_of_different_kinds():
    def masked(graph: Graph, scores: str) -> str:
        return by_addition(padding, LOWEST)(graph, by_replacement(at_most(0), -np.inf)(graph, scores))

    fused = assert_fused(attention(on_scores=masked))
    assert fused.site.mask == "causal + padding"


def test_a_mask_that_allows_everything_goes_away(spell):
    fused = assert_fused(attention(on_scores=spell(at_most(10**9))))
    assert fused.op_types == ["FlashAttention"]
    assert len(fused.node.input) == 3


def test_bias_is_passed_as_it_is():
    def biased(graph: Graph, scores: str) -> str:
        return graph.op("Add", scores, graph.input("bias", np.float32, (HEADS, "rows", "rows")))

    fused = assert_fused(attention(on_scores=biased))
    assert fused.site.mask == "bias"


def test_bias_and_padding():
    def masked(graph: Graph, scores: str) -> str:
        biased = graph.op("Add", scores, graph.input("bias", np.float32, (1, HEADS, "rows", "rows")))
        return by_addition(padding, LOWEST)(graph, biased)

    assert assert_fused(attention(on_scores=masked)).site.mask == "padding + bias"


def test_bias_before_the_scale_is_scaled():
    def biased(graph: Graph, scores: str) -> str:
        bias = graph.input("bias", np.float32, ("batch", 1, 1, "rows"))
        return times(0.4)(graph, graph.op("Add", scores, bias))

    assert_fused(attention(on_scores=biased))


def test_a_stored_causal_table_is_an_attribute():
    def table(graph: Graph, scores: str) -> str:
        stored = graph.constant(np.tril(np.ones((1, 1, 200, 200))), np.bool_)
        length = graph.unsqueeze(graph.dim(scores, 2), 0)
        rows = graph.op("Slice", stored, graph.ints(0), length, graph.ints(2))
        return graph.op("Slice", rows, graph.ints(0), length, graph.ints(3))

    fused = assert_fused(attention(on_scores=by_replacement(table, LOWEST)))
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["is_causal"] == 1


def test_a_stored_table_that_is_causal_only_at_first_is_kept():
    matrix = np.tril(np.ones((1, 1, 200, 200)))
    matrix[..., 60:, :10] = 0

    def table(graph: Graph, scores: str) -> str:
        stored = graph.constant(matrix, np.bool_)
        length = graph.unsqueeze(graph.dim(scores, 2), 0)
        rows = graph.op("Slice", stored, graph.ints(0), length, graph.ints(2))
        return graph.op("Slice", rows, graph.ints(0), length, graph.ints(3))

    fused = assert_fused(attention(on_scores=by_replacement(table, LOWEST)))
    assert "is_causal" not in fused.attributes
    assert fused.site.mask == "mask"


def test_causal_from_the_end_of_more_keys_than_queries():
    def allowed(graph: Graph, scores: str) -> str:
        more = graph.op("Sub", graph.dim(scores, 3), graph.dim(scores, 2))
        return graph.op("LessOrEqual", distance(graph, scores), more)

    fused = assert_fused(attention(on_scores=by_replacement(allowed, -np.inf), keys="keys"))
    assert fused.site.mask == "causal"
    assert fused.node.input[6]  # nonpad_kv_seqlen: counts from the end


def test_causal_from_the_start_of_more_keys_than_queries():
    fused = assert_fused(attention(on_scores=by_replacement(at_most(0), -np.inf), keys="keys"))
    assert len(fused.node.input) == 3


def test_causal_but_for_one_key_is_kept():
    fused = assert_fused(attention(on_scores=by_replacement(at_most(1), LOWEST)))
    assert fused.attributes["right_window_size"] == 1
    assert "is_causal" not in fused.attributes


def test_a_mask_of_every_other_key_is_kept():
    def even(graph: Graph, scores: str) -> str:
        remainder = graph.op("Mod", distance(graph, scores), graph.constant(2, np.int64))
        return graph.op("Equal", remainder, graph.constant(0, np.int64))

    assert assert_fused(attention(on_scores=by_replacement(even, LOWEST))).site.mask == "mask"


def test_bias_put_together_by_the_parts_of_rows_and_keys():
    """Decomposed relative positions (SAM): one bias for the height, one for the width, joined by a Reshape."""
    graph = Graph()
    q, k, v = (graph.reshape(graph.input(name, np.float32, ("batch", 4, 6, 8)), -1, 6, 8) for name in "qkv")
    image = graph.reshape(q, 0, 2, 3, 8)
    generator = np.random.default_rng(0)
    heights, widths = (graph.constant(generator.standard_normal((n, n, 8)), np.float32) for n in (2, 3))
    by_height = graph.unsqueeze(graph.op("Einsum", image, heights, equation="bhwc,hkc->bhwk"), 4)
    by_width = graph.unsqueeze(graph.op("Einsum", image, widths, equation="bhwc,wkc->bhwk"), 3)
    bias = graph.reshape(graph.op("Add", by_height, by_width), -1, 6, 6)
    scores = graph.op("Add", graph.op("MatMul", q, graph.transpose(k, 0, 2, 1)), bias)
    product = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    graph.outputs.append(graph.reshape(graph.transpose(graph.reshape(product, -1, 4, 6, 8), 0, 2, 1, 3), 0, 6, 32))
    assert assert_fused(graph, ({"batch": 2}, {"batch": 4})).site.mask == "bias"
