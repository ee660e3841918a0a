"""Graphs that look like an attention which they are not quite: fused rightly or left alone, verification aside."""

from __future__ import annotations

import numpy as np
import pytest

from flashonnx.fusion import fuse
from flashonnx.fusion.report import FuseReport
from flashonnx.fusion.run import run_model
from tests.export.forms import attention
from tests.export.graphs import PADDINGS, Graph


def check(graph: Graph, *sizes: int, dtype: type = np.float32) -> FuseReport:
    """Fuses without verification, and compares at these numbers of rows."""
    model = graph.model(output_dtype=dtype)
    tolerance = 1e-2 if dtype == np.float16 else 1e-4
    result = fuse(model, verify=False)
    for padding in PADDINGS:
        feeds = [graph.feeds({"batch": 3, "rows": rows}, padding, seed=rows) for rows in sizes]
        for old, new in zip(run_model(model, feeds), run_model(result.model, feeds), strict=True):
            known = ~np.isnan(old[0])
            np.testing.assert_allclose(new[0][known], old[0][known], rtol=tolerance, atol=tolerance)
    return result.report


def distance(graph: Graph, scores: str) -> str:
    positions = graph.positions(graph.dim(scores, 2))
    return graph.op("Sub", graph.unsqueeze(positions, 0), graph.unsqueeze(positions, 1))


def excluded(graph: Graph, scores: str, allowed: str, fill: float = -np.inf) -> str:
    return graph.op("Where", allowed, scores, graph.constant(fill, np.float32))


@pytest.mark.parametrize("target", [np.int32, np.bool_])
def test_probabilities_rounded_to_integers(target: type) -> None:
    def rounded(graph: Graph, value: str) -> str:
        return graph.cast(graph.cast(value, target), np.float32)

    report = check(attention(on_probabilities=rounded), 5)
    assert not report.fused
    assert "Cast" in report.sites[0].reason


@pytest.mark.parametrize("place", ["scores", "probabilities"])
def test_dropout_in_training(place: str) -> None:
    def dropped(graph: Graph, value: str) -> str:
        ratio, training = graph.constant(0.5, np.float32), graph.constant(True, np.bool_)
        return graph.op("Dropout", value, ratio, training, seed=1)

    graph = attention(**{f"on_{place}": dropped})  # type: ignore[arg-type]
    report = fuse(graph.model(), verify=False).report
    assert not report.fused
    assert "training" in report.sites[0].reason


@pytest.mark.parametrize("compare", ["Equal", "Greater", "Less"])
@pytest.mark.parametrize("token", [7, 500])
def test_mask_from_tokens(compare: str, token: int) -> None:
    """Ones and zeros for the tokens would not show what such a mask does."""

    def masked(graph: Graph, scores: str) -> str:
        tokens = graph.input("tokens", np.int64, ("batch", "rows"), integers=(token - 1, token, token + 1))
        test = graph.op(compare, tokens, graph.constant(token, np.int64))
        return excluded(graph, scores, graph.unsqueeze(graph.op("Not", test), 1, 2))

    assert check(attention(on_scores=masked), 6, 40).sites[0].mask != "none"


def test_mask_from_tokens_by_arithmetic() -> None:
    """Where no comparison tells which tokens matter, a mask that seems not to depend on them is kept."""

    def masked(graph: Graph, scores: str) -> str:
        tokens = graph.input("tokens", np.int64, ("batch", "rows"), integers=(6, 7, 8))
        allowed = graph.cast(graph.op("Sub", tokens, graph.constant(7, np.int64)), np.bool_)
        return excluded(graph, scores, graph.unsqueeze(allowed, 1, 2))

    assert check(attention(on_scores=masked), 6, 40).sites[0].mask != "none"


@pytest.mark.parametrize("odd", [True, False])
def test_causal_at_every_second_size(odd: bool) -> None:
    def masked(graph: Graph, scores: str) -> str:
        rest = graph.op("Mod", graph.dim(scores, 2), graph.constant(2, np.int64))
        free = graph.op("Equal", rest, graph.constant(0 if odd else 1, np.int64))
        causal = graph.op("LessOrEqual", distance(graph, scores), graph.constant(0, np.int64))
        return excluded(graph, scores, graph.op("Or", causal, free))

    check(attention(on_scores=masked), 6, 7, 40, 41)


@pytest.mark.parametrize("limit", [4, 10, 60])
def test_causal_from_some_size_on(limit: int) -> None:
    def masked(graph: Graph, scores: str) -> str:
        short = graph.op("Less", graph.dim(scores, 2), graph.constant(limit, np.int64))
        causal = graph.op("LessOrEqual", distance(graph, scores), graph.constant(0, np.int64))
        return excluded(graph, scores, graph.op("Or", causal, short))

    check(attention(on_scores=masked), limit - 1, limit, limit + 1)


@pytest.mark.parametrize("constant_nodes", [False, True])
@pytest.mark.parametrize("computed", [False, True])
def test_window_wider_than_the_sizes_tried(constant_nodes: bool, computed: bool) -> None:
    def masked(graph: Graph, scores: str) -> str:
        graph.constant_nodes = constant_nodes
        limit = graph.constant(-64, np.int64)
        if computed:
            limit = graph.op("Mul", graph.constant(8, np.int64), graph.constant(-8, np.int64))
        return excluded(graph, scores, graph.op("Greater", distance(graph, scores), limit))

    report = check(attention(on_scores=masked), 20, 64, 65, 150)
    assert report.sites[0].mask == "window (63, -1)"


