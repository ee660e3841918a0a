"""Forms of the scores between Q·Kᵀ and the softmax: scale, softcap, sinks, casts; and what comes near them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.forms import (
    HEADS,
    SIZE,
    WIDTH,
    Fused,
    assert_fused,
    assert_left_alone,
    attention,
    join_heads,
    split_heads,
    times,
)
from tests.export.graphs import Graph

ROOT = SIZE**-0.25


def run_time_scale(graph: Graph, value: str) -> str:
    """1 / sqrt(head_size), the size taken from the tensor's shape as the legacy exporter does."""
    size = graph.cast(graph.dim(value, 3), np.float32)
    return graph.op("Mul", value, graph.op("Div", graph.constant(1.0, np.float32), graph.op("Sqrt", size)))


def softcap(graph: Graph, scores: str) -> str:
    scaled = times(SIZE**-0.5)(graph, scores)
    return times(3.0)(graph, graph.op("Tanh", graph.op("Div", scaled, graph.constant(3.0, np.float32))))


def less_maximum(graph: Graph, scores: str) -> str:
    scores = times(SIZE**-0.5)(graph, scores)
    return graph.op("Sub", scores, graph.op("ReduceMax", scores, graph.ints(-1), keepdims=1))


def less_maximum_of_lower_rank(graph: Graph, scores: str) -> str:
    """As LayoutLMv3 has it: amax(dim=-1).unsqueeze(-1), and all of it at a 32nd of the size."""
    small = times(SIZE**-0.5 / 32)(graph, scores)
    largest = graph.unsqueeze(graph.op("ReduceMax", small, graph.ints(-1), keepdims=0), -1)
    return times(32)(graph, graph.op("Sub", small, largest))


def with_sinks(graph: Graph, scores: str) -> str:
    """One more column, as GPT-OSS has it."""
    sinks = graph.constant(np.arange(HEADS).reshape(1, HEADS, 1, 1) / 2, np.float32)
    column = graph.expand(sinks, (scores, 0), HEADS, (scores, 2), 1)
    return less_maximum(graph, graph.op("Concat", scores, column, axis=-1))


def without_last(graph: Graph, probabilities: str) -> str:
    return graph.op("Slice", probabilities, graph.ints(0), graph.ints(-1), graph.ints(-1))


def scale_of(fused: Fused) -> float:
    return fused.attributes["scale"]


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, SIZE**-0.5),
        ({"on_scores": lambda g, s: s}, 1.0),
        ({"on_scores": lambda g, s: g.op("Div", s, g.constant([2.0], np.float32))}, 0.5),
        ({"on_q": times(ROOT), "on_k": times(ROOT), "on_scores": lambda g, s: s}, SIZE**-0.5),
        ({"on_q": times(0.5), "on_scores": times(0.5)}, 0.25),
        ({"on_q": run_time_scale, "on_scores": lambda g, s: s}, SIZE**-0.5),
        ({"on_scores": less_maximum}, SIZE**-0.5),
        ({"on_scores": less_maximum_of_lower_rank}, SIZE**-0.5),
    ],
    ids=[
        "on scores",
        "none",
        "division",
        "roots on q and k",
        "in two parts",
        "at run time",
        "less its maximum",
        "unsqueezed",
    ],
)
def test_scale(changes, scale):
    fused = assert_fused(attention(**changes))
    assert scale_of(fused) == pytest.approx(scale)
    assert fused.op_types == ["FlashAttention"]


def test_scores_less_the_largest_of_each_key_are_not_taken_for_those_less_the_largest_of_each_query():
    def less_by_key(graph: Graph, scores: str) -> str:
        return graph.op("Sub", scores, graph.op("ReduceMax", scores, graph.ints(-2), keepdims=1))

    assert_left_alone(attention(on_scores=less_by_key), "used elsewhere", "ReduceMax")


@pytest.mark.parametrize("shape", [(HEADS, 1, 1), (1, HEADS, 1, 1), ("batch", HEADS, "rows", 1), ()])
def test_a_factor_by_row_scales_q(shape):
    """As SwinV2 has one for each head."""

    def scaled(graph: Graph, scores: str) -> str:
        return graph.op("Mul", times(0.5)(graph, scores), graph.input("factor", np.float32, shape))

    fused = assert_fused(attention(on_scores=scaled))
    assert scale_of(fused) == pytest.approx(0.5)
    assert "MatMul" not in fused.op_types


