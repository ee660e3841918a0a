"""Keys allowed by their distance from the query alone: causal masks and sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts
from flashonnx.fusion.patterns import ancestors


@dataclass(frozen=True)
class Band:
    """Query i may see key j if -left <= j - (i + offset) <= right; -1 is unbounded, as in the op's window attributes.

    from_end: offset is the number of keys less the number of queries (the queries are the last ones), else it is 0.
    """

    left: int = -1
    right: int = -1
    from_end: bool = False

    def allowed(self, rows: int, keys: int) -> np.ndarray:
        distance = _distance(rows, keys, self.from_end)
        allowed = np.ones((rows, keys), bool)
        if self.left >= 0:
            allowed &= distance >= -self.left
        if self.right >= 0:
            allowed &= distance <= self.right
        return allowed

    @property
    def bounded(self) -> bool:
        return self.left >= 0 or self.right >= 0

    @property
    def can_miss_all_keys(self) -> bool:
        """Whether a query is left without a key where there are many more queries than keys."""
        return self.right >= 0 if self.from_end else self.left >= 0

    def intersect(self, other: Band) -> Band | None:
        """Both at once; None where one counts from the start and the other from the end."""
        if not other.bounded or not self.bounded:
            return self if self.bounded else other
        if self.from_end != other.from_end:
            return None
        return Band(_tighter(self.left, other.left), _tighter(self.right, other.right), self.from_end)

    def describe(self) -> str:
        if self.right == 0:
            return "causal" if self.left < 0 else f"causal window of {self.left + 1}"
        return f"window ({self.left}, {self.right})"


UNBOUNDED = Band()


def _tighter(a: int, b: int) -> int:
    return max(a, b) if min(a, b) < 0 else min(a, b)


def _distance(rows: int, keys: int, from_end: bool) -> np.ndarray:
    offset = keys - rows if from_end else 0
    return np.arange(keys)[None, :] - np.arange(rows)[:, None] - offset


def band_of(allowed: Sequence[np.ndarray]) -> Band | None:
    """The band that all of these (rows, keys) matrices are; None if there is none."""
    if all(matrix.all() for matrix in allowed):
        return UNBOUNDED
    for from_end in (False, True):
        band = _band_from(allowed, from_end)
        if band is not None:
            return band
    return None


def _band_from(allowed: Sequence[np.ndarray], from_end: bool) -> Band | None:
    lefts, rights = set(), set()
    for matrix in allowed:
        rows, keys = matrix.shape
        distance = _distance(rows, keys, from_end)
        if not matrix.any():
            return None
        left, right = -distance[matrix].min(), distance[matrix].max()
        lefts.add(-1 if left == -distance.min() else int(left))
        rights.add(-1 if right == distance.max() else int(right))
    # A bound that is too wide for some of the matrices is the one that the others show.
    bounds = [side - {-1} or side for side in (lefts, rights)]
    if any(len(side) > 1 for side in bounds):
        return None
    band = Band(bounds[0].pop(), bounds[1].pop(), from_end)
    if min(band.left, band.right) < -1:
        return None
    fits = all(np.array_equal(band.allowed(*matrix.shape), matrix) for matrix in allowed)
    return band if fits else None


# The mask of every trace with some constants replaced; None if it is not known then.
Probe = Callable[[dict[ir.Value, np.ndarray]], "list[np.ndarray] | None"]


def extrapolate(band: Band, mask: ir.Value, facts: Facts, trace: Trace, probe: Probe, sampled: int) -> Band | None:
    """The band at sizes beyond the sampled ones, or None if it cannot be told. trace: the largest.

    A window wider than every sampled size does not show, nor does what a stored table holds further on. So every number
    in the mask's subgraph that is larger than `sampled` is made small and the mask probed again: what then changes is
    a window of that number. Tables must be one band throughout, and conditions on sizes alone must not matter.
    """
    for value in ancestors(mask):
        constant = facts.constant(value)
        if _is_condition(value, trace):
            further = band if _is_indifferent(value, trace, probe) else None
        elif constant is None or constant.dtype.kind not in "biuf" or constant.size == 0:
            further = band
        elif constant.size == 1:
            further = _with_number(band, value, constant, probe, sampled)
        else:
            further = band if _regular(constant, band, sampled) else None
        if further is None:
            return None
        band = further
    return band


def _is_condition(value: ir.Value, trace: Trace) -> bool:
    """Whether the value is true or false by the sizes alone, as "more than 100 rows" is."""
    data = trace.data(value)
    if data is None or data.dtype != np.bool_ or data.size != 1:
        return False
    producers = (source.producer() for source in ancestors(value))
    return any(node is not None and node.op_type in ("Shape", "Size") for node in producers)


def _is_indifferent(condition: ir.Value, trace: Trace, probe: Probe) -> bool:
    """Whether the mask would be the same if the condition came out differently."""
    data = trace.data(condition)
    assert data is not None
    as_is, flipped = probe({}), probe({condition: ~data})
    return as_is is None or flipped is None or all(map(np.array_equal, as_is, flipped))


def _with_number(band: Band, value: ir.Value, constant: np.ndarray, probe: Probe, sampled: int) -> Band | None:
    number = abs(float(constant.reshape(-1)[0]))
    # Smaller numbers have shown their effect; larger ones are sentinels ("to the end") and fills (-1e4 and below).
    if not sampled <= number < (1e4 if constant.dtype.kind == "f" else 2**31 - 1):
        return band
    bands = []
    for small in (3, 4):
        stand_in = np.full_like(constant, small * np.sign(constant))
        matrices = probe({value: stand_in})
        if matrices is None and not _is_stored(value):
            return band  # part of a shape
        bands.append(None if matrices is None else band_of(matrices))
    first, second = bands
    if first is None or second is None or first.from_end != second.from_end:
        return None
    for side in ("left", "right"):
        low, high, now = getattr(first, side), getattr(second, side), getattr(band, side)
        if low == high == now:
            continue
        bound = low - 3 + int(number)
        if high != low + 1 or now not in (-1, bound) or (band.bounded and band.from_end != first.from_end):
            return None
        band = replace(band, **{side: bound}, from_end=first.from_end)
    return band


def _is_stored(value: ir.Value) -> bool:
    node = value.producer()
    return node is None or node.op_type == "Constant"


def _regular(table: np.ndarray, band: Band, sampled: int) -> bool:
    """Whether a table says at all sizes what it says at the sampled ones."""
    table = table.squeeze().astype(np.float64)
    long_axes = [axis for axis, length in enumerate(table.shape) if length > sampled]
    if len(long_axes) >= 2:
        return long_axes == [table.ndim - 2, table.ndim - 1] and _is_band_table(table, band)
    with np.errstate(invalid="ignore"):  # -inf - -inf is not regular either
        steps = [np.diff(table, axis=axis) for axis in long_axes]
    return all(bool(np.all(step == step.reshape(-1)[0])) for step in steps)


def _is_band_table(table: np.ndarray, band: Band) -> bool:
    matrix = table.reshape(-1, *table.shape[-2:])
    if len(matrix) != 1 or len(np.unique(matrix)) > 2:
        return False
    for allowed in (matrix[0] == matrix[0, 0, 0], matrix[0] != matrix[0, 0, 0]):
        found = band_of([allowed])
        if found is not None and (found.left, found.right) == (band.left, band.right):
            return True
    return False