def test_column_table() -> None:
    """One number for each row, stored: what it holds further down has to be looked at too."""

    def masked(graph: Graph, scores: str) -> str:
        table = graph.constant(np.where(np.arange(200) < 60, 0, -np.inf).reshape(1, 1, -1, 1), np.float32)
        end = graph.op("Unsqueeze", graph.dim(scores, 2), graph.ints(0))
        keys = graph.transpose(graph.op("Slice", table, graph.ints(0), end, graph.ints(2)), 0, 1, 3, 2)
        return graph.op("Add", scores, keys)

    check(attention(on_scores=masked), 20, 59, 61, 150)


def test_divided_by_a_tensor_of_higher_rank() -> None:
    def divided(graph: Graph, scores: str) -> str:
        five = graph.op("Div", scores, graph.constant(np.full((1, 1, 1, 1, 1), 2.0), np.float32))
        return graph.op("Squeeze", five, graph.ints(0))

    check(attention(on_scores=divided), 6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("fill", [-1e4, -6e4])
@pytest.mark.parametrize("way", ["replaced", "added"])
def test_rows_without_keys(dtype: type, fill: float, way: str) -> None:
    """A replaced score is lost: such a row is the mean of V. One that -1e4 is added to is not."""
    graph = Graph()
    q, k, v = (graph.input(name, dtype, ("batch", 2, "rows", 4)) for name in "qkv")
    keep = graph.unsqueeze(graph.input("keep", np.bool_, ("batch", "rows"), integers=(0, 1), is_padding=True), 1, 2)
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    excluded = graph.constant(fill, dtype)
    if way == "replaced":
        scores = graph.op("Where", keep, scores, excluded)
    else:
        scores = graph.op("Add", scores, graph.op("Where", keep, graph.constant(0.0, dtype), excluded))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v))
    assert check(graph, 6, 40, dtype=dtype).fused == 1


@pytest.mark.parametrize("fills", [(-np.inf, -1e9), (-1e9, -np.inf), (-1e9, -1e9), (-1e4, -1e9)])
def test_rows_without_keys_by_two_masks(fills: tuple[float, float]) -> None:
    def masked(graph: Graph, scores: str) -> str:
        keep = graph.input("keep", np.bool_, ("batch", "rows"), integers=(0, 1), is_padding=True)
        causal = graph.op("LessOrEqual", distance(graph, scores), graph.constant(0, np.int64))
        return excluded(graph, excluded(graph, scores, causal, fills[0]), graph.unsqueeze(keep, 1, 2), fills[1])

    check(attention(on_scores=masked), 6, 40)


@pytest.mark.parametrize("mask", ["causal from the end", "window from the start"])
@pytest.mark.parametrize("rows_first", [True, False])
def test_many_more_queries_than_keys(mask: str, rows_first: bool) -> None:
    """Then some queries have no key at all, at sizes far from those that the pass looks at."""
    graph = Graph()
    if rows_first:
        q = graph.transpose(graph.input("q", np.float32, ("rows", "batch", 2, 4)), 1, 2, 0, 3)
    else:
        q = graph.input("q", np.float32, ("batch", 2, "rows", 4))
    k, v = (graph.input(name, np.float32, ("batch", 2, "keys", 4)) for name in "kv")
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    rows, keys = graph.dim(q, 2), graph.dim(k, 2)
    i, j = graph.unsqueeze(graph.positions(rows), 1), graph.unsqueeze(graph.positions(keys), 0)
    if mask == "causal from the end":
        allowed = graph.op("LessOrEqual", j, graph.op("Add", i, graph.op("Sub", keys, rows)))
    else:
        allowed = graph.op("Greater", j, graph.op("Sub", i, graph.constant(64, np.int64)))
    scores = excluded(graph, scores, allowed, float(np.finfo(np.float32).min))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v))
    model = graph.model()
    feeds = [graph.feeds({"batch": 2, "rows": rows, "keys": 5}, "none", 0) for rows in (4, 9, 100)]
    fused = fuse(model, verify=False).model
    for old, new in zip(run_model(model, feeds), run_model(fused, feeds), strict=True):
        np.testing.assert_allclose(new[0], old[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 12, 16, 30, 37, 38, 39, 60])
@pytest.mark.parametrize("way", ["added", "replaced"])
def test_window_of_any_width(width: int, way: str) -> None:
    def masked(graph: Graph, scores: str) -> str:
        allowed = graph.op("Greater", distance(graph, scores), graph.constant(-width, np.int64))
        if way == "replaced":
            return excluded(graph, scores, allowed)
        bias = excluded(graph, graph.constant(0.0, np.float32), allowed)
        return graph.op("Add", scores, bias)

    report = check(attention(on_scores=masked), width + 2, 2 * width)
    assert report.sites[0].mask == f"window ({width - 1}, -1)"


@pytest.mark.parametrize("outer", [-1e9, -np.inf])
def test_rows_without_keys_with_a_bias_between_the_masks(outer: float) -> None:
    def masked(graph: Graph, scores: str) -> str:
        causal = graph.op("LessOrEqual", distance(graph, scores), graph.constant(1, np.int64))
        biased = graph.op(
            "Sub", excluded(graph, scores, causal, -1e9), graph.input("bias", np.float32, ("rows", "rows"))
        )
        keep = graph.unsqueeze(graph.input("keep", np.bool_, ("batch", "rows"), integers=(0, 1), is_padding=True), 1, 2)
        return graph.op("Add", biased, excluded(graph, graph.constant(0.0, np.float32), keep, outer))

    check(attention(on_scores=masked), 6, 40)


def test_fused_matmul_is_a_product() -> None:
    graph = Graph()
    q, k, v = (graph.input(name, np.float32, ("batch", 2, "rows", 4)) for name in "qkv")
    scores = graph.op("FusedMatMul", q, k, domain="com.microsoft", alpha=0.5, transB=1)
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v))
    assert check(graph, 6).fused == 1
