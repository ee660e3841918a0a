"""ALiBi: a bias of -slope · distance, given to the op as slopes instead of a tensor of heads · rows · keys.

The op adds -slope · |i + offset - j| (Press et al., "Train Short, Test Long", section 3). A bias is that if the two
differ, over the keys that a row may see, by no more than a number for each row: softmax does not see such a number, so
slope · j, as models write it that see only earlier keys, is ALiBi too. The op rounds less: it multiplies in float.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import size_of
from flashonnx.fusion.band import UNBOUNDED, Band, band_of
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.mask import MaskReader
from flashonnx.fusion.mask_samples import Sampler, align
from flashonnx.fusion.mask_terms import DROWNS, Meaning
from flashonnx.fusion.patterns import ancestors, data_inputs
from flashonnx.fusion.scores import MaskTerm

# Relative to the largest number of a bias or table: what float32 makes of its products and differences.
_ROUNDING = 1e-6


@dataclass
class AlibiReader:
    """Finds ALiBi among biases, and remembers which keys masks let be seen: layers share them."""

    facts: Facts
    masks: MaskReader
    _seen: dict[tuple[ir.Value, str, float], Band] = field(default_factory=dict)

    def read(self, attention: Attention) -> Meaning:
        """What the masks mean, with the one bias among them as slopes if it is ALiBi at all sizes and for all data."""
        meaning = self.masks.read(attention)
        biases = [term.source for term in meaning.terms if term.is_bias and term.is_added]
        if attention.nonpad_kv_seqlen is not None or len(biases) != 1:
            return meaning
        values = self._values(biases[0], attention)
        if values is None:
            return meaning
        others = tuple(term for term in attention.masks if term is not biases[0])
        try:
            rest = self.masks.read(dataclasses.replace(attention, masks=others))
        except Refusal:
            return meaning
        slopes = self._alibi(biases[0].value, values, rest, attention)
        return meaning if slopes is None else dataclasses.replace(rest, alibi_slopes=slopes)

    def _alibi(
        self, bias: ir.Value, values: list[np.ndarray], rest: Meaning, attention: Attention
    ) -> tuple[float, ...] | None:
        """The slopes beside the rest of the masks. |·| needs every number to be right, slope · j earlier keys alone."""
        producers = [source.producer() for source in ancestors(bias)]
        is_two_sided = any(node is not None and node.op_type == "Abs" for node in producers)
        seen = UNBOUNDED if is_two_sided else self._seen_keys(rest, attention)
        if not is_two_sided and seen.right != 0:
            return None
        is_exact = is_two_sided or attention.sink is not None
        from_end = attention.has_past or (rest.band.bounded and rest.band.from_end)
        slopes = _slopes(values, seen, from_end=from_end, is_exact=is_exact)
        return slopes if slopes and self._grows_evenly(bias, values, shifts_matter=is_exact) else None

    def _values(self, term: MaskTerm, attention: Attention) -> list[np.ndarray] | None:
        """What is added in each trace, (heads, rows, keys); None if more than sizes decide it."""
        axes = attention.mask_axes()
        sizes = [size_of(axis, self.facts.count) for axis in axes]
        values = []
        for index, trace in enumerate(self.facts.traces):
            data = trace.data(term.value)
            if data is None or data.dtype.kind != "f":
                return None
            array = align(data, term.view, axes, index).astype(np.float64) * term.factor
            if len(array) != 1 or not np.isfinite(array).all():
                return None
            values.append(np.broadcast_to(array[0], [size[index] for size in sizes[1:]]))
        return values

    def _grows_evenly(self, value: ir.Value, values: list[np.ndarray], *, shifts_matter: bool) -> bool:
        """Whether the value is made of positions by sums, differences, products with constants and |·| alone.

        Then it is at all sizes what it is at the sampled ones: nothing clips, wraps or rounds it further on.
        """
        heads, sampled = values[0].shape[0], max(max(array.shape[1:]) for array in values)
        pending, seen = [value], {value}
        while pending:
            current = pending.pop()
            constant = self.facts.constant(current)
            if constant is not None:
                if not _is_even_table(constant, heads, sampled):
                    return False
                continue
            sources = _even_sources(current, self.facts, shifts_matter)
            if sources is None:
                return False
            new = [source for source in sources if source not in seen]
            seen.update(new)
            pending.extend(new)
        return True

    def _seen_keys(self, rest: Meaning, attention: Attention) -> Band:
        """Which keys a row may see: the op's own band, or that of a mask which leaves nothing of the others."""
        band = rest.band
        for term in rest.terms:
            if term.whole and term.fill <= DROWNS and not term.is_bias:
                band = band.intersect(self._band_of(term.source, attention)) or band
        return band

    def _band_of(self, term: MaskTerm, attention: Attention) -> Band:
        key = (term.value, term.kind, term.fill)
        if key not in self._seen:
            self._seen[key] = _outer_band(Sampler(term, attention.mask_axes(), self.facts))
        return self._seen[key]


