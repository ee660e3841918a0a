"""Attention and RotaryEmbedding by the standard's own definition: ONNX Runtime then says what ONNX's reference says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from flashonnx.fusion.run import run_model, run_reference
from flashonnx.fusion.standard import as_the_standard_says
from flashonnx.reference import flash_attention
from tests.export.graphs import Graph

HEADS, SIZE = 4, 8
Feeds = dict[str, np.ndarray]


def attention(opset: int, attn_mask: np.ndarray | None = None, **options: object) -> tuple[onnx.ModelProto, Feeds]:
    """One Attention of 5 queries and 7 keys, or 10 with a past; its last entry's third query has no key."""
    generator = np.random.default_rng(0)
    dtype = np.dtype(options.pop("dtype", np.float32))  # type: ignore[arg-type]
    past, lengths = options.pop("past", False), options.pop("lengths", False)
    names = ["Q", "K", "V"]
    feeds = {name: generator.standard_normal((2, HEADS, rows, SIZE)) for name, rows in {"Q": 5, "K": 7, "V": 7}.items()}
    if past:
        names += ["past_key", "past_value"]
        feeds |= {name: generator.standard_normal((2, HEADS, 3, SIZE)) for name in names[3:]}
    feeds = {name: array.astype(dtype) for name, array in feeds.items()}
    if attn_mask is not None:
        feeds["attn_mask"] = attn_mask
    if lengths:
        feeds["nonpad_kv_seqlen"] = np.array([6, 0])
    graph = Graph(opset)
    for name, array in feeds.items():
        graph.input(name, array.dtype, array.shape)
    order = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")[: 7 if opset > 23 else 6]
    present = [name if name in feeds else "" for name in order]
    while not present[-1]:
        present.pop()
    graph.outputs = (
        graph.ops(3, "Attention", *present, **options) if past else [graph.op("Attention", *present, **options)]
    )
    return graph.model(output_dtype=dtype), feeds


def keep(keys: int) -> np.ndarray:
    allowed = np.random.default_rng(1).random((2, 1, 5, keys)) < 0.6
    allowed[-1, :, 2] = False
    return allowed


def added(allowed: np.ndarray, number: float, dtype: type = np.float32) -> np.ndarray:
    return np.where(allowed, 0, number).astype(dtype)


@pytest.mark.parametrize(
    ("opset", "mask", "options"),
    [
        (23, keep(7), {}),
        (23, added(keep(7), -np.inf), {"is_causal": 1}),
        (23, None, {"past": True, "is_causal": 1}),
        (23, keep(10), {"past": True, "softcap": 2.0}),
        (24, None, {"lengths": True, "is_causal": 1}),
        (24, keep(7), {"lengths": True, "scale": 0.5}),
        (25, keep(7), {"left_window_size": 2, "right_window_size": 1}),
        (26, None, {"is_causal": 1}),
    ],
)
def test_attention_is_what_the_reference_says(opset: int, mask: np.ndarray | None, options: dict[str, object]) -> None:
    model, feeds = attention(opset, mask, **options)
    spelled = as_the_standard_says(model)
    assert not any(node.op_type == "Attention" for node in spelled.graph.node)
    assert not spelled.functions
    for found, expected in zip(next(run_model(spelled, [feeds])), next(run_reference(model, [feeds])), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_half_precision_is_rounded_once(masked: bool) -> None:
    """Where every key has -65504 added, float16 makes the scores equal; in float32 they are still told apart."""
    mask = added(keep(7), -65504, np.float16) if masked else None
    model, feeds = attention(24, mask, dtype=np.float16)
    (found,) = next(run_model(as_the_standard_says(model), [feeds]))
    assert found.dtype == np.float16
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    expected = flash_attention(**wide)["Y"]  # type: ignore[arg-type]
    rounded = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    of_the_sum = 65504 * np.finfo(np.float32).eps if masked else 0.0
    assert np.all(np.abs(found - expected) <= rounded + 4 * of_the_sum)


def test_rotary_embedding_whose_tables_broadcast_over_the_batch() -> None:
    """ONNX Runtime's own kernel refuses them."""
    graph = Graph(23)
    x = graph.input("x", np.float32, (2, HEADS, 5, SIZE))
    tables = [graph.input(name, np.float32, (1, 5, SIZE // 2)) for name in ("cos", "sin")]
    graph.outputs = [graph.op("RotaryEmbedding", x, *tables)]
    model = graph.model()
    feeds = graph.feeds({}, "none", seed=0)
    (found,) = next(run_model(as_the_standard_says(model), [feeds]))
    both = {name: np.repeat(feeds[name], 2, axis=0) for name in ("cos", "sin")}
    (expected,) = next(run_reference(model, [feeds | both]))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_models_without_such_nodes_stay() -> None:
    graph = Graph()
    graph.outputs = [graph.op("Relu", graph.input("x", np.float32, ("rows",)))]
    model = graph.model()
    assert as_the_standard_says(model) is model


def test_what_has_no_type_is_said() -> None:
    """Of an operator that nobody knows."""
    model, _ = attention(23)
    model.graph.node[0].input[0] = "unknown"
    model.graph.node.insert(0, helper.make_node("Strange", ["Q"], ["unknown"], domain="elsewhere"))
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(RuntimeError, match="the type of 'unknown' is not known"):
        as_the_standard_says(model)
