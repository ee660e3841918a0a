"""Rows that lose all their keys, at sizes and with data that the pass never looks at: as in the file, or not fused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flashonnx
from flashonnx.fusion import fuse
from flashonnx.fusion.report import Site
from flashonnx.fusion.run import run_model
from tests.export.forms import attention
from tests.export.graphs import PADDINGS, Graph

Mask = Callable[[Graph, str], str]
LOWEST = float(np.finfo(np.float32).min)
TABLE = 120


def check(graph: Graph, *sizes: tuple[int, int], excluded: float = LOWEST, dtype: type = np.float32) -> Site:
    """Fuses without verification, and compares at these (rows, keys). excluded: what a float mask excludes with."""
    model = graph.model(output_dtype=dtype)
    result = fuse(model, verify=False)
    feeds = []
    for rows, keys in sizes:
        for padding in PADDINGS:
            feeds.append(graph.feeds({"batch": 2, "rows": rows, "keys": keys}, padding, seed=rows))
            if "float_mask" in feeds[-1]:
                feeds[-1]["float_mask"] = np.where(np.arange(keys) < keys // 2, np.float32(excluded), 0)[None]
                feeds[-1]["float_mask"] = np.repeat(feeds[-1]["float_mask"], rows, axis=0).astype(np.float32)
    for old, new in zip(run_model(model, feeds), run_model(result.model, feeds), strict=True):
        known = ~np.isnan(old[0])
        # A score to which -1e4 is added keeps three decimals.
        np.testing.assert_allclose(new[0][known], old[0][known], rtol=2e-3, atol=2e-3)
    return result.report.sites[0]


def added(allowed: Mask, fill: float) -> Mask:
    def masked(graph: Graph, scores: str) -> str:
        zero, excluded = graph.constant(0.0, np.float32), graph.constant(fill, np.float32)
        return graph.op("Add", scores, graph.op("Where", allowed(graph, scores), zero, excluded))

    return masked


def replaced(allowed: Mask, fill: float) -> Mask:
    return lambda graph, scores: graph.op("Where", allowed(graph, scores), scores, graph.constant(fill, np.float32))


def _distance(graph: Graph, scores: str) -> str:
    rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
    return graph.op("Sub", keys, graph.unsqueeze(rows, 1))


def causal(graph: Graph, scores: str) -> str:
    return graph.op("LessOrEqual", _distance(graph, scores), graph.constant(0, np.int64))


def wide_window(graph: Graph, scores: str) -> str:
    """Wider than every size that the pass looks at."""
    return graph.op("Greater", _distance(graph, scores), graph.constant(-64, np.int64))


def stored_column(graph: Graph, scores: str) -> str:
    """The rows from 50 on have no key at all."""
    table = graph.constant(np.arange(TABLE).reshape(1, 1, -1, 1) < 50, np.bool_)
    return graph.op("Slice", table, graph.ints(0), graph.unsqueeze(graph.dim(scores, 2), 0), graph.ints(2))


def padding(graph: Graph, scores: str, keys: str = "keys") -> str:
    keep = graph.input("keep", np.bool_, ("batch", keys), integers=(0, 1), is_padding=True)
    return graph.unsqueeze(keep, 1, 2)


def row_padding(graph: Graph, scores: str) -> str:
    """Where the keys are the rows' own."""
    return padding(graph, scores, "rows")


def float_mask(graph: Graph, scores: str) -> str:
    """One that the caller gives, and that may exclude keys by any number."""
    return graph.op("Add", scores, graph.input("float_mask", np.float32, ("rows", "keys")))


def both(*changes: Mask) -> Mask:
    """One after the other; the last is the nearest to the softmax."""

    def changed(graph: Graph, scores: str) -> str:
        for change in changes:
            scores = change(graph, scores)
        return scores

    return changed


SIZES = ((6, 6), (5, 9), (70, 70), (9, 5), (100, 12))


def takes_the_mean(graph: Graph) -> bool:
    (node,) = (node for node in fuse(graph.model()).model.graph.node if node.op_type == "FlashAttention")
    return any(attribute.name == "mean_without_keys" and attribute.i == 1 for attribute in node.attribute)


@pytest.mark.parametrize("masks", [(causal, row_padding), (row_padding,), (stored_column, causal)])
def test_a_finite_number_makes_the_mean_of_v_the_ops_own_matter(masks: tuple[Mask, ...]) -> None:
    graph = attention(on_scores=both(*(replaced(mask, LOWEST) for mask in masks)))
    assert check(graph, (5, 5), (70, 70)).fused
    assert takes_the_mean(graph)


