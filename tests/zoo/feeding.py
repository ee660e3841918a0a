"""What the zoo's models are fed, and how near their outputs are."""

from __future__ import annotations

import numpy as np

from flashonnx.validation.compare import CLOSENESS, difference

Feeds = dict[str, np.ndarray]

# Masks by their input's name: what stands for a row that counts, and for padding.
_MASKS = {"attention_mask": (1, 0), "padding": (False, True)}


def paddings(feeds: Feeds) -> dict[str, Feeds]:
    """The inputs with padding on the right, as they have it, on the left, on neither side, and one entry all padding.

    Only "as given" for a model that takes no mask.
    """
    found = {"as given": feeds}
    for name, (on, off) in _MASKS.items():
        if name in feeds:
            left, none, dead = (np.full_like(feeds[name], on) for _ in range(3))
            left[-1, : left.shape[1] // 3] = off
            dead[-1] = off
            found = {"right": feeds}
            found |= {kind: feeds | {name: mask} for kind, mask in (("left", left), ("none", none), ("dead", dead))}
    return found


def relative_difference(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The largest, over the outputs, of |found - expected| by the largest |expected|; NaN if only found is not finite.

    Where the original says NaN or infinity, from a row without any key, the other may say something better.
    Raises ValueError if shapes differ.
    """
    return float(np.max([_relative(old, new) for old, new in zip(expected, found, strict=True)]))


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        raise ValueError(f"shape {found.shape} where the original has {expected.shape}")
    known = np.isfinite(expected)
    apart = difference(found[known], expected[known])
    return float("nan") if apart.nonfinite_mismatches else apart.max_abs / (apart.largest or 1.0)


def tolerance(dtype: str) -> float:
    """The largest relative_difference with which outputs of a model in that dtype count as equal."""
    return CLOSENESS[dtype]
