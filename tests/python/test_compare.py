"""Differences between arrays, and the rules that judge them."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flashonnx.validation import compare

FINITE = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-1e6, 1e6, width=32))


def test_figures_of_a_known_difference():
    found = compare.difference(np.array([1.0, 2.5, -4.0]), np.array([1.0, 2.0, -5.0]))
    assert found.max_abs == 1.0
    assert found.max_rel == 0.25
    assert found.rms == pytest.approx(math.sqrt((0.25 + 1.0) / 3))
    assert found.cosine == pytest.approx((1 + 5 + 20) / math.sqrt((1 + 6.25 + 16) * (1 + 4 + 25)))
    assert (found.elements, found.exact, found.nonfinite_mismatches, found.largest) == (3, 1, 0, 5.0)
    assert sum(found.histogram) == 2


def test_relative_difference_leaves_zeros_of_the_reference_out():
    assert compare.difference(np.array([1.0, 1.1]), np.array([0.0, 1.0])).max_rel == pytest.approx(0.1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape \(2,\) where the reference has \(1, 2\)"):
        compare.difference(np.zeros(2), np.zeros((1, 2)))


def test_empty_arrays_agree():
    found = compare.difference(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (found.elements, found.max_abs, found.cosine) == (0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("actual", "expected", "mismatches"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0),
        ([np.inf, 1.0], [-np.inf, 1.0], 1),
        ([np.nan, 1.0], [0.0, 1.0], 1),
        ([0.0, 1.0], [np.nan, np.inf], 2),
    ],
)
def test_nonfinite_elements_must_be_the_same(actual, expected, mismatches):
    assert compare.difference(np.array(actual), np.array(expected)).nonfinite_mismatches == mismatches


def test_a_single_nan_fails_whatever_the_limit():
    found = compare.difference(np.array([np.nan, 1.0], np.float32), np.array([1.0, 1.0], np.float32))
    verdict = compare.judge_closeness(found, np.dtype(np.float32), atol=1e9)
    assert not verdict.passed
    assert "1 elements are NaN or infinite on one side only" in verdict.reason


@given(FINITE)
def test_an_array_equals_itself(array):
    found = compare.difference(array, array.copy())
    assert (found.max_abs, found.max_rel, found.rms, found.nonfinite_mismatches) == (0, 0, 0, 0)
    assert found.exact == found.elements == array.size
    assert found.cosine == pytest.approx(1.0)


@given(FINITE, st.floats(1e-3, 1e3))
def test_a_shift_is_measured(array, shift):
    shifted = array.astype(np.float64) + shift
    assert compare.difference(shifted, array).max_abs == pytest.approx(shift, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [1.0, 1.5, 2.0, 0.3, 1000.0])
def test_ulp_is_the_gap_to_the_next_number(dtype, value):
    value = float(np.dtype(dtype).type(value))
    assert compare.ulp(value, np.dtype(dtype)) == float(np.spacing(np.dtype(dtype).type(value)))


def test_ulp_of_bfloat16_and_of_zero():
    assert compare.ulp(1.0, np.dtype(ml_dtypes.bfloat16)) == 2.0**-7
    assert 0 < compare.ulp(0.0, np.dtype(np.float32)) < 1e-37


def judged(model_error, reference_error, largest=1.0):
    error = compare.Difference(elements=1, max_abs=model_error, largest=largest)
    reference = compare.Difference(elements=1, max_abs=reference_error, largest=largest)
    return compare.judge_against_oracle(error, reference, compare.Difference(), np.dtype(np.float32))


def test_oracle_rule_allows_one_and_a_half_times_the_error_and_an_ulp():
    ulp = 2.0**-23
    assert judged(1.5e-6 + ulp, 1e-6).passed
    assert not judged(1.5e-6 + 1.01 * ulp, 1e-6).passed
    assert judged(ulp, 0.0).passed
    assert not judged(2 * ulp, 0.0).passed


def test_oracle_rule_takes_the_infinities_of_either_side():
    dtype = np.dtype(np.float16)
    overflowed = np.array([np.inf, 1.0], np.float16)
    truth = np.array([7e4, 1.0])
    against_truth = compare.difference(overflowed, truth)
    same = compare.difference(overflowed, overflowed)
    assert compare.judge_against_oracle(against_truth, against_truth, same, dtype).passed
    finite = np.array([6e4, 1.0], np.float16)
    other = compare.difference(finite, overflowed)
    assert not compare.judge_against_oracle(against_truth, against_truth, other, dtype).passed


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-4), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_closeness_is_relative_to_the_largest_element(dtype, limit):
    def verdict(error):
        return compare.judge_closeness(compare.Difference(1, max_abs=error, largest=2.0), np.dtype(dtype))

    assert verdict(0.99 * limit).passed
    assert not verdict(1.01 * limit).passed


def test_given_tolerances_replace_the_defaults():
    found = compare.Difference(1, max_abs=0.5, largest=10.0)
    assert compare.judge_closeness(found, np.dtype(np.float32), atol=0.1, rtol=0.05).passed
    assert not compare.judge_closeness(found, np.dtype(np.float32), atol=0.1).passed
    assert not compare.judge_closeness(found, np.dtype(np.float32), rtol=0.04).passed


def test_integers_must_be_equal():
    assert compare.judge_equal(compare.difference(np.array([1, 2]), np.array([1, 2]))).passed
    verdict = compare.judge_equal(compare.difference(np.array([1, 3]), np.array([1, 2])))
    assert (verdict.passed, verdict.reason) == (False, "1 is over the limit of 0")


def test_worst_takes_the_largest_error_and_the_smallest_cosine():
    near = compare.difference(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    far = compare.difference(np.array([1.0, 2.0]), np.array([-1.0, 2.0]))
    both = compare.worst([near, far])
    assert both.max_abs == 2.0
    assert both.cosine == min(near.cosine, far.cosine)
    assert both.elements == 4
    assert both.rms == pytest.approx(math.sqrt((0.25 + 4) / 4))
    assert sum(both.histogram) == 2