def test_infinity_leaves_rows_without_a_key_at_zero() -> None:
    graph = attention(on_scores=both(replaced(causal, -np.inf), replaced(row_padding, -np.inf)))
    assert check(graph, (5, 5), (70, 70)).mask == "causal + padding"
    assert not takes_the_mean(graph)


def test_causal_alone_leaves_no_row_without_a_key() -> None:
    graph = attention(on_scores=replaced(causal, LOWEST))
    assert check(graph, (5, 5), (70, 70)).mask == "causal"
    assert not takes_the_mean(graph)


def test_stored_rows_without_keys_beside_a_causal_mask() -> None:
    masks = both(replaced(causal, -1e9), replaced(stored_column, -1e4))
    assert check(attention(on_scores=masks, keys="keys"), *SIZES).fused


def test_stored_rows_without_keys_that_are_added() -> None:
    check(attention(on_scores=both(replaced(causal, -1e9), added(stored_column, -1e4)), keys="keys"), *SIZES)


@pytest.mark.parametrize("fill", [-1e4, -1e9, LOWEST])
def test_a_wide_window_that_is_added_where_there_are_more_queries_than_keys(fill: float) -> None:
    site = check(attention(on_scores=added(wide_window, fill), keys="keys"), *SIZES)
    assert site.fused


def test_a_wide_window_for_as_many_queries_as_keys_is_a_window() -> None:
    site = check(attention(on_scores=added(wide_window, -1e9), keys="rows"), (6, 6), (70, 70))
    assert site.mask == "window (63, -1)"


@pytest.mark.parametrize("shift", [0, -1])
def test_a_wide_window_that_counts_from_the_end(shift: int) -> None:
    """At one number of rows and one of keys nothing tells it from a wider one that counts from the start."""

    def window(graph: Graph, scores: str) -> str:
        more = graph.op("Sub", graph.dim(scores, 3), graph.dim(scores, 2))
        end = graph.op("Add", more, graph.constant(shift - 64, np.int64))
        return graph.op("Greater", _distance(graph, scores), end)

    site = check(attention(on_scores=replaced(window, -np.inf), keys="keys"), *SIZES, (70, 130), (40, 130), (130, 70))
    assert site.fused


def test_few_keys_for_a_fixed_number_of_queries() -> None:
    """Causal from the end: eight queries of five keys leave three queries without one."""
    graph = Graph()
    q = graph.input("q", np.float32, ("batch", 2, 8, 4))
    k, v = (graph.input(name, np.float32, ("batch", 2, "keys", 4)) for name in "kv")
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    more = graph.op("Sub", graph.dim(scores, 3), graph.dim(scores, 2))
    allowed = graph.op("LessOrEqual", _distance(graph, scores), more)
    masked = graph.op("Where", allowed, scores, graph.constant(LOWEST, np.float32))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", masked, axis=-1), v))
    assert check(graph, (8, 5), (8, 8), (8, 30)).fused


@pytest.mark.parametrize("fill", [-1e9, LOWEST])
@pytest.mark.parametrize("way", [added, replaced])
def test_a_float_mask_that_excludes_what_a_causal_mask_leaves(fill: float, way: Callable[..., Mask]) -> None:
    for masks in (both(way(causal, fill), float_mask), both(float_mask, way(causal, fill))):
        check(attention(on_scores=masks, keys="keys"), (6, 6), (20, 20), excluded=fill)


def test_infinity_inside_of_a_number() -> None:
    """What the outer mask replaces is no longer infinite."""
    site = check(attention(on_scores=both(replaced(causal, -np.inf), replaced(padding, -1e9)), keys="keys"), *SIZES)
    assert site.fused
    check(attention(on_scores=both(float_mask, replaced(padding, LOWEST)), keys="keys"), (6, 6), excluded=-np.inf)


def test_a_number_inside_of_infinity_keeps_the_band() -> None:
    site = check(attention(on_scores=both(replaced(padding, -1e9), replaced(causal, -np.inf)), keys="keys"), *SIZES)
    assert site.mask == "causal + padding"


def test_numbers_of_two_sizes_in_place_of_scores() -> None:
    assert check(attention(on_scores=both(replaced(padding, -1e4), replaced(causal, -1e9)), keys="keys"), *SIZES).fused


