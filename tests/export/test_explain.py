"""What `explain` says beyond a report: drawings, the mask's picture, the kernel."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flashonnx.fusion import Explanation, ModelError, explain
from flashonnx.native import Cuda
from tests.export.forms import attention
from tests.export.graphs import Graph


def causal(graph: Graph, scores: str) -> str:
    positions = graph.positions(graph.dim(scores, 3))
    allowed = graph.op("LessOrEqual", positions, graph.unsqueeze(positions, 1))
    lowest = graph.constant(-np.inf, np.float32)
    return graph.op("Add", scores, graph.op("Where", allowed, graph.constant(0.0, np.float32), lowest))


def padded(graph: Graph, scores: str) -> str:
    keep = graph.cast(graph.input("keep", np.int64, ("batch", "keys"), is_padding=True), np.bool_)
    return graph.op("Where", graph.unsqueeze(keep, 1, 2), scores, graph.constant(-np.inf, np.float32))


def explained(graph: Graph, **options: object) -> Explanation:
    return explain(graph.model(), **options)  # type: ignore[arg-type]


def test_a_fused_site_is_drawn_before_and_after() -> None:
    (picture,) = explained(attention()).pictures
    drawn = [box.label for box in picture.before.boxes]
    for op_type, count in {"MatMul": 2, "Softmax": 1, "Transpose": 5, "Mul": 1, "Reshape": 4}.items():
        assert drawn.count(op_type) == count, op_type
        assert picture.site.absorbed[op_type] == count
    assert {box.label for box in picture.before.boxes if box.kind == "value"} == {"q", "k", "v"}
    assert picture.after is not None
    assert sorted(box.label for box in picture.after.boxes) == ["FlashAttention", "k", "q", "v"]
    fused = next(number for number, box in enumerate(picture.after.boxes) if box.kind == "fused")
    assert picture.after.arrows == {(number, fused) for number in range(4) if number != fused}


def test_shapes_are_told_by_the_names_of_their_dimensions() -> None:
    (picture,) = explained(attention(keys="keys")).pictures
    softmax = next(box for box in picture.before.boxes if box.label == "Softmax")
    assert softmax.detail == "(batch, 4, rows, keys)"


def test_a_site_left_alone_is_drawn_with_what_stopped_it() -> None:
    (picture,) = explained(attention(on_probabilities=lambda graph, p: graph.op("Sqrt", p))).pictures
    assert picture.after is None
    assert [box.label for box in picture.before.boxes if box.kind == "stop"] == ["Sqrt"]
    assert "Softmax" in {box.label for box in picture.before.boxes}


def test_a_site_of_a_model_that_is_not_understood_has_an_empty_drawing() -> None:
    explanation = explained(attention(opset=11))
    (picture,) = explanation.pictures
    assert "opset 11" in picture.site.reason
    assert not picture.before.boxes


def test_the_picture_of_a_causal_mask_is_a_triangle() -> None:
    (picture,) = explained(attention(on_scores=causal)).pictures
    (added,) = picture.masks.values()
    assert np.array_equal(np.isfinite(added), np.tri(*added.shape, dtype=bool))


def test_the_pictures_of_padding_are_those_of_the_keys_that_count() -> None:
    (picture,) = explained(attention(on_scores=padded, keys="keys")).pictures
    everything, right = picture.masks.values()
    assert np.all(everything == 0)
    columns = np.isfinite(right)
    assert np.array_equal(columns, np.broadcast_to(columns[0], columns.shape))  # the same for all queries
    assert not columns[0, -1]
    assert np.all(np.diff(columns[0].astype(int)) <= 0)


def test_no_mask_has_no_picture() -> None:
    (picture,) = explained(attention()).pictures
    assert not picture.masks


def test_the_kernel_is_told_for_sizes_that_are_given() -> None:
    graph = attention(keys="keys")
    assert explained(graph).sites[0].kernel == ""
    by_dimension = explained(graph, dims={"batch": 1, "rows": 200, "keys": 300})
    assert by_dimension.sites[0].kernel.startswith("CPU ")
    by_input = explained(graph, shapes={"q": (1, 200, 32), "k": (1, 300, 32)})
    assert by_input.sites == by_dimension.sites
    decoding = explained(graph, dims={"batch": 1, "rows": 1, "keys": 300})
    assert decoding.sites[0].kernel != by_dimension.sites[0].kernel
    assert explained(graph).free_dimensions == ["batch", "rows", "keys"]


def test_the_kernel_of_a_gpu_is_told_without_the_gpu() -> None:
    sizes = {"batch": 1, "rows": 200, "keys": 300}
    (site,) = explained(attention(keys="keys"), dims=sizes, cuda=Cuda(compute_capability=90)).sites
    assert site.kernel
    assert not site.kernel.startswith("CPU ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"rows": 3}}, "no size is given for dimension batch; the model's free dimensions: batch, rows"),
        ({"dims": {"rows": 3, "columns": 3}}, "the model has no free dimension columns"),
        ({"dims": {"rows": 0}}, "dimension rows is 0"),
        ({"shapes": {"q": (1, 5)}}, "shape (1, 5) of q does not fit (batch, rows, 32)"),
        ({"shapes": {"q": (1, 5, 33)}}, "does not fit (batch, rows, 32)"),
        ({"shapes": {"q": (1, 5, 32), "k": (1, 6, 32)}}, "shape (1, 6, 32) of k does not fit (batch, rows, 32)"),
        ({"shapes": {"x": (1,)}}, "no input x with a known rank; its inputs: q, k, v"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        explained(attention(), **options)
