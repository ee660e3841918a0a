"""Any attention, or near-attention, that the grammar draws gives after fusing what it gave before, or is left alone."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import event, given, note, settings

import flashonnx
from flashonnx.fusion import fuse
from flashonnx.fusion.run import run_model, run_reference
from flashonnx.fusion.standard import as_the_standard_says
from tests.export.attention_grammar import HOPELESS_NEAR_MISSES, Case, attentions
from tests.export.graphs import PADDINGS
from tests.export.native_grammar import NativeCase, native_attentions

# How many graphs; more than the CI has time for by FLASHONNX_FUZZ_EXAMPLES, which also draws others each time.
EXAMPLES = os.environ.get("FLASHONNX_FUZZ_EXAMPLES")

# None of these is a size that the pass looks at.
SIZES = (
    {"batch": 2, "rows": 10, "keys": 6, "past": 3},
    {"batch": 1, "rows": 7, "keys": 24, "past": 12},
    {"batch": 4, "rows": 70, "keys": 130, "past": 60},
    {"batch": 1, "rows": 1, "keys": 8, "past": 9},
)
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}


def feeds_of(case: Case) -> list[dict[str, np.ndarray]]:
    feeds = []
    for index, padding in enumerate(PADDINGS):
        sizes = dict(case.fixed or SIZES[index % len(SIZES)])
        sizes.setdefault("total", sizes["past"] + sizes["rows"])
        feeds.append(case.graph.feeds(sizes, padding, seed=index))
    return feeds


def run_with_library(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    options = ort.SessionOptions()
    # ONNX Runtime 1.32's MatmulTransposeFusion crashes on a half-precision Transpose and MatMul, fused or not.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    session = flashonnx.session(model.SerializeToString(), ["CPUExecutionProvider"], sess_options=options)
    names = {value.name for value in session.get_inputs()}
    return [session.run(None, {name: feed[name] for name in names}) for feed in feeds]


def assert_same(before: list[list[np.ndarray]], after: list[list[np.ndarray]], tolerance: float) -> None:
    """Where the file says NaN, from a row without any key, the fused one may say 0."""
    for old_outputs, new_outputs in zip(before, after, strict=True):
        for old, new in zip(old_outputs, new_outputs, strict=True):
            known = ~np.isnan(old)
            assert np.all((new[~known] == 0) | np.isnan(new[~known])), "a row without a key is neither NaN nor 0"
            np.testing.assert_allclose(new[known], old[known], rtol=tolerance, atol=tolerance)


def nodes_of(model: onnx.ModelProto) -> set[tuple[object, ...]]:
    """Each node with what it reads and gives. The pass drops unused ones, and moves constants to the weights."""
    return {
        (node.domain, node.op_type, *node.input, "->", *node.output)
        for node in model.graph.node
        if node.op_type != "Constant"
    }


@settings(max_examples=int(EXAMPLES or 600), derandomize=EXAMPLES is None)
@given(case=attentions())
def test_fused_is_what_it_was(case: Case) -> None:
    """Without verification, which would hide what was misread."""
    note(", ".join(case.spelling))
    result = fuse(case.model, verify=False)
    (site,) = result.report.sites
    event(f"{case.spelling[0]}: {'fused' if site.fused else 'left alone'}")
    fused = result.model
    if not site.fused:
        assert site.reason
        assert nodes_of(fused) <= nodes_of(case.model)
        return
    assert case.spelling[0] not in HOPELESS_NEAR_MISSES
    feeds = feeds_of(case)
    before = list(run_model(case.model, feeds))
    tolerance = max(TOLERANCE[case.dtype.name], case.rounding)
    assert_same(before, list(run_model(fused, feeds)), tolerance)
    assert_same(before, run_with_library(fused, feeds), tolerance)


@settings(max_examples=int(EXAMPLES or 400), derandomize=EXAMPLES is None)
@given(case=native_attentions())
def test_native_nodes_are_what_they_were(case: NativeCase) -> None:
    note(", ".join(case.spelling))
    model = case.model
    result = fuse(model, verify=False)
    (site,) = result.report.sites
    event(f"{case.spelling[0]}: {'fused' if site.fused else 'left alone'}")
    assert site.fused, site.reason
    feeds = [
        case.graph.feeds(case.sizes[index % len(case.sizes)], padding, seed=index)
        for index, padding in enumerate(PADDINGS)
    ]
    run = run_reference if case.by_definition else run_model
    before = list(run(as_the_standard_says(model), feeds))
    tolerance = 5e-3 if case.is_rounded else TOLERANCE[np.dtype(case.dtype).name]
    assert_same(before, list(run_model(result.model, feeds)), tolerance)
    assert_same(before, run_with_library(result.model, feeds), tolerance)
