"""com.microsoft's attention operators: every input and attribute of theirs fuses or is refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from flashonnx.fusion.run import run_model, run_reference
from tests.export.forms import HEADS, SIZE, SIZES, WIDTH, Fused, assert_fused, complete, fuse
from tests.export.graphs import PADDINGS, Graph

CONTRIB = "com.microsoft"
CACHE_SIZES = ({"batch": 2, "rows": 6, "past": 4}, {"batch": 1, "rows": 1, "past": 30})
# An entry of padding only keeps its scores less 10000: they are of three digits then.
ROUNDED = 5e-3


def activation(graph: Graph, name: str, *dims: int | str) -> str:
    return graph.input(name, np.float32, dims)


def weight(graph: Graph, *shape: int, seed: int = 0) -> str:
    return graph.constant(np.random.default_rng(seed).standard_normal(shape) / 3, np.float32)


def node(graph: Graph, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> Graph:
    """The graph with that node, all of whose outputs are the model's."""
    attributes = {"num_heads": HEADS, **attributes}
    graph.outputs += graph.ops(outputs, op_type, *inputs, domain=CONTRIB, **attributes)
    return graph


def assert_fused_by_reference(graph: Graph, sizes: tuple[Mapping[str, int], ...] = SIZES) -> Fused:
    """For what ONNX Runtime's CPU provider has no kernel for: compared with the operator's definition."""
    model = complete(graph)
    fused = fuse(model)
    assert fused.site.fused, fused.site.reason
    feeds = [graph.feeds(size, padding, seed) for seed, size in enumerate(sizes) for padding in PADDINGS]
    for before, after in zip(run_reference(model, feeds), run_model(fused.model, feeds), strict=True):
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-3)
    return fused


def assert_refused(graph: Graph, reason: str) -> None:
    fused = fuse(graph.model())
    assert not fused.site.fused
    assert reason in fused.site.reason
    assert not any(node.domain == "flashonnx" for node in fused.model.graph.node)
    assert len(fused.model.graph.node) == len(graph.nodes)


def mask_input(graph: Graph, kind: str) -> str:
    """key_padding_mask or mask_index in one of the operator's forms, made from a mask of (batch, rows)."""
    mask = graph.input("mask", np.int32, ("batch", "rows"), integers=(0, 1), is_padding=True)
    lengths = graph.op("ReduceSum", mask, graph.ints(1), keepdims=0)
    if kind == "lengths":
        return lengths
    if kind == "ends and starts":
        return graph.op("Concat", lengths, graph.op("Div", lengths, graph.constant(2, np.int32)), axis=0)
    if kind == "each row":
        rows = graph.input("other", np.int32, ("batch", "rows", 1), integers=(0, 1))
        return graph.op("Max", rows, graph.unsqueeze(mask, 1))
    return mask


# --- Attention


def packed(graph: Graph, v_width: int = WIDTH, dtype: type = np.float32) -> list[str]:
    """x, weights and bias."""
    width = 2 * WIDTH + v_width
    x = graph.input("x", dtype, ("batch", "rows", 16))
    generator = np.random.default_rng(1)
    return [x, *(graph.constant(generator.standard_normal(shape) / 3, dtype) for shape in ((16, width), (width,)))]


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_attention_stays_one_product(causal):
    graph = Graph()
    fused = assert_fused(node(graph, "Attention", *packed(graph), unidirectional=causal))
    assert fused.op_types == ["Add", "FlashAttention", "MatMul", "Split"]
    assert fused.attributes.get("is_causal", 0) == causal


def test_packed_attention_without_bias_and_with_scale():
    graph = Graph()
    fused = assert_fused(node(graph, "Attention", *packed(graph)[:2], scale=0.3))
    assert fused.op_types == ["FlashAttention", "MatMul", "Split"]
    assert fused.attributes["scale"] == pytest.approx(0.3)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", ["mask", "lengths", "ends and starts", "each row"])
def test_packed_attention_with_masks(kind, causal):
    graph = Graph()
    inputs = packed(graph)
    graph = node(graph, "Attention", *inputs, mask_input(graph, kind), unidirectional=causal)
    assert_fused(graph, tolerance=ROUNDED)


def test_packed_attention_with_a_value_that_excludes_more():
    graph = Graph()
    inputs = packed(graph)
    assert_fused(node(graph, "Attention", *inputs, mask_input(graph, "mask"), mask_filter_value=-3.0e38))


def test_packed_attention_with_a_bias_for_the_scores():
    graph = Graph()
    inputs = packed(graph)
    bias = activation(graph, "bias", 1, HEADS, "rows", "rows")
    assert_fused(node(graph, "Attention", *inputs, "", "", bias))


