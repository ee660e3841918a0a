"""The zoo's own measure: it sees what is wrong, and forgives only what the original leaves open."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.zoo.feeding import paddings, relative_difference


def test_relative_to_the_largest_of_an_output():
    expected = [np.array([1.0, 10.0]), np.array([1.0])]
    assert relative_difference(expected, [np.array([1.1, 10.0]), np.array([1.0])]) == pytest.approx(0.01)
    assert relative_difference(expected, [np.array([1.0, 10.0]), np.array([1.2])]) == pytest.approx(0.2)


def test_nan_is_forgiven_only_where_the_original_has_it():
    expected = [np.array([1.0, np.nan, np.inf])]
    assert relative_difference(expected, [np.array([1.0, 0.0, 5.0])]) == 0.0
    assert math.isnan(relative_difference(expected, [np.array([np.nan, 0.0, 0.0])]))
    assert math.isnan(relative_difference([np.array([1.0]), np.array([1.0])], [np.array([np.nan]), np.array([2.0])]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) where the original has \(2,\)"):
        relative_difference([np.ones(2)], [np.ones((1, 2))])


@pytest.mark.parametrize(("name", "on", "off"), [("attention_mask", 1, 0), ("padding", False, True)])
def test_paddings_on_every_side(name, on, off):
    mask = np.full((2, 9), on)
    mask[-1, 6:] = off
    found = {kind: feeds[name] for kind, feeds in paddings({name: mask, "x": np.zeros(1)}).items()}
    assert set(found) == {"right", "left", "none", "dead"}
    assert (found["right"] == mask).all()
    assert (found["none"] == on).all()
    assert (found["left"][-1] == [off] * 3 + [on] * 6).all()
    assert (found["dead"][-1] == off).all()
    for kind in ("left", "none", "dead"):
        assert (found[kind][0] == on).all()


def test_a_model_without_mask_is_fed_as_it_is():
    feeds = {"pixel_values": np.zeros((1, 3))}
    assert paddings(feeds) == {"as given": feeds}