def test_a_factor_by_key_is_left_alone():
    def scaled(graph: Graph, scores: str) -> str:
        return graph.op("Mul", scores, graph.input("factor", np.float32, ("rows",)))

    assert_left_alone(attention(on_scores=scaled), "from key to key", "Mul")


def test_a_bias_that_a_factor_by_row_multiplies_is_left_alone():
    def scaled(graph: Graph, scores: str) -> str:
        biased = graph.op("Add", scores, graph.input("bias", np.float32, (HEADS, 1, "rows")))
        return graph.op("Mul", biased, graph.input("factor", np.float32, (HEADS, 1, 1)))

    assert_left_alone(attention(on_scores=scaled), "multiplied by a tensor", "Add")


def test_softcap():
    fused = assert_fused(attention(on_scores=softcap))
    assert fused.attributes["softcap"] == pytest.approx(3.0)
    assert scale_of(fused) == pytest.approx(SIZE**-0.5)


def test_bias_before_the_softcap_is_left_alone():
    def biased(graph: Graph, scores: str) -> str:
        bias = graph.input("bias", np.float32, (HEADS, 1, 1))
        return softcap(graph, graph.op("Add", scores, bias))

    assert_left_alone(attention(on_scores=biased), "before the softcap", "Add")


def test_sinks():
    fused = assert_fused(attention(on_scores=with_sinks, on_probabilities=without_last))
    assert fused.node.input[7]
    assert "Concat" not in fused.op_types


def test_sinks_that_stay_in_the_product_are_left_alone():
    graph = attention(
        on_scores=with_sinks, on_probabilities=lambda g, p: g.op("Slice", p, g.ints(1), g.ints(2**31), g.ints(-1))
    )
    assert_left_alone(graph, "not understood", "Slice")


def test_another_axis_is_left_alone():
    assert_left_alone(attention(softmax_axis=-2), "axis -2", "Softmax")


def test_scores_used_elsewhere_are_left_alone():
    def shared(graph: Graph, scores: str) -> str:
        graph.outputs.append(graph.op("ReduceSum", scores, graph.ints(-1)))
        return times(0.5)(graph, scores)

    assert_left_alone(attention(on_scores=shared), "used elsewhere", "ReduceSum")


def test_probabilities_that_are_an_output_are_left_alone():
    def shown(graph: Graph, probabilities: str) -> str:
        graph.outputs.append(probabilities)
        return probabilities

    assert_left_alone(attention(on_probabilities=shown), "output of the model")


def quantised(graph: Graph, value: str) -> str:
    """Rounded to 8 bits and back, as a quantiser leaves it around an operator."""
    scale, zero = graph.constant(1 / 32, np.float32), graph.constant(0, np.int8)
    return graph.op("DequantizeLinear", graph.op("QuantizeLinear", value, scale, zero), scale, zero)


@pytest.mark.parametrize("place", ["scores", "probabilities"])
def test_quantised_scores_are_left_alone(place):
    assert_left_alone(attention(**{f"on_{place}": quantised}), f"the {place} are quantised")


def test_quantised_operands_are_taken_as_they_are():
    assert "QuantizeLinear" in assert_fused(attention(on_q=quantised, on_k=quantised)).op_types


def test_a_product_of_integers_is_left_alone():
    graph = Graph()
    q, k = (graph.input(name, np.int8, ("batch", 2, "rows", 4), integers=range(-4, 5)) for name in "qk")
    scores = graph.op("MatMulInteger", q, graph.transpose(k, 0, 1, 3, 2))
    v = graph.input("v", np.float32, ("batch", 2, "rows", 4))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", graph.cast(scores, np.float32), axis=-1), v))
    assert_left_alone(graph, "the scores are integers")


def test_scores_of_blocks_are_told_as_such():
    """As BigBird has them: some keys by one product, some by another."""

    def of_blocks(graph: Graph, scores: str) -> str:
        q, k = (graph.input(name, np.float32, ("batch", HEADS, rows, 4)) for name, rows in (("p", "rows"), ("r", 5)))
        return graph.op("Concat", scores, graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)), axis=-1)

    graph = attention(
        on_scores=of_blocks, on_probabilities=lambda g, p: g.op("Slice", p, g.ints(0), g.ints(-5), g.ints(-1))
    )
    assert_left_alone(graph, "block-sparse attention", "Concat")


