"""How far each contestant is from attention in float64: the paper's claim that tiling changes nothing but rounding."""

from __future__ import annotations

import math

import numpy as np

from flashonnx.bench.cases import Case, random_mask

_ROWS = 256  # query rows at a time, so that the float64 scores stay small


def float64_attention(case: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(Q K^T / sqrt(D)) V by the definition, (B, H, S, D) in float64."""
    result = np.empty((*q.shape[:3], v.shape[3]), np.float64)
    group = case.q_num_heads // case.kv_num_heads
    keys = np.arange(case.kv_sequence_length)
    mask = random_mask(case)
    for batch, head in np.ndindex(case.batch_size, case.q_num_heads):
        key = k[batch, head // group].astype(np.float64)
        value = v[batch, head // group].astype(np.float64)
        for start in range(0, case.q_sequence_length, _ROWS):
            rows = q[batch, head, start : start + _ROWS].astype(np.float64)
            scores = rows @ key.T / math.sqrt(case.head_size)
            if case.is_causal:
                scores[keys > np.arange(start, start + len(rows))[:, None]] = -np.inf
            if mask is not None:
                scores = _masked(scores, mask[0, 0, start : start + len(rows)])
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            result[batch, head, start : start + len(rows)] = scores @ value / scores.sum(axis=1, keepdims=True)
    return result


def _masked(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """With a mask's rows applied: bool, where false disallows, or added."""
    return np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