def test_packed_attention_with_other_features_in_v():
    graph = Graph()
    graph = node(graph, "Attention", *packed(graph, 8), qkv_hidden_sizes=[WIDTH, WIDTH, 8])
    assert_fused(graph)


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_attention_with_a_cache(causal):
    graph = Graph()
    inputs = packed(graph)
    past = activation(graph, "past", 2, "batch", HEADS, "past", SIZE)
    fused = assert_fused(node(graph, "Attention", *inputs, "", past, outputs=2, unidirectional=causal), CACHE_SIZES)
    assert all(fused.node.input[4:6])
    assert fused.op_types.count("Gather") == 2


def test_packed_attention_in_half_precision():
    """ONNX Runtime's CPU provider has no kernel for it."""
    graph = Graph()
    model = onnx.shape_inference.infer_shapes(
        node(graph, "Attention", *packed(graph, dtype=np.float16)).model(output_dtype=np.float16)
    )
    assert fuse(model).site.fused


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"do_rotary": 1}, "rotary"), ({"past_present_share_buffer": 1}, "share a buffer")],
)
def test_packed_attention_that_is_refused(attributes, reason):
    graph = Graph()
    assert_refused(node(graph, "Attention", *packed(graph), **attributes), reason)


def test_packed_attention_with_a_mask_for_gpus_alone():
    graph = Graph()
    inputs = packed(graph)
    mask = graph.input("mask", np.int32, ("batch", 1, "rows", "rows"), integers=(0, 1))
    assert_refused(node(graph, "Attention", *inputs, mask), "neither (batch, keys)")


# --- MultiHeadAttention


def separate(graph: Graph, keys: str = "rows", v_width: int = WIDTH) -> list[str]:
    return [
        activation(graph, "q", "batch", "rows", WIDTH),
        activation(graph, "k", "batch", keys, WIDTH),
        activation(graph, "v", "batch", keys, v_width),
    ]


@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention(causal):
    graph = Graph()
    fused = assert_fused(node(graph, "MultiHeadAttention", *separate(graph), unidirectional=causal))
    assert fused.op_types == ["FlashAttention"]
    assert fused.attributes.get("is_causal", 0) == causal


def test_multi_head_attention_with_masks():
    graph = Graph()
    inputs = separate(graph)
    bias = activation(graph, "bias", 1, HEADS, "rows", "rows")
    graph = node(graph, "MultiHeadAttention", *inputs, "", mask_input(graph, "mask"), bias)
    assert assert_fused(graph, tolerance=ROUNDED).site.mask == "padding + bias"


@pytest.mark.parametrize("kind", ["lengths", "each row"])
def test_multi_head_attention_with_other_masks(kind):
    graph = Graph()
    inputs = separate(graph)
    assert_fused(node(graph, "MultiHeadAttention", *inputs, "", mask_input(graph, kind)), tolerance=ROUNDED)


def test_multi_head_attention_with_biases():
    graph = Graph()
    inputs = separate(graph, "keys", v_width=8)
    fused = assert_fused(node(graph, "MultiHeadAttention", *inputs, weight(graph, 2 * WIDTH + 8)))
    assert fused.op_types.count("Add") == 3


def test_multi_head_attention_with_a_cache():
    graph = Graph()
    inputs = separate(graph)
    past = [activation(graph, name, "batch", HEADS, "past", SIZE) for name in ("past_key", "past_value")]
    graph = node(graph, "MultiHeadAttention", *inputs, weight(graph, 3 * WIDTH), "", "", *past, outputs=3)
    assert all(assert_fused(graph, CACHE_SIZES).node.input[4:6])


@pytest.mark.parametrize("with_bias", [True, False])
def test_multi_head_attention_on_a_cache_of_another_sequence(with_bias):
    """Cross-attention after the first step: K and V come with heads, and biased."""
    graph = Graph()
    inputs = [activation(graph, "q", "batch", "rows", WIDTH)]
    inputs += [activation(graph, name, "batch", HEADS, "keys", SIZE) for name in "kv"]
    bias = weight(graph, 3 * WIDTH) if with_bias else ""
    assert_fused(node(graph, "MultiHeadAttention", *inputs, bias))


def test_packed_qkv():
    graph = Graph()
    product = graph.op("MatMul", activation(graph, "x", "batch", "rows", 16), weight(graph, 16, 3 * WIDTH))
    qkv = graph.reshape(product, 0, 0, HEADS, 3, SIZE)
    fused = assert_fused_by_reference(node(graph, "MultiHeadAttention", qkv))
    assert fused.op_types.count("MatMul") == 1


