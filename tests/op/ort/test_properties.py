"""Random nodes through ONNX Runtime against the definition in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flashonnx.reference import flash_attention
from tests.op.ort.node_models import DTYPES, node_model, run, session

# Largest error for values of about 1, over any of the shapes below.
ATOL = {"float": 5e-6, "float16": 4e-3, "bfloat16": 3e-2, "double": 1e-12}

WIDEST = 2**63 - 1  # of all windows


@st.composite
def nodes(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray], dict[str, Any], list[str]]:
    """An element type, inputs, attributes and outputs that the op must take."""
    dtype = draw(st.sampled_from(["float", "float", "float16", "bfloat16", "double"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, kv_heads, group = draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    rows, past = draw(st.integers(0, 40)), 0
    keys = draw(st.one_of(st.integers(0, 140), st.integers(500, 600)))  # enough of them to be split
    size, v_size = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    heads = kv_heads * group

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(DTYPES[dtype])

    inputs = {
        "Q": values(batch, heads, rows, size),
        "K": values(batch, kv_heads, keys, size),
        "V": values(batch, kv_heads, keys, v_size),
    }
    attributes: dict[str, Any] = {
        "is_causal": draw(st.integers(0, 1)),
        "left_window_size": draw(st.sampled_from([-1, -1, 0, 5, 30, WIDEST])),
        "right_window_size": draw(st.sampled_from([-1, -1, 0, 7, WIDEST])),
        "softcap": draw(st.sampled_from([0.0, 0.0, 3.0])),
        "mean_without_keys": draw(st.integers(0, 1)),
    }
    outputs = ["Y", "lse"]
    cache = draw(st.sampled_from(["none", "past", "nonpad"]))
    if cache == "past":
        past = draw(st.integers(0, 30))
        inputs |= {"past_key": values(batch, kv_heads, past, size), "past_value": values(batch, kv_heads, past, v_size)}
        outputs += ["present_key", "present_value"]
    elif cache == "nonpad":
        inputs["nonpad_kv_seqlen"] = rng.integers(0, keys + 1, batch)
    if draw(st.booleans()):
        shape = [draw(st.sampled_from([1, dim])) for dim in (batch, heads, rows)] + [past + keys]
        shape[-1] = draw(st.sampled_from([past + keys, max(past + keys - 3, 1), 1]))
        shape = shape[draw(st.integers(0, 3)) :]
        inputs["attn_mask"] = rng.random(shape) < 0.6 if draw(st.booleans()) else values(*shape)
        if inputs["attn_mask"].dtype != bool:
            forbidding = draw(st.sampled_from([0.0, -np.inf, float(ml_dtypes.finfo(DTYPES[dtype]).min)]))
            inputs["attn_mask"][rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = forbidding
    if draw(st.booleans()):
        inputs["sinks"] = rng.standard_normal(heads).astype(np.float32)
    if draw(st.booleans()):
        shape = [batch, heads][draw(st.integers(0, 1)) :]
        inputs["alibi_slopes"] = rng.random(shape).astype(np.float32)
    if draw(st.booleans()):
        attributes["scale"] = draw(st.sampled_from([0.0, 0.125, 1.0, -0.25]))
    if draw(st.booleans()):
        outputs.append("qk_matmul_output")
        attributes["qk_matmul_output_mode"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        attributes |= {"q_num_heads": heads, "kv_num_heads": kv_heads}
        for name in "QKV":
            x = np.swapaxes(inputs[name], 1, 2)
            inputs[name] = np.ascontiguousarray(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]))
    return dtype, inputs, attributes, outputs


def onnx_name(array: np.ndarray) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


@settings(max_examples=300)
@given(nodes())
def test_any_node_equals_the_definition(
    node: tuple[str, dict[str, np.ndarray], dict[str, Any], list[str]],
) -> None:
    dtype, inputs, attributes, outputs = node
    tensors = {name: (onnx_name(array), list(array.shape)) for name, array in inputs.items()}
    results = run(session(node_model(tensors, attributes, outputs), intra_op_num_threads=2), inputs)
    expected = flash_attention(**inputs, **attributes)
    for name in outputs:
        have, want = results[name].astype(float), expected[name].astype(float)
        # Scores and lse grow with head_size, so their error does too; probabilities and Y are averages.
        scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
        atol = ATOL["float" if name == "lse" and dtype != "double" else dtype]
        if name == "lse":
            atol = max(atol, ATOL["float"])
        np.testing.assert_allclose(have, want, rtol=0, atol=atol * scale, err_msg=name)