def _outer_band(sampler: Sampler) -> Band:
    """A band outside of which the mask allows nothing, whatever the data."""
    samples = sampler.samples()
    if samples is None or (data_inputs(sampler.term.value) and not sampler.varies(samples)):
        return UNBOUNDED
    band = band_of(sampler.any_row(samples))
    return (sampler.beyond(band) if band is not None else None) or UNBOUNDED


def _slopes(values: list[np.ndarray], seen: Band, *, from_end: bool, is_exact: bool) -> tuple[float, ...] | None:
    """One for each head, if every trace has the same. is_exact: not even a number for each row may be left over."""
    found = [_slopes_at(array, seen, from_end, is_exact) for array in values]
    first = found[0]
    if first is None or not np.any(first):
        return None
    if any(slopes is None or not np.allclose(slopes, first, rtol=_ROUNDING, atol=0) for slopes in found):
        return None
    return tuple(float(slope) for slope in first)


def _slopes_at(bias: np.ndarray, seen: Band, from_end: bool, is_exact: bool) -> np.ndarray | None:
    """Of one trace. bias: (heads, rows, keys)."""
    rows, keys = bias.shape[1:]
    offset = keys - rows if from_end else 0
    distance = np.abs(np.arange(rows)[:, None] + offset - np.arange(keys))
    allowed = seen.allowed(rows, keys)
    furthest = np.where(allowed, distance, -1)
    row = int(np.argmax(furthest.max(axis=1)))
    near, far = int(np.argmin(np.where(allowed[row], distance[row], rows + keys))), int(np.argmax(furthest[row]))
    if distance[row, far] <= distance[row, near]:
        return None
    slopes = (bias[:, row, near] - bias[:, row, far]) / (distance[row, far] - distance[row, near])
    slopes = slopes.astype(np.float32).astype(np.float64)
    left = np.where(allowed, bias + slopes[:, None, None] * distance, np.nan)
    known = left[:, allowed.any(axis=1)]
    low, high = np.nanmin(known, axis=2), np.nanmax(known, axis=2)
    spread = np.maximum(np.abs(low), np.abs(high)) if is_exact else high - low
    return slopes if np.all(spread <= _ROUNDING * np.abs(bias).max()) else None


_MOVES = ("Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_NUMBERS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64)


def _even_sources(value: ir.Value, facts: Facts, shifts_matter: bool) -> list[ir.Value] | None:
    """What has to grow evenly for the value to do so; None if it does not."""
    node = value.producer()
    if node is None or node.domain != "" or facts.dtype(value) not in _NUMBERS:
        return None
    inputs = [source for source in node.inputs if source is not None]
    if node.op_type in ("Shape", "Size"):
        return []
    if node.op_type in ("Abs", "Add", "Neg", "Sub"):
        return inputs
    if node.op_type in _MOVES:
        return inputs[:1]
    if node.op_type == "Slice":
        return inputs[:2] if shifts_matter else inputs[:1]
    if node.op_type == "Gather":
        return inputs[:1] if facts.scalar(inputs[1]) is not None else None
    if node.op_type == "Range":
        is_constant_step = facts.scalar(inputs[2]) is not None
        return (inputs[:1] if shifts_matter else []) if is_constant_step else None
    if node.op_type == "Cast":
        is_wider = facts.dtype(value).is_floating_point() or not facts.dtype(inputs[0]).is_floating_point()
        return inputs if is_wider else None
    if node.op_type == "Mul":
        return inputs if any(facts.constant(factor) is not None for factor in inputs) else None
    if node.op_type == "Div" and facts.dtype(value).is_floating_point():
        return inputs[:1] if facts.constant(inputs[1]) is not None else None
    return None


def _is_even_table(table: np.ndarray, heads: int, sampled: int) -> bool:
    """Whether its numbers keep their step along the axes that are longer than what was sampled, the heads' aside."""
    lengths = list(table.shape)
    if heads in lengths:
        lengths[lengths.index(heads)] = 1
    room = 4 * _ROUNDING * float(np.abs(table).max(initial=0.0))
    steps = (
        np.diff(table.astype(np.float64), n=2, axis=axis) for axis, length in enumerate(lengths) if length > sampled
    )
    return all(bool(np.all(np.abs(step) <= room)) for step in steps)