def test_packed_kv():
    graph = Graph()
    q = activation(graph, "q", "batch", "rows", WIDTH)
    kv = activation(graph, "kv", "batch", "keys", HEADS, 2, SIZE)
    assert_fused_by_reference(node(graph, "MultiHeadAttention", q, kv, "", weight(graph, 3 * WIDTH)))


def test_causal_over_another_number_of_keys_is_refused():
    """ONNX Runtime's kernels do not agree on what that means."""
    graph = Graph()
    graph = node(graph, "MultiHeadAttention", *separate(graph, "keys"), unidirectional=1)
    assert_refused(graph, "another number of keys")


def test_scores_that_are_wanted_are_refused():
    graph = Graph()
    assert_refused(node(graph, "MultiHeadAttention", *separate(graph), outputs=4), "qk output")


def test_beam_search_is_refused():
    graph = Graph()
    inputs = separate(graph)
    past = [activation(graph, name, "batch", HEADS, "past", SIZE) for name in ("past_key", "past_value")]
    length = graph.input("length", np.int32, (1,), integers=(1,))
    graph = node(graph, "MultiHeadAttention", *inputs, "", "", "", *past, length, outputs=3)
    assert_refused(graph, "beam search")


# --- GroupQueryAttention

KV_HEADS = 2
GROUPED_SIZE = 32  # ONNX Runtime rotates multiples of 16 only
GROUPED_WIDTH = HEADS * GROUPED_SIZE


def grouped(
    graph: Graph,
    *more: str,
    rows: str = "rows",
    past: tuple[str, str] = ("", ""),
    is_packed: bool = False,
    **kind: object,
) -> Graph:
    """Lengths that sizes alone decide; `more` from input 7, cos_cache, on."""
    width = GROUPED_WIDTH + 2 * KV_HEADS * GROUPED_SIZE
    if is_packed:
        inputs = [activation(graph, "q", "batch", rows, width), "", ""]
    else:
        inputs = [activation(graph, "q", "batch", rows, GROUPED_WIDTH)]
        inputs += [activation(graph, name, "batch", rows, KV_HEADS * GROUPED_SIZE) for name in "kv"]
    total = graph.dim(inputs[0], 1)
    if past[0]:
        total = graph.op("Add", total, graph.dim(past[0], 2))
    total = graph.cast(total, np.int32)
    last = graph.op("Sub", total, graph.constant(1, np.int32))
    lengths = graph.op("Expand", last, graph.op("Unsqueeze", graph.dim(inputs[0], 0), graph.ints(0)))
    kind = {"kv_num_heads": KV_HEADS, "outputs": 3, **kind}
    return node(graph, "GroupQueryAttention", *inputs, *past, lengths, total, *more, **kind)


def tables(graph: Graph, half: int = GROUPED_SIZE // 2) -> list[str]:
    angles = np.arange(128)[:, None] / 10.0 ** np.arange(half)
    return [graph.constant(table(angles), np.float32) for table in (np.cos, np.sin)]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ({}, {"is_causal": 1}),
        ({"causal": 0}, {"is_causal": 0}),
        ({"local_window_size": 3}, {"left_window_size": 2}),
        ({"softcap": 2.0, "scale": 0.4}, {"softcap": pytest.approx(2.0), "scale": pytest.approx(0.4)}),
    ],
)
def test_group_query_attention(kind, found):
    fused = assert_fused(grouped(Graph(), **kind))
    assert fused.attributes["kv_num_heads"] == KV_HEADS
    for name, value in found.items():
        assert fused.attributes.get(name, 0) == value


def test_group_query_attention_out_of_one_tensor():
    assert assert_fused(grouped(Graph(), is_packed=True)).op_types.count("Split") == 1


def test_group_query_attention_with_bias_and_sinks():
    graph = Graph()
    bias = activation(graph, "bias", "batch", 1, "rows", "rows")
    assert_fused(grouped(graph, "", "", "", bias, weight(graph, HEADS)))


