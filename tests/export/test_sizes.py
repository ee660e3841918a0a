"""Sizes at which a file works, though its dimensions are declared free."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from flashonnx.fusion import fuse
from flashonnx.fusion.run import run_model
from flashonnx.fusion.sizes import TRACES, trace_model
from tests.export.forms import join_heads, split_heads
from tests.export.graphs import PADDINGS, Graph


def softmax_of_product(graph: Graph, q: str, k: str, v: str) -> str:
    """q, k and v: (batch·head, row, feature)."""
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 2, 1))
    return graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)


def assert_equal_wherever_it_runs(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> int:
    """Fuses without verification; returns at how many of the feeds the original runs."""
    fused = fuse(model, verify=False)
    assert fused.report.fused == 1, fused.report
    count = 0
    for feed in feeds:
        try:
            (before,) = run_model(model, [feed])
        except RuntimeError:
            continue
        (after,) = run_model(fused.model, [feed])
        np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-4)
        count += 1
    return count


def test_a_length_that_was_cut_into_blocks_when_it_was_exported() -> None:
    """Two blocks of four are written into the file, as the legacy exporter does: only a length of 8 works."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "length", 6))
    blocks = graph.reshape(x, (x, 0), 2, 4, 6)
    q = graph.reshape(blocks, (x, 0), (x, 1), 6)
    scores = graph.op("MatMul", q, graph.transpose(x, 0, 2, 1))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), x))
    report = fuse(graph.model()).report
    assert report.fused == 1
    assert "'length': 8" in report.verification


def test_sizes_that_fit_by_chance_where_two_are_equal() -> None:
    """A damaged export, in which the batch stands where the length was: four heads there are only if both are equal."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "length", 32))
    split = graph.reshape(x, (x, 0), (x, 0), -1, 8)
    q, k = (graph.transpose(split, *perm) for perm in ((2, 0, 1, 3), (0, 2, 1, 3)))
    q, k = (graph.reshape(each, -1, (each, 2), 8) for each in (q, k))
    graph.outputs.append(softmax_of_product(graph, q, k, k))
    sizes = [{"batch": batch, "length": length} for batch in range(1, 7) for length in range(1, 9)]
    assert assert_equal_wherever_it_runs(graph.model(), [graph.feeds(size, "none", 0) for size in sizes]) > 20


def test_a_table_of_few_positions() -> None:
    """Lengths beyond the table do not work; those below are as free as any."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "length", 32))
    table = graph.constant(np.random.default_rng(0).standard_normal((16, 32)), np.float32)
    placed = graph.op("Add", x, graph.op("Gather", table, graph.positions(graph.dim(x, 1)), axis=0))
    graph.outputs.append(softmax_of_product(graph, placed, placed, placed))
    model = graph.model()
    assert len({trace.sizes["length"] for trace in trace_model(ir.from_proto(model))}) == TRACES
    feeds = [graph.feeds({"batch": 2, "length": length}, "none", 0) for length in (1, 12, 16, 20)]
    assert assert_equal_wherever_it_runs(model, feeds) == 3


def named_apart(masked: bool) -> Graph:
    """Q, K, V and a padding mask whose dimensions all have names of their own, as exporters give them unasked."""
    graph = Graph()
    q, k, v = (
        split_heads(graph, graph.input(name, np.float32, (f"{name}.batch", f"{name}.rows", 32))) for name in "qkv"
    )
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    if masked:
        keep = graph.input("keep", np.bool_, ("keep.batch", "keep.keys"), is_padding=True)
        scores = graph.op("Where", graph.unsqueeze(keep, 1, 2), scores, graph.constant(-np.inf, np.float32))
    graph.outputs.append(join_heads(graph, graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)))
    return graph


def sizes_of(rows: int, keys: int, mask_batch: int, mask_keys: int) -> dict[str, int]:
    batches = {"q.batch": 3, "k.batch": 3, "v.batch": 3, "keep.batch": mask_batch}
    return batches | {"q.rows": rows, "k.rows": keys, "v.rows": keys, "keep.keys": mask_keys}


@pytest.mark.parametrize("masked", [True, False])
def test_dimensions_that_every_input_names_for_itself(masked: bool) -> None:
    graph = named_apart(masked)
    feeds = [
        graph.feeds(sizes_of(rows, keys, mask_batch, mask_keys), padding, 0)
        for rows, keys in ((6, 6), (5, 9), (1, 4))
        for mask_batch, mask_keys in ((3, keys), (1, keys), (3, 1), (1, 1))
        for padding in PADDINGS
        if padding != "all"
    ]
    assert assert_equal_wherever_it_runs(graph.model(), feeds) == len(feeds)


def test_dimensions_none_of_which_is_a_batch_by_its_place() -> None:
    """Every one is also a second dimension somewhere, and one is the sum of two."""
    graph = Graph()
    x, past = (graph.input(name, np.float32, ("batch", name, 8)) for name in ("rows", "past"))
    others = [graph.input(f"{name}_first", np.float32, (name, "batch", 8)) for name in ("rows", "past")]
    others = [graph.transpose(other, 1, 0, 2) for other in others]
    keys = graph.op("Concat", past, x, axis=1)
    values = graph.op("Concat", *reversed(others), axis=1)
    mask = graph.input("mask", np.float32, ("batch", "total"), is_padding=True, fill=-np.inf)
    scores = graph.op("Add", graph.op("MatMul", x, graph.transpose(keys, 0, 2, 1)), graph.unsqueeze(mask, 1))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), values))
    feeds = [graph.feeds({"batch": 2, "rows": 4, "past": past, "total": 4 + past}, "right", 0) for past in (0, 3)]
    assert assert_equal_wherever_it_runs(graph.model(), feeds) == 2


def test_batches_under_two_names_and_nothing_else_that_is_free() -> None:
    graph = Graph()
    q, k = (graph.input(name, np.float32, (f"{name}.batch", 4, 8)) for name in "qk")
    graph.outputs.append(softmax_of_product(graph, q, k, k))
    feeds = [graph.feeds({"q.batch": batch, "k.batch": batch}, "none", 0) for batch in (1, 3)]
    assert assert_equal_wherever_it_runs(graph.model(), feeds) == 2
