"""Views: what axes are made of, through reshapes and transposes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashonnx.fusion.axes import AxesError, View
from flashonnx.fusion.mask_samples import align

# Two traces: batch and length vary, heads and features do not.
BATCH, LENGTH, HEADS, SIZE, WIDTH = (3, 5), (11, 17), (4, 4), (8, 8), (32, 32)


def test_a_split_axis_is_the_same_atom_everywhere():
    packed = View.fresh([BATCH, LENGTH, WIDTH])
    apart = packed.reshape([BATCH, LENGTH, HEADS, SIZE])
    (_, _, (head,), (feature,)) = apart.axes
    assert packed.axes[2] == (head, feature)


def test_merging_and_splitting_again_is_nothing():
    view = View.fresh([BATCH, HEADS, LENGTH, SIZE])
    folded = view.reshape([(12, 20), LENGTH, SIZE])
    assert folded.reshape([BATCH, HEADS, LENGTH, SIZE]).axes == view.axes


def test_untranspose_undoes_transpose():
    view = View.fresh([BATCH, HEADS, LENGTH, SIZE])
    assert view.transpose([2, 0, 3, 1]).untranspose([2, 0, 3, 1]).axes == view.axes


def test_axes_of_size_one_hold_nothing():
    view = View.fresh([BATCH, (1, 1), LENGTH])
    assert view.axes[1] == ()
    assert view.reshape([(1, 1), BATCH, LENGTH]).axes[0] == ()


@pytest.mark.parametrize("sizes", [[LENGTH, BATCH, WIDTH], [BATCH, LENGTH], [BATCH, LENGTH, WIDTH, HEADS]])
def test_reshapes_that_mix_axes_are_refused(sizes):
    with pytest.raises(AxesError):
        View.fresh([BATCH, LENGTH, WIDTH]).reshape(sizes)


@given(st.data())
def test_align_is_what_numpy_says(data):
    """Random splits, merges and moves of a tensor, brought back by its view alone."""
    sizes = [BATCH, HEADS, LENGTH, SIZE]
    view = original = View.fresh(sizes)
    array = reference = np.arange(np.prod([size[0] for size in sizes])).reshape([size[0] for size in sizes])
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(view.rank)))
            view, array = view.transpose(order), array.transpose(order)
        else:
            merged = _merge(view.sizes(), data.draw(st.integers(0, view.rank - 1)))
            try:
                view = view.reshape(merged)
            except AxesError:  # half of an axis that starts with an odd atom
                continue
            array = array.reshape([size[0] for size in merged])
    assert np.array_equal(align(array, view, original.axes, 0), reference)


def _merge(sizes, at):
    """Two neighbouring axes as one, or an even axis as two."""
    sizes = list(sizes)
    if at + 1 < len(sizes):
        product = tuple(a * b for a, b in zip(sizes[at], sizes[at + 1], strict=True))
        return [*sizes[:at], product, *sizes[at + 2 :]]
    if all(size % 2 == 0 for size in sizes[at]):
        return [*sizes[:at], (2, 2), tuple(size // 2 for size in sizes[at])]
    return sizes
