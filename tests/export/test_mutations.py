"""Sound models with one or two things changed at random: what they compute now, they compute after fusing, too."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from flashonnx.fusion import ModelError, fuse
from flashonnx.fusion.run import run_model
from tests.export.forms import SIZES, attention, complete, join_heads
from tests.export.graphs import Graph

# How many models; more than the CI has time for, and others each time, by FLASHONNX_FUZZ_EXAMPLES.
EXAMPLES = os.environ.get("FLASHONNX_FUZZ_EXAMPLES")
TOLERANCE = 2e-4

_ALIKE = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min"),
    ("LessOrEqual", "Less", "Greater", "GreaterOrEqual"),
    ("And", "Or", "Xor"),
    ("Relu", "Neg", "Abs", "Identity", "Tanh", "Sigmoid", "Exp"),
)
_NUMBERS = st.sampled_from([-3.4e38, -1e9, -1e4, -5, -1, 0, 0.5, 1, 2, 3, 7, 64])


def causal_and_padded(graph: Graph, scores: str) -> str:
    keep = graph.input("keep", np.bool_, ("batch", "keys"), integers=(0, 1), is_padding=True)
    rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
    near = graph.op("LessOrEqual", keys, graph.op("Add", graph.unsqueeze(rows, 1), graph.constant(0, np.int64)))
    allowed = graph.op("And", near, graph.unsqueeze(keep, 1, 2))
    scores = graph.op("Mul", scores, graph.constant(0.3, np.float32))
    return graph.op("Where", allowed, scores, graph.constant(float(np.finfo(np.float32).min), np.float32))


def biased_and_capped(graph: Graph, scores: str) -> str:
    cap = graph.constant(3.0, np.float32)
    capped = graph.op("Mul", graph.op("Tanh", graph.op("Div", scores, cap)), cap)
    return graph.op("Add", capped, graph.input("bias", np.float32, ("rows", "keys")))


def guarded(graph: Graph, probabilities: str) -> str:
    zero = graph.constant(0.0, np.float32)
    return graph.op("Where", graph.op("IsNaN", probabilities), zero, probabilities)


GRAPHS = (
    attention(on_scores=causal_and_padded, on_probabilities=guarded, keys="keys"),
    attention(
        on_scores=biased_and_capped, kv_heads=2, keys="keys", on_y=lambda g, y: g.op("Identity", join_heads(g, y))
    ),
)
MODELS = tuple(complete(graph) for graph in GRAPHS)


def _operator(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    node, alike = draw(
        st.sampled_from([(node, alike) for node in model.graph.node for alike in _ALIKE if node.op_type in alike])
    )
    node.op_type = draw(st.sampled_from(alike))


def _order(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    """Of a node's last two inputs."""
    node = draw(st.sampled_from([node for node in model.graph.node if len(node.input) >= 2]))
    node.input[-2], node.input[-1] = node.input[-1], node.input[-2]


def _number(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    array = numpy_helper.to_array(tensor).copy()
    number = draw(_NUMBERS)
    array.reshape(-1)[draw(st.integers(0, array.size - 1))] = (
        number if array.dtype.kind == "f" else np.clip(number, -99, 99)
    )
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _attribute(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    attribute = draw(
        st.sampled_from([a for node in model.graph.node for a in node.attribute if a.name in ("axis", "perm")])
    )
    if attribute.name == "perm":
        attribute.ints[:] = draw(st.permutations(list(attribute.ints)))
    else:
        attribute.i = draw(st.integers(-2, 2))


def _wire(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    """An input from another node before."""
    position = draw(st.integers(1, len(model.graph.node) - 1))
    node = model.graph.node[position]
    sources = list(itertools.chain.from_iterable(before.output for before in model.graph.node[:position]))
    node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(sources))


_MUTATIONS: tuple[Callable[[st.DrawFn, onnx.ModelProto], None], ...] = (_operator, _order, _number, _attribute, _wire)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Graph, onnx.ModelProto]:
    which = draw(st.integers(0, len(MODELS) - 1))
    model = onnx.ModelProto()
    model.CopyFrom(MODELS[which])
    for _ in range(draw(st.integers(1, 2))):
        draw(st.sampled_from(_MUTATIONS))(draw, model)
    return GRAPHS[which], model


@settings(max_examples=int(EXAMPLES or 80), derandomize=EXAMPLES is None)
@given(mutated())
def test_what_is_fused_computes_what_it_did(case: tuple[Graph, onnx.ModelProto]) -> None:
    graph, model = case
    try:
        result = fuse(model, verify=False)
    except ModelError:
        return
    event("fused" if result.report.fused else "left alone")
    if not result.report.fused:
        return
    feeds = [graph.feeds(size, padding, seed=1) for size in SIZES for padding in ("right", "left", "all")]
    before: list[list[np.ndarray]] = []
    with suppress(RuntimeError):  # what does not run cannot be compared
        before = list(run_model(model, feeds))
    if before:
        event("compared")
        for old, new in zip(before, run_model(result.model, feeds), strict=True):
            known = np.isfinite(old[0])
            np.testing.assert_allclose(new[0][known], old[0][known], rtol=TOLERANCE, atol=TOLERANCE)