def test_scores_scattered_into_place_are_told_as_such():
    """As Longformer has them: each chunk's product is written to where its keys are."""

    def scattered(graph: Graph, scores: str) -> str:
        chunk = graph.input("chunk", np.float32, ("batch", HEADS, "rows", SIZE))
        more = graph.op("MatMul", chunk, graph.transpose(chunk, 0, 1, 3, 2))
        index = graph.op("Expand", graph.positions(graph.dim(scores, 3)), graph.op("Shape", more))
        return graph.op("ScatterElements", scores, index, more, axis=3)

    assert_left_alone(attention(on_scores=scattered), "block-sparse attention", "ScatterElements")


def test_scores_beside_what_is_no_product_are_not_called_blocks():
    def beside(graph: Graph, scores: str) -> str:
        return graph.op("Concat", scores, graph.input("more", np.float32, ("batch", HEADS, "rows", 2)), axis=-1)

    graph = attention(
        on_scores=beside, on_probabilities=lambda g, p: g.op("Slice", p, g.ints(0), g.ints(-2), g.ints(-1))
    )
    assert_left_alone(graph, "the scores meet an operator that is not understood", "Concat")


def test_dropout_is_dropped_in_inference_only():
    def dropout(training: bool):
        return lambda graph, p: graph.op(
            "Dropout", p, graph.constant(0.5, np.float32), graph.constant(training, np.bool_)
        )

    assert assert_fused(attention(on_probabilities=dropout(False))).op_types == ["FlashAttention"]
    assert_left_alone(attention(on_probabilities=dropout(True)), "dropout in training mode")


def test_probabilities_changed_afterwards_are_left_alone():
    graph = attention(on_probabilities=lambda g, p: g.op("Sqrt", p))
    assert_left_alone(graph, "not understood", "Sqrt")


def test_a_guard_against_nan_is_absorbed():
    def guarded(graph: Graph, probabilities: str) -> str:
        return graph.op("Where", graph.op("IsNaN", probabilities), graph.constant(0.0, np.float32), probabilities)

    assert assert_fused(attention(on_probabilities=guarded)).op_types == ["FlashAttention"]


def test_a_softmax_that_is_no_attention_is_no_site():
    import flashonnx.fusion

    graph = Graph()
    x = graph.input("x", np.float32, ("batch", 8))
    logits = graph.op("MatMul", x, graph.constant(np.eye(8), np.float32))
    graph.outputs.append(graph.op("Softmax", logits, axis=-1))
    report = flashonnx.fusion.explain(graph.model())
    assert report.total == 0
    assert len(report.not_attention) == 1


def test_queries_and_keys_that_are_learned_are_attention():
    """DETR's first layer: a stored table for every batch entry, so that the data depend on the batch size alone."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "rows", WIDTH))
    table = graph.constant(np.random.default_rng(0).standard_normal((1, 6, WIDTH)), np.float32)
    q = split_heads(graph, graph.expand(table, (x, 0), 6, WIDTH))
    probabilities = graph.op("Softmax", graph.op("MatMul", q, graph.transpose(q, 0, 1, 3, 2)), axis=-1)
    graph.outputs.append(join_heads(graph, graph.op("MatMul", probabilities, q)))
    assert assert_fused(graph).op_types.count("FlashAttention") == 1


@pytest.mark.parametrize("narrow", ["qk", "qkv", "k", "v"])
def test_half_precision_that_a_mask_widens(narrow: str):
    """The legacy exporter's float16: a mask in float32 makes all after it float32, Q·K alone is narrow."""
    graph = Graph()
    q, k, v = (
        split_heads(graph, graph.input(name, np.float16 if name in narrow else np.float32, ("batch", "rows", WIDTH)))
        for name in "qkv"
    )
    if "q" not in narrow or "k" not in narrow:
        q, k = (graph.cast(each, np.float32) for each in (q, k))
    product = graph.cast(graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)), np.float32)
    scores = times(SIZE**-0.5)(graph, product)
    mask = graph.input("mask", np.float32, ("batch", 1, 1, "rows"), is_padding=True, fill=-np.inf)
    probabilities = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
    value = graph.cast(v, np.float32)
    graph.outputs.append(join_heads(graph, graph.op("MatMul", probabilities, value)))
    fused = assert_fused(graph, tolerance=1e-2 if narrow.startswith("qk") else 1e-4)
    assert fused.node.domain == "flashonnx"
    assert fused.op_types.count("MatMul") == 0
