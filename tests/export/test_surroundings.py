"""What lies around an attention: names like the pass's own, bodies of If, other operator sets, earlier fusions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from flashonnx.fusion import fuse
from flashonnx.fusion.report import FuseReport
from flashonnx.fusion.run import run_model
from tests.export.forms import HEADS, WIDTH, attention, complete, join_heads, split_heads
from tests.export.graphs import Graph

X = np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)


def self_attention(graph: Graph, x: str, heads: int = HEADS) -> tuple[str, str, str]:
    """Scores, probabilities and the output of softmax(x·xᵀ)·x."""
    q = split_heads(graph, x, heads)
    scores = graph.op("MatMul", q, graph.transpose(q, 0, 1, 3, 2))
    probabilities = graph.op("Softmax", scores, axis=-1)
    return scores, probabilities, join_heads(graph, graph.op("MatMul", probabilities, q))


def body(name: str, op_type: str, source: str) -> onnx.GraphProto:
    node = helper.make_node(op_type, [source], [name])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, None)])


def conditional(graph: Graph, then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.ModelProto:
    graph.input("x", np.float32, ("batch", "rows", WIDTH))
    graph.input("condition", np.bool_, ())
    graph.outputs.append(graph.op("If", "condition", then_branch=then, else_branch=otherwise))
    return graph.model()


def check(model: onnx.ModelProto, *feeds: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, FuseReport]:
    result = fuse(model, verify=False)
    fused = result.model
    for old, new in zip(run_model(model, feeds), run_model(fused, feeds), strict=True):
        for before, after in zip(old, new, strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    return fused, result.report


BOTH_WAYS = ({"x": X, "condition": np.array(True)}, {"x": X, "condition": np.array(False)})


def test_names_like_those_of_the_pass() -> None:
    graph = Graph()
    names = ("flashonnx_constant_0", "flashonnx_FlashAttention_output_1", "flashonnx_Reshape_output_2")
    q, k, v = (split_heads(graph, graph.input(name, np.float32, ("batch", "rows", WIDTH))) for name in names)
    probabilities = graph.op("Softmax", graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)), axis=-1)
    graph.outputs.append(join_heads(graph, graph.op("MatMul", probabilities, v)))
    fused, report = check(graph.model(), dict.fromkeys(names, X))
    assert report.fused == 1
    made = [*(value.name for value in fused.graph.input), *(value.name for value in fused.graph.initializer)]
    made += [name for node in fused.graph.node for name in node.output]
    assert len(made) == len(set(made))


def test_fused_again_with_another_form_beside() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "rows", WIDTH))
    graph.outputs.append(self_attention(graph, x)[2])
    first, _ = check(graph.model(), {"x": X})
    graph = Graph()
    graph._count = 1000
    more = self_attention(graph, x, HEADS // 2)[2]
    first.graph.node.extend(graph.nodes)
    first.graph.initializer.extend(graph.weights)
    first.graph.output.append(helper.make_tensor_value_info(more, 1, None))
    fused, report = check(first, {"x": X})
    assert report.fused == report.total == 2
    names = [node.name for node in fused.graph.node]
    assert len(names) == len(set(names))


def test_attention_in_a_body_is_reported() -> None:
    inner = Graph()
    inner._count = 1000
    y = self_attention(inner, "x")[2]
    then = helper.make_graph(inner.nodes, "then", [], [helper.make_tensor_value_info(y, 1, None)], inner.weights)
    _, report = check(conditional(Graph(), then, body("otherwise", "Identity", "x")), *BOTH_WAYS)
    assert report.total == 1
    assert "inside the body" in report.sites[0].reason


@pytest.mark.parametrize("op_type", ["Identity", "Neg"])
def test_output_that_goes_into_a_body(op_type: str) -> None:
    graph = Graph()
    y = self_attention(graph, "x")[2]
    model = conditional(graph, body("then", op_type, y), body("otherwise", "Identity", "x"))
    assert check(model, *BOTH_WAYS)[1].fused == 1


@pytest.mark.parametrize("captured", [0, 1])
def test_scores_or_probabilities_that_go_into_a_body_too(captured: int) -> None:
    graph = Graph()
    values = self_attention(graph, "x")
    graph.outputs.append(values[2])
    model = conditional(graph, body("then", "Neg", values[captured]), body("otherwise", "Identity", values[captured]))
    assert not check(model, *BOTH_WAYS)[1].fused


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_operators_of_before_opset_13(opset: int) -> None:
    model = complete(attention(opset=13))
    model.opset_import[0].version = opset
    report = fuse(model).report
    assert f"opset {opset}" in report.sites[0].reason


def test_a_weight_that_the_caller_may_replace_is_no_constant() -> None:
    graph = attention(on_scores=lambda graph, scores: graph.op("Mul", scores, graph.input("scale", np.float32, ())))
    model = graph.model()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "scale"))
    fused = fuse(model, verify=False).model
    import onnxruntime

    feeds = {"q": X, "k": X, "v": X, "scale": np.array(3, np.float32)}
    old, new = (onnxruntime.InferenceSession(each.SerializeToString()).run(None, feeds)[0] for each in (model, fused))
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)


def test_a_file_format_of_before_functions_is_raised() -> None:
    model = complete(attention(opset=13))
    model.ir_version = 7
    fused, report = check(model, {"q": X, "k": X, "v": X})
    assert report.fused == 1
    onnx.checker.check_model(fused)


@pytest.mark.parametrize("is_output", [True, False])
def test_mask_that_counts_the_keys_of_the_grown_cache(is_output: bool) -> None:
    """The op cannot make the cache that its own mask is sized by."""
    graph = Graph()
    q, k, v = (graph.input(name, np.float32, ("batch", 2, "rows", 4)) for name in "qkv")
    past_k, past_v = (graph.input(name, np.float32, ("batch", 2, "past", 4)) for name in ("past_k", "past_v"))
    key, value = graph.op("Concat", past_k, k, axis=2), graph.op("Concat", past_v, v, axis=2)
    bias = graph.cast(graph.positions(graph.dim(key, 2)), np.float32)
    scores = graph.op("Add", graph.op("MatMul", q, graph.transpose(key, 0, 1, 3, 2)), bias)
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value))
    graph.outputs += [key, value] if is_output else []
    feeds = [
        graph.feeds({"batch": 2, "rows": rows, "past": past}, "none", 0) for rows, past in ((5, 7), (1, 3), (4, 0))
    ]
    assert check(graph.model(), *feeds)[1].fused == 1
