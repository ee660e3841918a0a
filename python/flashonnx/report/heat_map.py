"""A matrix of numbers added to scores, as SVG."""

from __future__ import annotations

from html import escape

import numpy as np

_SIDE = 168.0
# At or below this a key counts as excluded: exp of it is 0.
_EXCLUDED = -1e4


def heat_map_svg(added: np.ndarray, title: str) -> str:
    """One square for each (row, key): filled if the key counts, the fuller the more is added; empty if excluded."""
    rows, keys = added.shape
    side = _SIDE / max(rows, keys, 1)
    strength = _strength(added)
    squares = [
        f'<rect x="{key * side:.1f}" y="{row * side:.1f}" width="{side * 0.9:.1f}" height="{side * 0.9:.1f}" '
        + (
            f'class="kept" fill-opacity="{strength[row, key]:.2f}"/>'
            if added[row, key] > _EXCLUDED
            else 'class="out"/>'
        )
        for row in range(rows)
        for key in range(keys)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="mask" role="img" '
            f'viewBox="0 0 {keys * side:.1f} {rows * side:.1f}" style="width: {keys * side:.0f}px">',
            f"<title>{escape(title)}</title>",
            *squares,
            "</svg>",
        ]
    )


def _strength(added: np.ndarray) -> np.ndarray:
    """From 0.25 for the least that is added to 1 for the most; 1 where all is the same."""
    known = added[added > _EXCLUDED]
    least, most = (known.min(), known.max()) if known.size else (0.0, 0.0)
    if most == least:
        return np.ones_like(added)
    return 0.25 + 0.75 * np.clip((added - least) / (most - least), 0, 1)
