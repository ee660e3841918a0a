"""FlashAttention by its definition, in NumPy and float64: what the kernels and the fused graphs are held against.

`FlashAttention` is the op for onnx.reference: ReferenceEvaluator(model, new_ops=[FlashAttention]). Written from the
text of ONNX Attention, opset 25 (onnx 1.23.2), and op/contract/flash_attention.json, not from the kernels. It takes
nodes that the checks accept, and does not check again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from flashonnx import contract

Array = np.ndarray
_DEFAULTS = {attribute.name: attribute.default for attribute in contract.ATTRIBUTES}
_SCORES, _AFTER_SOFTCAP, _AFTER_MASK, _PROBABILITIES = range(4)  # qk_matmul_output_mode


def flash_attention(
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    sinks: Array | None = None,
    alibi_slopes: Array | None = None,
    **attributes: Any,
) -> dict[str, Array]:
    """Every output of the op by name, in Q's dtype (lse in float32); inputs and attributes as the contract names them.

    Scores are computed in float64 and kept whole: memory grows with q_sequence_length * total_sequence_length.
    """
    given = {name: value for name, value in attributes.items() if value is not None}
    a = {**_DEFAULTS, **given}
    q = _split_heads(Q, a["q_num_heads"]).astype(np.float64)
    k_new, v_new = _split_heads(K, a["kv_num_heads"]), _split_heads(V, a["kv_num_heads"])
    present_key = k_new if past_key is None else np.concatenate([past_key, k_new], axis=2)
    present_value = v_new if past_value is None else np.concatenate([past_value, v_new], axis=2)
    group = q.shape[1] // k_new.shape[1]
    k = np.repeat(present_key.astype(np.float64), group, axis=1)
    v = np.repeat(present_value.astype(np.float64), group, axis=1)

    scale = a["scale"] if a["scale"] is not None else 1 / np.sqrt(q.shape[3])
    stages = {_SCORES: scale * (q @ np.swapaxes(k, 2, 3))}
    stages[_AFTER_SOFTCAP] = _softcap(stages[_SCORES], a["softcap"])
    position = _positions(q, past_key, nonpad_kv_seqlen)
    bias = _bias(stages[_SCORES].shape, attn_mask, position, nonpad_kv_seqlen, a)
    stages[_AFTER_MASK] = stages[_AFTER_SOFTCAP] + _alibi(alibi_slopes, position, k.shape[2]) + bias
    dead = np.all(np.isneginf(bias), axis=-1)
    stages[_PROBABILITIES], lse = _softmax(stages[_AFTER_MASK], dead, sinks)
    y = stages[_PROBABILITIES] @ v
    if a["mean_without_keys"]:
        y = np.where(dead[..., None], _mean(v, nonpad_kv_seqlen), y)
    return {
        "Y": _like(y, Q).astype(Q.dtype),
        "present_key": np.ascontiguousarray(present_key),
        "present_value": np.ascontiguousarray(present_value),
        "qk_matmul_output": stages[a["qk_matmul_output_mode"]].astype(Q.dtype),
        "lse": lse.astype(np.float32),
    }


def _split_heads(x: Array, num_heads: int | None) -> Array:
    """(batch, rows, heads * size) as (batch, heads, rows, size); rank 4, where no number is given, as it is."""
    if num_heads is None:
        return x
    return np.swapaxes(x.reshape(*x.shape[:2], num_heads, x.shape[2] // num_heads), 1, 2)


def _like(y: Array, Q: Array) -> Array:
    """The output in the layout of Q."""
    return y if Q.ndim == 4 else np.swapaxes(y, 1, 2).reshape(*Q.shape[:2], y.shape[1] * y.shape[3])


def _softcap(scores: Array, softcap: float) -> Array:
    return softcap * np.tanh(scores / softcap) if softcap > 0 else scores


def _positions(q: Array, past_key: Array | None, nonpad_kv_seqlen: Array | None) -> Array:
    """i + offset of every query, as (batch or 1, 1, q_sequence_length, 1)."""
    offset: Any = 0 if past_key is None else past_key.shape[2]
    if nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.reshape(-1, 1, 1, 1) - q.shape[2]
    return np.arange(q.shape[2]).reshape(1, 1, -1, 1) + offset


def _alibi(slopes: Array | None, position: Array, keys: int) -> Array | float:
    if slopes is None:
        return 0.0
    return -slopes.astype(np.float64).reshape(-1, slopes.shape[-1], 1, 1) * np.abs(position - np.arange(keys))


def _bias(
    shape: tuple[int, ...], attn_mask: Array | None, position: Array, nonpad: Array | None, a: dict[str, Any]
) -> Array:
    """What attn_mask adds to the scores, and -inf wherever a key is disallowed."""
    keys = np.arange(shape[3])
    allowed = np.ones(shape, bool)
    if a["is_causal"]:
        allowed &= keys <= position
    if a["left_window_size"] >= 0:
        allowed &= position - keys <= a["left_window_size"]
    if a["right_window_size"] >= 0:
        allowed &= keys - position <= a["right_window_size"]
    if nonpad is not None:
        allowed &= keys < nonpad.reshape(-1, 1, 1, 1)
    bias = np.zeros(shape)
    if attn_mask is not None:
        length = shape[3] if attn_mask.shape[-1] == 1 else attn_mask.shape[-1]
        allowed[..., length:] = False
        values = np.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype == bool else attn_mask.astype(np.float64)
        bias[..., :length] += values
    return np.where(allowed, bias, -np.inf)


def _softmax(scores: Array, dead: Array, sinks: Array | None) -> tuple[Array, Array]:
    """Probabilities, 0 in dead rows, and the logarithm of their denominators, -inf there."""
    sink = np.full((1, 1, 1, 1), -np.inf) if sinks is None else sinks.astype(np.float64).reshape(1, -1, 1, 1)
    top = np.maximum(np.max(scores, axis=-1, keepdims=True, initial=-np.inf), sink)
    top = np.where(np.isneginf(top), 0.0, top)
    weights = np.exp(scores - top)
    total = np.sum(weights, axis=-1, keepdims=True) + np.exp(sink - top)
    with np.errstate(divide="ignore", invalid="ignore"):
        probabilities = np.where(total > 0, weights / total, weights)
        lse = (np.log(total) + top)[..., 0]
    return np.where(dead[..., None], 0.0, probabilities), np.where(dead, -np.inf, lse)


def _mean(v: Array, nonpad: Array | None) -> Array:
    """Of V over the keys that are no padding, (batch, heads, 1, v_head_size); 0 where there are none."""
    counts = np.full(v.shape[0], v.shape[2]) if nonpad is None else nonpad
    valid = np.arange(v.shape[2]) < counts.reshape(-1, 1)
    sums = np.sum(np.where(valid[:, None, :, None], v, 0), axis=2, keepdims=True)
    return sums / np.maximum(counts, 1).reshape(-1, 1, 1, 1)


class FlashAttention(OpRun):
    """The op for onnx.reference.ReferenceEvaluator."""

    op_domain = contract.DOMAIN

    def _run(self, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        named = {tensor.name: value for tensor, value in zip(contract.INPUTS, inputs, strict=False)}
        outputs = flash_attention(**named, **attributes)  # type: ignore[arg-type]
        return tuple(outputs[tensor.name] for tensor in contract.OUTPUTS)
