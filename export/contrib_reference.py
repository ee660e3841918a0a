"""com.microsoft's attention operators by their definition, in NumPy: what verification holds a site against where ONNX
Runtime's CPU provider has no kernel (half precision, packed QKV and KV) or leaves rows unspecified.

Source: the operators' schemas in ONNX Runtime 1.32 (ContribOperators.md), and its CPU kernels where those are silent: a
mask adds mask_filter_value, causality excludes, and K and V that are a cache have their bias already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from flashonnx.fusion.contrib_types import CONTRIB_DOMAIN
from flashonnx.reference import flash_attention

Array = Any  # np.ndarray, or None where the operator takes none
# The default of mask_filter_value.
MASK_FILTER_VALUE = -10000.0


def _split_heads(x: Array, heads: int) -> Array:
    """(batch, row, head·feature) as (batch, head, row, feature)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _join_heads(x: Array) -> Array:
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)


def _keep(mask: Array, batch: int, keys: int) -> Array:
    """A mask, or lengths, or ends and starts, as true where a key counts; broadcasts to (batch, 1, rows, keys)."""
    if mask.ndim == 2:
        return (mask > 0)[:, None, None, :]
    if mask.ndim == 3:
        return (mask > 0)[:, None]
    positions = np.arange(keys)
    keep = positions < mask[:batch, None]
    if len(mask) == 2 * batch:
        keep &= positions >= mask[batch:, None]
    return keep[:, None, None, :]


def _attend(
    qkv: tuple[Array, Array, Array],
    past: tuple[Array, Array],
    mask: Array,
    bias: Array,
    node: dict[str, Any],
) -> tuple[Array, Array, Array]:
    """The output as (batch, row, head·feature) and the grown caches; q, k, v: (batch, head, row, feature)."""
    q, k, v = qkv
    past_rows = 0 if past[0] is None else past[0].shape[2]
    keys = past_rows + k.shape[2]
    added = np.zeros((1, 1, q.shape[2], keys)) if bias is None else bias.astype(np.float64)
    if mask is not None:
        added = added + np.where(_keep(mask, len(q), keys), 0.0, node.get("mask_filter_value") or MASK_FILTER_VALUE)
    outputs = flash_attention(
        q,
        k,
        v,
        added,
        *past,
        is_causal=node.get("unidirectional") or 0,
        scale=node.get("scale") or None,
    )
    return _join_heads(outputs["Y"]), outputs["present_key"], outputs["present_value"]


