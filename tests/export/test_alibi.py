"""ALiBi is passed as slopes where it is ALiBi at every size and for all data, and stays a bias where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.forms import HEADS, Change, Fused, assert_fused, attention
from tests.export.graphs import Graph
from tests.export.test_cache import SIZES as CACHE_SIZES
from tests.export.test_cache import cached

SLOPES = 2.0 ** -np.arange(1, HEADS + 1)


def positions(graph: Graph, scores: str, axis: int) -> str:
    """0, 1, … along that axis, as float and as wide as the scores' rank needs."""
    numbers = graph.cast(graph.positions(graph.dim(scores, axis)), np.float32)
    return graph.unsqueeze(numbers, 1) if axis == 2 else numbers


def slopes(graph: Graph) -> str:
    return graph.constant(SLOPES.reshape(HEADS, 1, 1), np.float32)


def two_sided(graph: Graph, scores: str) -> str:
    """-slope · |i - j|"""
    apart = graph.op("Abs", graph.op("Sub", positions(graph, scores, 2), positions(graph, scores, 3)))
    return graph.op("Add", scores, graph.op("Neg", graph.op("Mul", apart, slopes(graph))))


def by_key(graph: Graph, scores: str) -> str:
    """slope · j, as Bloom has it."""
    return graph.op("Add", scores, graph.op("Mul", slopes(graph), positions(graph, scores, 3)))


def by_table(graph: Graph, scores: str, *, kink: int = 0) -> str:
    """slope · (j - 127), cut from the end of a stored table, as MPT has it; beyond `kink` it stays as it is."""
    numbers = np.maximum(np.arange(-127.0, 1), -127.0 + kink)
    table = graph.constant((SLOPES[:, None] * numbers).reshape(HEADS, 1, 128), np.float32)
    start = graph.op("Sub", graph.constant(128, np.int64), graph.dim(scores, 3))
    start = graph.op("Unsqueeze", start, graph.ints(0))
    return graph.op("Add", scores, graph.op("Slice", table, start, graph.ints(2**31 - 1), graph.ints(2)))


def causal(fill: float = -np.inf) -> Change:
    def apply(graph: Graph, scores: str) -> str:
        rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
        past = graph.op("Sub", graph.dim(scores, 3), graph.dim(scores, 2))
        allowed = graph.op("LessOrEqual", keys, graph.unsqueeze(graph.op("Add", rows, past), 1))
        return graph.op("Where", allowed, scores, graph.constant(fill, np.float32))

    return apply


def padded(graph: Graph, scores: str) -> str:
    mask = graph.input("mask", np.int64, ("batch", "rows"), integers=(0, 1), is_padding=True)
    keep = graph.unsqueeze(graph.cast(mask, np.bool_), 1, 2)
    return graph.op("Where", keep, scores, graph.constant(-3.0e38, np.float32))


def chain(*changes: Change) -> Change:
    def apply(graph: Graph, scores: str) -> str:
        for change in changes:
            scores = change(graph, scores)
        return scores

    return apply


def assert_slopes(fused: Fused) -> None:
    assert "ALiBi" in fused.site.mask
    (found,) = (weight for weight in fused.model.graph.initializer if weight.name == fused.node.input[8])
    np.testing.assert_array_equal(np.frombuffer(found.raw_data, np.float32), SLOPES.astype(np.float32))


def assert_bias(graph: Graph, sizes: tuple = ()) -> None:
    fused = assert_fused(graph, sizes) if sizes else assert_fused(graph)
    assert "ALiBi" not in fused.site.mask
    assert len(fused.node.input) <= 8


def test_by_distance():
    fused = assert_fused(attention(on_scores=two_sided))
    assert_slopes(fused)
    assert fused.op_types == ["FlashAttention"]