def test_smooth_softmax_is_a_sink_of_zero():
    fused = assert_fused(grouped(Graph(), smooth_softmax=1))
    assert fused.node.input[7]


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("half", [GROUPED_SIZE // 2, GROUPED_SIZE // 4])
def test_rotary_embeddings_are_applied_beside_the_op(half, interleaved):
    """half: of the features that are turned, all of them or a part."""
    graph = Graph()
    graph = grouped(graph, *tables(graph, half), do_rotary=1, rotary_interleaved=interleaved)
    fused = assert_fused(graph)
    assert fused.op_types.count("RotaryEmbedding") == 2


def past_inputs(graph: Graph) -> tuple[str, str]:
    key, value = (
        activation(graph, name, "batch", KV_HEADS, "past", GROUPED_SIZE) for name in ("past_key", "past_value")
    )
    return key, value


# Several new rows after a past: ONNX Runtime takes one batch entry only.
GROUPED_CACHE_SIZES = (
    {"batch": 1, "rows": 6, "past": 4},
    {"batch": 3, "rows": 1, "past": 30},
    {"batch": 2, "rows": 5, "past": 0},
)


@pytest.mark.parametrize("rotary", [0, 1])
def test_group_query_attention_with_equal_pasts(rotary):
    graph = Graph()
    graph = grouped(graph, *(tables(graph) if rotary else []), past=past_inputs(graph), do_rotary=rotary)
    fused = assert_fused(graph, GROUPED_CACHE_SIZES)
    assert all(fused.node.input[4:6])
    assert len(fused.node.output) == 3


def test_group_query_attention_with_position_ids():
    graph = Graph()
    ids = graph.input("ids", np.int64, ("batch", "rows"), integers=(3, 4, 5, 8))
    graph = grouped(graph, *tables(graph), ids, past=past_inputs(graph), do_rotary=1)
    assert_fused(graph, GROUPED_CACHE_SIZES)


def by_mask(graph: Graph, causal: int, past: tuple[str, str] = ("", "")) -> Graph:
    """As generators of models write it: lengths from attention_mask, which may differ from entry to entry."""
    inputs = [activation(graph, "q", "batch", "rows", GROUPED_WIDTH)]
    inputs += [activation(graph, name, "batch", "rows", KV_HEADS * GROUPED_SIZE) for name in "kv"]
    mask = graph.input("mask", np.int32, ("batch", "total" if past[0] else "rows"), integers=(1,), is_padding=True)
    lengths = graph.op("Sub", graph.op("ReduceSum", mask, graph.ints(1), keepdims=0), graph.constant(1, np.int32))
    total = graph.cast(graph.dim(mask, 1), np.int32)
    kind = {"kv_num_heads": KV_HEADS, "causal": causal, "outputs": 3}
    return node(graph, "GroupQueryAttention", *inputs, *past, lengths, total, **kind)


def test_lengths_of_a_causal_prompt_matter_to_padding_only():
    """Rows past an entry's length are what the operator leaves open."""
    graph = by_mask(Graph(), 1)
    model = complete(graph)
    fused = fuse(model)
    assert fused.site.fused, fused.site.reason
    for seed, size in enumerate(SIZES):
        feeds = graph.feeds(size, "right", seed)
        (old,), (new,) = (list(run_model(each, [feeds])) for each in (model, fused.model))
        counts = feeds["mask"].astype(bool)
        np.testing.assert_allclose(new[0][counts], old[0][counts], rtol=1e-4, atol=1e-4)


def test_lengths_that_are_given():
    """Such a model is not compared as a whole: its own outputs differ where they do not count."""
    graph = Graph()
    inputs = [activation(graph, "q", "batch", "rows", GROUPED_WIDTH)]
    inputs += [activation(graph, name, "batch", "rows", KV_HEADS * GROUPED_SIZE) for name in "kv"]
    lengths = graph.input("lengths", np.int32, ("batch",), integers=(2,))
    total = graph.cast(graph.dim(inputs[0], 1), np.int32)
    graph = node(graph, "GroupQueryAttention", *inputs, "", "", lengths, total, kv_num_heads=KV_HEADS)
    assert fuse(complete(graph)).site.fused


def test_lengths_of_both_directions_are_a_mask():
    graph = by_mask(Graph(), 0)
    model = complete(graph)
    fused = fuse(model)
    assert fused.site.fused, fused.site.reason
    assert fused.node.input[3]
    feeds = [graph.feeds(size, "right", seed) for seed, size in enumerate(SIZES)]
    for before, after in zip(run_model(model, feeds), run_model(fused.model, feeds), strict=True):
        np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-4)


def test_pasts_that_may_differ_are_refused():
    graph = Graph()
    assert_refused(by_mask(graph, 1, past_inputs(graph)), "another number of rows for each batch entry")


def test_cache_that_drops_the_oldest_keys_is_refused():
    graph = Graph()
    graph = grouped(graph, past=past_inputs(graph), sliding_window_cache=1, local_window_size=4)
    assert_refused(graph, "drops the oldest keys")