class Attention(OpRun):
    """The op for onnx.reference.ReferenceEvaluator; without rotary embedding and shared buffers."""

    op_domain = CONTRIB_DOMAIN

    def _run(
        self,
        x: Array,
        weights: Array,
        bias: Array = None,
        mask: Array = None,
        past: Array = None,
        attention_bias: Array = None,
        **node: Any,
    ) -> tuple[Array, ...]:
        product = x @ weights if bias is None else x @ weights + bias
        sizes = node.get("qkv_hidden_sizes") or [product.shape[-1] // 3] * 3
        q, k, v = (_split_heads(x, node["num_heads"]) for x in np.split(product, np.cumsum(sizes)[:2], axis=-1))
        pasts = (None, None) if past is None else (past[0], past[1])
        y, *present = _attend((q, k, v), pasts, mask, attention_bias, node)
        return (y,) if len(self.output) == 1 else (y, np.stack(present))


class MultiHeadAttention(OpRun):
    """The op for onnx.reference.ReferenceEvaluator; without shared buffers and beam search."""

    op_domain = CONTRIB_DOMAIN

    def _run(
        self,
        query: Array,
        key: Array = None,
        value: Array = None,
        bias: Array = None,
        mask: Array = None,
        attention_bias: Array = None,
        past_key: Array = None,
        past_value: Array = None,
        **node: Any,
    ) -> tuple[Array, ...]:
        heads = node["num_heads"]
        if query.ndim == 5:
            q, k, v = (query[:, :, :, part].swapaxes(1, 2) for part in range(3))
        elif key is not None and key.ndim == 5:
            q, k, v = _split_heads(query, heads), *(key[:, :, :, part].swapaxes(1, 2) for part in range(2))
        else:
            q, k, v = (x if x.ndim == 4 else _split_heads(x, heads) for x in (query, key, value))
        if bias is not None:
            parts = np.split(bias, np.cumsum([q.shape[3] * heads, k.shape[3] * heads]))
            q = q + parts[0].reshape(heads, 1, -1)
            if key is None or key.ndim != 4:
                k, v = (x + part.reshape(heads, 1, -1) for x, part in zip((k, v), parts[1:], strict=True))
        outputs = _attend((q, k, v), (past_key, past_value), mask, attention_bias, node)
        return outputs[: len(self.output)]


class GroupQueryAttention(OpRun):
    """The op for onnx.reference.ReferenceEvaluator; where all batch entries have as many past keys as there are rows in
    past_key. Rows past an entry's length, which the schema leaves open, are computed like the others."""

    op_domain = CONTRIB_DOMAIN

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        past_key: Array,
        past_value: Array,
        seqlens_k: Array,
        total_sequence_length: Array,
        cos: Array = None,
        sin: Array = None,
        position_ids: Array = None,
        attention_bias: Array = None,
        sinks: Array = None,
        **node: Any,
    ) -> tuple[Array, ...]:
        heads, kv_heads = node["num_heads"], node["kv_num_heads"]
        if key is None:
            size = query.shape[2] // (heads + 2 * kv_heads)
            query, key, value = np.split(query, [heads * size, (heads + kv_heads) * size], axis=2)
        if node.get("do_rotary"):
            ids = _positions(position_ids, past_key)
            query, key = (
                _rotate(x, ids, cos, sin, count, node.get("rotary_interleaved"))
                for x, count in ((query, heads), (key, kv_heads))
            )
        if sinks is None and node.get("smooth_softmax") == 1:
            sinks = np.zeros(heads)
        causal, window = node.get("causal", 1), node.get("local_window_size") or -1
        outputs = flash_attention(
            query,
            key,
            value,
            attention_bias,
            past_key,
            past_value,
            None if causal else seqlens_k + 1,
            sinks,
            q_num_heads=heads,
            kv_num_heads=kv_heads,
            is_causal=causal,
            scale=node.get("scale") or None,
            softcap=node.get("softcap") or 0.0,
            left_window_size=window - 1 if window > 0 else -1,
        )
        return (outputs["Y"], outputs["present_key"], outputs["present_value"])[: len(self.output)]


def _positions(position_ids: Array, past: Array) -> Array:
    """What RotaryEmbedding takes: the first row's position, or every row's."""
    first = past is None or past.shape[2] == 0
    if position_ids is None:
        return np.array([0 if first else past.shape[2]])
    return position_ids[:1, 0] if first else position_ids


class RotaryEmbedding(OpRun):
    """The op for onnx.reference.ReferenceEvaluator, on (batch, row, head·feature)."""

    op_domain = CONTRIB_DOMAIN

    def _run(self, x: Array, position_ids: Array, cos: Array, sin: Array, **node: Any) -> tuple[Array]:
        return (_rotate(x, position_ids, cos, sin, node["num_heads"], node.get("interleaved")),)


def _rotate(x: Array, position_ids: Array, cos: Array, sin: Array, heads: int, interleaved: int | None) -> Array:
    """cos, sin: (position, half of the features that are rotated)."""
    split = x.reshape(*x.shape[:2], heads, -1)
    half = cos.shape[1]
    rotated, rest = split[..., : 2 * half], split[..., 2 * half :]
    ids = position_ids if position_ids.ndim == 2 else position_ids + np.arange(x.shape[1])[None]
    c, s = cos[ids][:, :, None], sin[ids][:, :, None]
    real, imaginary = (
        (rotated[..., ::2], rotated[..., 1::2]) if interleaved else (rotated[..., :half], rotated[..., half:])
    )
    parts = (real * c - imaginary * s, real * s + imaginary * c)
    turned = np.stack(parts, axis=-1).reshape(rotated.shape) if interleaved else np.concatenate(parts, axis=-1)
    return np.concatenate([turned, rest], axis=-1).reshape(x.shape).astype(x.dtype)


CONTRIB_OPS: list[Any] = [Attention, GroupQueryAttention, MultiHeadAttention, RotaryEmbedding]