def test_what_cannot_be_told_is_refused() -> None:
    """A number in place of a score beside a score to which that number is added: no mask says that."""
    site = check(attention(on_scores=both(replaced(causal, -1e4), added(padding, -1e4)), keys="keys"), *SIZES)
    assert not site.fused
    assert "row without any allowed key" in site.reason


def test_a_computed_bias_keeps_the_causal_attribute() -> None:
    """A bias that is made from weights or activations excludes nothing."""

    def biased(graph: Graph, scores: str) -> str:
        table = graph.constant(np.random.default_rng(0).standard_normal((8, 2)), np.float32)
        x = graph.input("x", np.float32, ("rows", 8))
        made = graph.op("MatMul", graph.op("MatMul", x, table), graph.constant(np.ones((2, 1)), np.float32))
        return graph.op("Add", scores, made)

    site = check(attention(on_scores=both(biased, added(causal, LOWEST))), (6, 6), (40, 40))
    assert site.mask == "causal + bias"


@pytest.mark.parametrize("order", ["bias, mask", "bias, mask, mask", "mask, bias"])
@pytest.mark.parametrize("rows_first", [True, False])
def test_a_bias_and_the_lowest_number_of_half_precision(order: str, rows_first: bool) -> None:
    """DeBERTa: where the number comes last, a row without keys is the mean of V; no fp32 sum says that by numbers."""
    graph = Graph()
    dims = ("batch", "rows", 2, 4) if rows_first else ("batch", 2, "rows", 4)
    q, k, v = (graph.input(name, np.float16, dims) for name in "qkv")
    if rows_first:
        q, k, v = (graph.transpose(each, 0, 2, 1, 3) for each in (q, k, v))
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    for step in order.split(", "):
        if step == "bias":
            table = graph.constant(np.random.default_rng(0).standard_normal((4, 1)), np.float16)
            scores = graph.op("Add", scores, graph.op("MatMul", q, table))
        else:
            lowest = graph.constant(np.finfo(np.float16).min, np.float16)
            scores = graph.op("Where", row_padding(graph, scores), scores, lowest)
    y = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    graph.outputs.append(graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, 8) if rows_first else y)
    site = check(graph, (6, 6), (70, 70), dtype=np.float16)
    assert site.fused == (order != "mask, bias")


def test_a_bias_that_half_precision_would_round_away_beside_the_mask() -> None:
    """Bloom in float16: one mask of both says -65504 and nothing of the bias, so the op runs in float32."""
    graph = Graph()
    q, k, v = (graph.input(name, np.float16, ("batch", 2, "rows", 4)) for name in "qkv")
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    table = graph.constant(np.random.default_rng(0).standard_normal((4, 1)), np.float16)
    biased = graph.op("Add", scores, graph.transpose(graph.op("MatMul", k, table), 0, 1, 3, 2))
    zero, lowest = (graph.constant(number, np.float16) for number in (0.0, np.finfo(np.float16).min))
    mask = graph.op("Where", graph.op("And", causal(graph, scores), row_padding(graph, scores)), zero, lowest)
    probabilities = graph.op("Softmax", graph.op("Add", biased, mask), axis=-1)
    graph.outputs.append(graph.op("MatMul", probabilities, v))
    model = graph.model(output_dtype=np.float16)
    result = fuse(model)
    assert result.report.fused == 1, result.report
    feeds = [graph.feeds({"batch": 2, "rows": rows}, padding, seed=rows) for rows in (6, 30) for padding in PADDINGS]
    session = flashonnx.session(result.model.SerializeToString(), ["CPUExecutionProvider"])
    for feed, (expected,) in zip(feeds, run_model(model, feeds), strict=True):
        np.testing.assert_allclose(session.run(None, feed)[0], expected, rtol=2e-2, atol=2e-2)


MASKS = {"causal": causal, "window": wide_window, "column": stored_column, "padding": padding}


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*MASKS, "float"]),
            st.sampled_from([added, replaced]),
            st.sampled_from([-1e4, -1e9, LOWEST, -np.inf]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([-1e4, -1e9, LOWEST, -np.inf]),
)
def test_any_masks_one_after_the_other(masks: list[tuple[str, Callable[..., Mask], float]], in_float: float) -> None:
    changes = [float_mask if name == "float" else way(MASKS[name], fill) for name, way, fill in masks]
    check(attention(on_scores=both(*changes), keys="keys"), (7, 9), (66, 10), (70, 71), excluded=in_float)
