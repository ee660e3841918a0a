"""How far an array is from its reference, and whether that is near enough.

The rule of the project: a result is right if its largest error is at most 1.5 times the error that the reference
runtime itself makes in the same dtype on the same input, plus one unit in the last place. Both errors are taken
against an oracle that computes in float64. Where no oracle can be had, only two rounded results are there and
neither is the truth: then their difference must stay within `CLOSENESS` times the reference's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

ERROR_RATIO = 1.5
# Relative to the largest magnitude of the reference, by the wider of the two dtypes' machine epsilons.
CLOSENESS = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

# Half decades of absolute difference that the histogram counts; the outermost also take what lies beyond them, and
# exact matches are counted apart.
HISTOGRAM_EDGES = np.arange(-10.0, 2.5, 0.5)


@dataclass(frozen=True)
class Difference:
    """Distance of an array from its expected value, over all elements.

    `max_rel` is the largest |actual - expected| / |expected| over the elements with expected != 0, as
    numpy.testing reports it. Non-finite elements must agree (same infinity, NaN with NaN); those that do not are
    counted in `nonfinite_mismatches` and left out of the other figures.
    """

    elements: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    rms: float = 0.0
    cosine: float = 1.0
    nonfinite_mismatches: int = 0
    largest: float = 0.0  # largest finite magnitude of the expected array
    histogram: tuple[int, ...] = field(default=(), repr=False)  # counts of log10|difference| in HISTOGRAM_EDGES
    exact: int = 0  # elements that are equal


def difference(actual: np.ndarray, expected: np.ndarray) -> Difference:
    """Measures `actual` against `expected`: arrays of one shape, of any real or bool dtype.

    Raises:
        ValueError: the shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shape {actual.shape} where the reference has {expected.shape}")
    a = np.asarray(actual, dtype=np.float64).ravel()
    b = np.asarray(expected, dtype=np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    agree = finite | (a == b) | (np.isnan(a) & np.isnan(b))
    mismatches = int(a.size - np.count_nonzero(agree))
    a, b = a[finite], b[finite]
    if a.size == 0:
        return Difference(elements=actual.size, nonfinite_mismatches=mismatches, exact=actual.size - mismatches)
    delta = np.abs(a - b)
    magnitude = np.abs(b)
    nonzero = magnitude > 0
    counts, _ = np.histogram(_log10(delta[delta > 0]), bins=HISTOGRAM_EDGES)
    return Difference(
        elements=actual.size,
        max_abs=float(delta.max()),
        max_rel=float((delta[nonzero] / magnitude[nonzero]).max()) if nonzero.any() else 0.0,
        rms=float(np.sqrt(np.mean(delta**2))),
        cosine=_cosine(a, b),
        nonfinite_mismatches=mismatches,
        largest=float(magnitude.max()),
        histogram=tuple(int(count) for count in counts),
        exact=int(np.count_nonzero(delta == 0)),
    )


def worst(differences: Sequence[Difference]) -> Difference:
    """One Difference for several arrays: largest errors, smallest cosine, counts added up."""
    if not differences:
        return Difference()
    elements = sum(d.elements for d in differences)
    histograms = [d.histogram for d in differences if d.histogram]
    return Difference(
        elements=elements,
        max_abs=max(d.max_abs for d in differences),
        max_rel=max(d.max_rel for d in differences),
        rms=float(np.sqrt(sum(d.rms**2 * d.elements for d in differences) / max(elements, 1))),
        cosine=min(d.cosine for d in differences),
        nonfinite_mismatches=sum(d.nonfinite_mismatches for d in differences),
        largest=max(d.largest for d in differences),
        histogram=tuple(int(n) for n in np.sum(histograms, axis=0)) if histograms else (),
        exact=sum(d.exact for d in differences),
    )


def ulp(value: float, dtype: np.dtype) -> float:
    """The unit in the last place of `value` in a floating-point `dtype`: the gap between its neighbours."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(max(abs(value), float(info.smallest_normal)))
    return float(info.eps) * 2.0 ** (int(exponent) - 1)


def is_floating(dtype: np.dtype) -> bool:
    """True of NumPy's floating-point types and of bfloat16."""
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


@dataclass(frozen=True)
class Verdict:
    """Whether a value passed, by which rule, and the figures that decided."""

    passed: bool
    rule: str
    error: float
    limit: float
    reason: str = ""


def judge_against_oracle(
    error: Difference, reference_error: Difference, distance: Difference, dtype: np.dtype
) -> Verdict:
    """`error` and `reference_error` are the model's and the reference's distances from a float64 oracle.

    Infinities and NaN may be as the oracle has them or, where the narrower dtype overflows, as the reference has
    them (`distance`: of the model from the reference).
    """
    limit = ERROR_RATIO * reference_error.max_abs + ulp(reference_error.largest, dtype)
    rule = f"error against float64 <= {ERROR_RATIO} x the reference's own + 1 ulp"
    mismatches = min(error.nonfinite_mismatches, distance.nonfinite_mismatches)
    return _verdict(rule, error.max_abs, limit, mismatches)


def judge_closeness(
    distance: Difference, dtype: np.dtype, atol: float | None = None, rtol: float | None = None
) -> Verdict:
    """`distance` is the model's from the reference; the limit is atol + rtol * the reference's largest magnitude."""
    if atol is None and rtol is None:
        rtol = CLOSENESS[np.dtype(dtype).name]
    atol, rtol = atol or 0.0, rtol or 0.0
    rule = f"difference <= {atol:g} + {rtol:g} x the reference's largest magnitude"
    return _verdict(rule, distance.max_abs, atol + rtol * distance.largest, distance.nonfinite_mismatches)


def judge_equal(distance: Difference) -> Verdict:
    """For integers and bools, which have no rounding to forgive."""
    return _verdict("equal", distance.max_abs, 0.0, distance.nonfinite_mismatches)


def _verdict(rule: str, error: float, limit: float, nonfinite_mismatches: int) -> Verdict:
    if nonfinite_mismatches:
        reason = f"{nonfinite_mismatches} elements are NaN or infinite on one side only"
        return Verdict(False, rule, error, limit, reason)
    if error > limit:
        return Verdict(False, rule, error, limit, f"{error:.3g} is over the limit of {limit:.3g}")
    return Verdict(True, rule, error, limit)


def _log10(values: np.ndarray) -> np.ndarray:
    return np.clip(np.log10(values), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.dot(a, b) / norms)
