"""Bands: causal masks and windows, recognised by what they allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashonnx.fusion.band import UNBOUNDED, Band, band_of

SIZES = ((11, 11), (23, 23), (37, 37))
LONGER_KEYS = ((5, 11), (7, 23), (9, 17))


@given(left=st.integers(-1, 8), right=st.integers(-1, 8))
def test_a_band_is_recognised(left, right):
    band = Band(left, right)
    assert band_of([band.allowed(*size) for size in SIZES]) == band


@given(left=st.integers(-1, 3), right=st.integers(0, 3))
def test_a_band_that_counts_from_the_end_is_told_from_one_that_does_not(left, right):
    band = Band(left, right, from_end=True)
    assert band_of([band.allowed(*size) for size in LONGER_KEYS]) == band


@given(st.integers(0, 10), st.integers(0, 10))
def test_one_key_more_or_less_is_no_band(row, key):
    matrices = [Band(right=0).allowed(*size) for size in SIZES]
    matrices[0][row, key] ^= True
    assert band_of(matrices) is None


def test_everything_allowed_is_unbounded():
    assert band_of([np.ones(size, bool) for size in SIZES]) == UNBOUNDED


def test_nothing_allowed_is_no_band():
    assert band_of([np.zeros(size, bool) for size in SIZES]) is None


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (Band(right=0), Band(left=3), Band(3, 0)),
        (Band(5, 2), Band(3, 4), Band(3, 2)),
        (UNBOUNDED, Band(right=0, from_end=True), Band(right=0, from_end=True)),
        (Band(right=0), Band(left=3, from_end=True), None),
    ],
)
def test_two_bands_at_once(first, second, both):
    assert first.intersect(second) == both
    assert second.intersect(first) == both