@pytest.mark.parametrize("form", [by_key, by_table])
def test_by_key_before_a_causal_mask(form):
    """It differs from the op's by a number for each row, which a softmax does not see."""
    fused = assert_fused(attention(on_scores=chain(form, causal())))
    assert_slopes(fused)
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes["is_causal"] == 1


def test_with_causal_and_padding_masks_of_a_finite_number():
    """Rows without a key come out as in the file."""
    fused = assert_fused(attention(on_scores=chain(by_key, causal(-3.0e38), padded)))
    assert_slopes(fused)
    assert fused.attributes["is_causal"] == 1


def test_with_a_cache():
    """Queries are the last rows: distances count from the past."""
    assert_slopes(assert_fused(cached(on_scores=by_key), CACHE_SIZES))


def test_with_more_keys_than_queries():
    """The op counts distances from the end only if it is told to."""
    assert_slopes(assert_fused(attention(keys="keys", on_scores=chain(by_key, causal()))))


def test_by_key_without_a_causal_mask_stays_a_bias():
    assert_bias(attention(on_scores=by_key))


def test_by_key_with_sinks_stays_a_bias():
    """A sink sees the number that is left over in each row."""

    def with_sink(graph: Graph, scores: str) -> str:
        column = graph.constant(np.linspace(-1, 1, HEADS).reshape(1, HEADS, 1, 1), np.float32)
        column = graph.expand(column, (scores, 0), 1, (scores, 2), 1)
        return graph.op("Concat", scores, column, axis=-1)

    def without_sink(graph: Graph, probabilities: str) -> str:
        return graph.op("Slice", probabilities, graph.ints(0), graph.ints(-1), graph.ints(3))

    assert_bias(attention(on_scores=chain(by_key, causal(), with_sink), on_probabilities=without_sink))


def test_positions_that_data_count_stay_a_bias():
    """Bloom counts the keys that attention_mask leaves: with holes that is no distance."""

    def counted(graph: Graph, scores: str) -> str:
        mask = graph.input("mask", np.int64, ("batch", "rows"), integers=(0, 1), is_padding=True)
        numbers = graph.cast(graph.op("CumSum", mask, graph.constant(1, np.int64)), np.float32)
        return graph.op("Add", scores, graph.op("Mul", slopes(graph), graph.unsqueeze(numbers, 1, 2)))

    assert_bias(attention(on_scores=chain(counted, causal())))


def test_distances_that_are_clipped_further_on_stay_a_bias():
    """No sampled size is as long as where the clipping begins."""

    def clipped(graph: Graph, scores: str) -> str:
        apart = graph.op("Abs", graph.op("Sub", positions(graph, scores, 2), positions(graph, scores, 3)))
        apart = graph.op("Min", apart, graph.constant(60, np.float32))
        return graph.op("Sub", scores, graph.op("Mul", apart, slopes(graph)))

    assert_bias(attention(on_scores=clipped))


def test_distance_from_one_key_stays_a_bias():
    """|j - 60| falls evenly up to the sampled sizes, and rises beyond."""

    def from_one(graph: Graph, scores: str) -> str:
        apart = graph.op("Abs", graph.op("Sub", positions(graph, scores, 3), graph.constant(60, np.float32)))
        return graph.op("Sub", scores, graph.op("Mul", apart, slopes(graph)))

    assert_bias(attention(on_scores=chain(from_one, causal())))


def test_tables_that_bend_further_on_stay_a_bias():
    def bent(graph: Graph, scores: str) -> str:
        return by_table(graph, scores, kink=60)

    assert_bias(attention(on_scores=chain(bent, causal())))


def test_a_bias_that_moves_with_the_row_by_more_than_a_number_stays_a_bias():
    def squared(graph: Graph, scores: str) -> str:
        numbers = positions(graph, scores, 3)
        return graph.op("Add", scores, graph.op("Mul", slopes(graph), graph.op("Mul", numbers, numbers)))

    assert_bias(attention(on_scores=chain(squared, causal())))
