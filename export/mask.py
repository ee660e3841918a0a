"""What a mask means, found by evaluating its subgraph over several sizes and several patterns of padding.

A term that only allows or excludes keys is taken apart into a band (causal, window: the op's attributes) and padding
(a tensor of batch by keys that is in the graph already). What cannot be taken apart is handed to the op as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from flashonnx.fusion import dead_rows
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import Axis, View, resolve, size_of
from flashonnx.fusion.band import UNBOUNDED, Band, band_of, extrapolate
from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.mean_rows import can_restore
from flashonnx.fusion.patterns import PATTERNS, Feeds, ancestors, data_inputs, patterns
from flashonnx.fusion.scores import EXCLUDED, MaskTerm

# An exclusion at or below this drowns every fp32 score: a row with no other key becomes exactly uniform.
_DROWNS = -1e30


@dataclass(frozen=True)
class Padding:
    """Keys that a batch entry may attend: where value, over batch and keys, is nonzero (inverted: is zero)."""

    value: ir.Value
    inverted: bool


@dataclass(frozen=True)
class Term:
    """A MaskTerm understood as band and padding, which together allow exactly what it allows; else `whole`.

    allowed: what it allows in every sample, as (batch, heads, rows, keys) with axes of 1 where it does not vary; None
    if it is a bias, or depends on what cannot be evaluated.
    """

    source: MaskTerm
    fill: float = -np.inf
    band: Band = UNBOUNDED
    padding: Padding | None = None
    whole: bool = False
    allowed: tuple[np.ndarray, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.fill))

    @property
    def replaces(self) -> bool:
        return self.source.replaces

    def fill_for(self, dtype: np.dtype) -> float:
        """What the op adds to exclude a key: where the file replaces the score, a number beside which it is lost."""
        return min(self.fill, _DROWNS) if self.replaces and dtype != np.float16 else self.fill

    @property
    def varies_by_head(self) -> bool:
        return self.allowed is not None and any(array.shape[1] > 1 for array in self.allowed)

    def kept_whole(self) -> Term:
        return replace(self, band=UNBOUNDED, padding=None, whole=True)


@dataclass(frozen=True)
class Meaning:
    """All masks of one attention together.

    mean_rows: in the file a row without any allowed key is the mean of V over all keys; the op would make it 0.
    """

    terms: tuple[Term, ...] = ()
    band: Band = UNBOUNDED
    mean_rows: bool = False

    @property
    def rounding(self) -> float:
        """What fp32 loses of scores to which a moderate finite number such as -10000 is added."""
        fills = [-term.fill for term in self.terms if term.finite and term.fill > _DROWNS and not term.replaces]
        return max(fills, default=0.0) * float(np.finfo(np.float32).eps)

    def describe(self) -> str:
        words = [self.band.describe()] if self.band.bounded else []
        if any(term.padding for term in self.terms):
            words.append("padding")
        words += sorted({"bias" if term.allowed is None else "mask" for term in self.terms if term.whole})
        return " + ".join(words) or "none"


@dataclass
class MaskReader:
    """Reads masks, and remembers what it has read: layers share them."""

    facts: Facts
    _read: dict[tuple[object, ...], Term] = field(default_factory=dict)

    def read(self, attention: Attention) -> Meaning:
        terms = [self._term(term, attention.mask_axes()) for term in attention.masks]
        terms = [term for term in terms if term.whole or term.padding or term.band.bounded]
        lengths_differ = attention.lengths_differ(self.facts)
        own = Band(attention.left, 0 if attention.causal else attention.right, from_end=attention.has_past)
        if attention.nonpad_kv_seqlen is not None or (attention.has_past and lengths_differ):
            # The op counts its band from the past, or by the entry's length: only a band that counts so may join it.
            terms = [_agreeing(term, attention, own) for term in terms]
        # With sinks, such a row is 0 however its keys are excluded.
        surplus = self._has_surplus_rows(terms, attention)
        if attention.sink is None and (surplus or dead_rows.exist(terms)):
            dtype = self.facts.dtype(attention.y[0].value).numpy()
            return _with_dead_rows(terms, own, dtype, lengths_differ=lengths_differ, surplus=surplus)
        return _combine(terms, own)

    def _has_surplus_rows(self, terms: list[Term], attention: Attention) -> bool:
        """Whether there may be so many more queries than keys that a band of finite numbers leaves some without."""
        rows, keys = (size_of(resolve(axis), self.facts.count) for axis in (attention.rows, attention.keys))
        more_rows = any(row > key for row, key in zip(rows, keys, strict=True))
        return more_rows and any(term.finite and term.band.can_miss_all_keys for term in terms)

    def _term(self, term: MaskTerm, axes: tuple[Axis, ...]) -> Term:
        layout = tuple(tuple(_place(atom, axes) for atom in axis) for axis in term.view.axes)
        key = (term.value, term.kind, term.factor, term.fill, layout)
        if key not in self._read:
            self._read[key] = _read_term(_Sampler(term, axes, self.facts))
        return replace(self._read[key], source=term)


def _agreeing(term: Term, attention: Attention, own: Band) -> Term:
    counts_alike = attention.nonpad_kv_seqlen is None and term.band.from_end == own.from_end
    return term if counts_alike or not term.band.bounded else term.kept_whole()


def _place(atom: object, axes: tuple[Axis, ...]) -> tuple[int, int] | None:
    for number, axis in enumerate(axes):
        if atom in axis:
            return number, axis.index(atom)
    return None


def _read_term(sampler: _Sampler) -> Term:
    term = sampler.term
    samples = list(sampler.samples())
    fills = {fill for sample in samples if sample is not None for fill in sample.fills}
    if any(sample is None for sample in samples) or len(fills) > 1:
        return Term(term, term.fill if term.kind != "add" else 0.0, whole=True)
    understood = [sample for sample in samples if sample is not None]
    allowed = tuple(sample.allowed for sample in understood)
    fill = fills.pop() if fills else -np.inf
    whole = Term(term, fill, whole=True, allowed=allowed)
    sampled = band_of(sampler.any_row(understood))
    if sampled is None:
        return whole
    if data_inputs(term.value) and not sampler.varies(understood):
        return whole  # it depends on data in a way that no pattern has shown
    band = sampler.beyond(sampled)
    if band is None:
        return whole
    plain = Term(term, fill, band, allowed=allowed)
    if sampler.explains(understood, sampled, None):
        return plain
    padding = sampler.find_padding(understood, sampled)
    return whole if padding is None else replace(plain, padding=padding)


@dataclass(frozen=True)
class _Sample:
    trace: Trace
    index: int
    allowed: np.ndarray
    fills: frozenset[float]


@dataclass
class _Sampler:
    """Evaluates one mask term over all traces and patterns, aligned to (batch, heads, rows, keys)."""

    term: MaskTerm
    axes: tuple[Axis, ...]
    facts: Facts

    def samples(self) -> Iterator[_Sample | None]:
        """One for each trace and pattern, in the same order for every term, so that terms can be laid together."""
        inputs = data_inputs(self.term.value)
        for index, trace in enumerate(self.facts.traces):
            samples = [self._sample(trace, index, feeds, {}) for feeds in patterns(inputs, trace)]
            yield from samples * (len(PATTERNS) // len(samples))

    def _sample(self, trace: Trace, index: int, feeds: Feeds, overrides: dict[ir.Value, np.ndarray]) -> _Sample | None:
        fed = trace.with_feeds(feeds, overrides)
        data = fed.data(self.term.value)
        if data is None:
            return None
        if data.shape != trace.shape(self.term.value):  # a change of constants that changed a size
            return None
        array = align(data, self.term.view, self.axes, index)
        if self.term.kind == "add":
            return _additive(fed, index, array * self.term.factor)
        allowed = array.astype(bool) ^ (self.term.kind == "drop")
        return _Sample(fed, index, allowed, frozenset([self.term.fill]))

    def any_row(self, samples: list[_Sample]) -> list[np.ndarray]:
        """For each trace, the (rows, keys) that any batch entry, head or pattern allows."""
        unions: dict[int, np.ndarray] = {}
        for sample in samples:
            matrix = np.broadcast_to(sample.allowed.any(axis=(0, 1)), self._size(sample.index))
            unions[sample.index] = unions.get(sample.index, np.zeros_like(matrix)) | matrix
        return list(unions.values())

    def _size(self, index: int) -> tuple[int, int]:
        rows, keys = (size_of(axis, self.facts.count)[index] for axis in self.axes[2:])
        return rows, keys

    def varies(self, samples: list[_Sample]) -> bool:
        """Whether the mask is another one for other data at the same sizes."""
        return any(
            bool(np.any(sample.allowed != other.allowed))
            for sample, other in itertools.pairwise(samples)
            if sample.index == other.index
        )

    def beyond(self, band: Band) -> Band | None:
        """The sampled band at the sizes that no trace has, if there are such."""
        if not any(len(set(size_of(axis, self.facts.count))) > 1 for axis in self.axes[2:]):
            return band
        largest = max(range(self.facts.count), key=lambda index: min(self._size(index)))
        trace, sampled = self.facts.traces[largest], min(self._size(largest))
        return extrapolate(
            band, self.term.value, self.facts, trace, lambda changes: self._probe(largest, changes), sampled
        )

    def _probe(self, index: int, changes: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
        """One trace's (rows, keys) with some constants replaced."""
        trace = self.facts.traces[index]
        found = [self._sample(trace, index, feeds, changes) for feeds in patterns(data_inputs(self.term.value), trace)]
        samples = [sample for sample in found if sample is not None]
        return self.any_row(samples)[0] if len(samples) == len(found) else None

    def explains(self, samples: list[_Sample], band: Band, padding: Padding | None) -> bool:
        for sample in samples:
            expected = band.allowed(*self._size(sample.index))[None, None]
            if padding is not None:
                keys = self._keys(padding, sample)
                if keys is None:
                    return False
                expected = expected & keys
            if not np.all(expected == sample.allowed):  # both broadcast to all axes
                return False
        return True

    def _keys(self, padding: Padding, sample: _Sample) -> np.ndarray | None:
        """The padding of one sample as (batch, 1, 1, keys)."""
        data = sample.trace.data(padding.value)
        if data is None:
            return None
        batch = size_of(self.axes[0], self.facts.count)[sample.index]
        keys = self._size(sample.index)[1]
        return (data.reshape(batch, 1, 1, keys) != 0) ^ padding.inverted

    def find_padding(self, samples: list[_Sample], band: Band) -> Padding | None:
        """A value that, with the band, explains the mask: bools first, then what takes least to make."""
        wanted = [size_of(axis, self.facts.count) for axis in (self.axes[0], self.axes[3])]
        wanted = [size for size in wanted if set(size) != {1}]
        found = []
        for value in ancestors(self.term.value):
            if value.const_value is not None or not self._has_sizes(value, wanted):
                continue
            for padding in (Padding(value, inverted=False), Padding(value, inverted=True)):
                if self.explains(samples, band, padding):
                    is_number = self.facts.dtype(value) != ir.DataType.BOOL
                    found.append((is_number, len(ancestors(value)), padding))
        return min(found, key=lambda candidate: candidate[:2])[2] if found else None

    def _has_sizes(self, value: ir.Value, wanted: list[tuple[int, ...]]) -> bool:
        try:
            return [size for size in self.facts.sizes(value) if set(size) != {1}] == wanted
        except Refusal:
            return False


