"""Rows without any allowed key: what the file makes of them, and what the op would.

Where keys are excluded by a finite number, a row that loses them all is still the softmax of something: of the scores
as they were (x - 1e4), or of equal numbers (a Where, or -3.4e38, which drowns x), which gives the mean of V. The op
gives 0 where its mask is bool. Which of them it is is found by trying: random scores through the masks as the file
applies them and as the op would, in every sample that has such a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

_CLOSE = 1e-4
_FLOAT = np.dtype(np.float32)


class Exclusion(Protocol):
    """A mask term as far as it matters here: what it allows in every sample, and by which numbers it excludes."""

    @property
    def allowed(self) -> tuple[np.ndarray, ...] | None: ...
    @property
    def replaces(self) -> bool: ...
    @property
    def fill(self) -> float: ...
    def fill_for(self, dtype: np.dtype) -> float: ...


def exist(terms: Sequence[Exclusion]) -> bool:
    """Whether there are such rows in any sample, and it matters: a number decides them, not infinity."""
    return any(np.isfinite(term.fill) for term in _known(terms)) and any(True for _ in _samples(terms))


def are_mean(terms: Sequence[Exclusion]) -> bool:
    """Whether the file gives all keys the same weight in such rows."""
    if len(_known(terms)) < len(terms):
        return False
    return all(np.allclose(in_file, 1 / in_file.shape[-1], rtol=0, atol=_CLOSE) for in_file, _ in _weights(terms))


def are_kept(terms: Sequence[Exclusion], dtype: np.dtype) -> bool:
    """Whether the op on that type, given numbers to add, weighs the keys of such rows as the file does."""
    return all(np.allclose(in_file, in_op, rtol=0, atol=_CLOSE) for in_file, in_op in _weights(terms, dtype))


def _known(terms: Sequence[Exclusion]) -> list[Exclusion]:
    return [term for term in terms if term.allowed is not None]


def _samples(terms: Sequence[Exclusion]) -> Iterator[tuple[int, np.ndarray]]:
    """The number of each sample with such rows, and where (batch, head, row) they are."""
    known = [term.allowed for term in _known(terms) if term.allowed is not None]
    for number, arrays in enumerate(zip(*known, strict=True)):
        joint = np.logical_and.reduce(np.broadcast_arrays(*arrays))
        dead = ~joint.any(axis=-1)
        if dead.any():
            yield number, dead


def _weights(terms: Sequence[Exclusion], dtype: np.dtype = _FLOAT) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The keys' weights in such rows, (row, keys): in the file and by the op."""
    for number, dead in _samples(terms):
        keys = max(term.allowed[number].shape[-1] for term in _known(terms) if term.allowed is not None)
        generator = np.random.default_rng(number)
        in_file = in_op = 2 * generator.standard_normal((*dead.shape, keys)).astype(np.float32)
        for term in reversed(terms):  # the first is the one nearest to the softmax
            if term.allowed is None:
                bias = generator.standard_normal(in_file.shape).astype(np.float32)
                in_file, in_op = in_file + bias, in_op + bias
                continue
            allowed = term.allowed[number]
            if term.replaces:
                in_file = np.where(allowed, in_file, _FLOAT.type(term.fill))
            else:
                in_file = _plus(in_file, allowed, term.fill, _FLOAT)
            in_op = _plus(in_op, allowed, term.fill_for(dtype), dtype)
        yield _softmax(in_file)[dead], _softmax(in_op)[dead]


def _plus(scores: np.ndarray, allowed: np.ndarray, fill: float, stored: np.dtype) -> np.ndarray:
    """The scores with `fill`, stored as that type, added where a key is not allowed.

    Added as float: whether a half-precision file's runtime rounds such a sum to half precision is its own affair.
    """
    with np.errstate(over="ignore"):
        return scores + np.where(allowed, 0.0, fill).astype(stored).astype(_FLOAT)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """A row of nothing but -inf gives 0: NaN, as the file may have it, is what nobody wants."""
    largest = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    return powers / np.maximum(powers.sum(axis=-1, keepdims=True), np.float32(1e-30))