def _additive(trace: Trace, index: int, values: np.ndarray) -> _Sample | None:
    """What an added tensor allows, if it adds nothing but 0 and exclusions."""
    allowed = values == 0
    if not np.all(allowed | (values <= EXCLUDED)):
        return None
    return _Sample(trace, index, allowed, frozenset(float(fill) for fill in np.unique(values[~allowed])))


def align(data: np.ndarray, view: View, axes: tuple[Axis, ...], index: int) -> np.ndarray:
    """A tensor of that view as one with the given axes, of size 1 where it does not vary. index: the trace."""
    order = view.atoms()
    target = [atom for axis in axes for atom in resolve(axis)]
    if any(atom not in target for atom in order):
        raise Refusal("a mask varies along an axis that the scores do not have")
    data = data.reshape([atom.size[index] for atom in order])
    present = [atom for atom in target if atom in order]
    data = data.transpose([order.index(atom) for atom in present])
    data = data.reshape([atom.size[index] if atom in order else 1 for atom in target])
    for axis in axes:  # an axis that varies only in part has to vary in whole to be one axis again
        if any(atom in order for atom in axis):
            full = [atom.size[index] if atom in axis else size for atom, size in zip(target, data.shape, strict=True)]
            data = np.broadcast_to(data, full)
    return data.reshape([_extent(axis, order, index) for axis in axes])


def _extent(axis: Axis, present: Axis, index: int) -> int:
    return int(np.prod([atom.size[index] for atom in axis])) if any(atom in present for atom in axis) else 1


def _combine(terms: list[Term], own: Band, *, mean_rows: bool = False) -> Meaning:
    """Bands become the op's attributes, as far as they count from the same end."""
    band = own
    kept = list(terms)
    for position, term in enumerate(terms):
        both = band.intersect(term.band)
        if both is None:
            kept[position] = term.kept_whole()
        else:
            band = both
    return Meaning(tuple(kept), band, mean_rows)


def _with_dead_rows(terms: list[Term], own: Band, dtype: np.dtype, *, lengths_differ: bool, surplus: bool) -> Meaning:
    """The cheapest way under which a row without any key comes out as in the file. Raises Refusal if there is none."""
    banded = [term for term in terms if term.finite and term.band.bounded]
    is_mean = not own.bounded and dead_rows.are_mean(terms)
    is_apart = len(banded) == 1 and any(term.padding for term in terms) and not any(term.whole for term in terms)
    if is_mean and is_apart and not surplus and can_restore(banded[0].band, lengths_differ):
        return _combine(terms, own, mean_rows=True)
    whole = [term.kept_whole() if term in banded else term for term in terms]
    if own.bounded or dead_rows.are_kept(whole, dtype):
        return _combine(whole, own)
    if is_mean and not any(term.varies_by_head for term in terms):
        return _combine(
            [term if term.padding and not term.band.bounded else term.kept_whole() for term in terms],
            own,
            mean_rows=True,
        )
    raise Refusal("a row without any allowed key would not come out as in the file")
