"""One mask evaluated over all traces and patterns of padding, aligned to (batch, heads, rows, keys)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.axes import Axis, View, resolve, size_of
from flashonnx.fusion.band import Band, extrapolate
from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.mask_terms import Padding
from flashonnx.fusion.patterns import ancestors, data_inputs, patterns
from flashonnx.fusion.scores import EXCLUDED, MaskTerm


@dataclass(frozen=True)
class Sample:
    """A mask that only allows and excludes, in one trace with one pattern. index: the trace's.

    allowed: (batch, heads, rows, keys), of size 1 where it does not vary. fills: the numbers that exclude.
    """

    trace: Trace
    index: int
    allowed: np.ndarray
    fills: frozenset[float]


@dataclass
class Sampler:
    """Evaluates one mask term over all traces and patterns. fills: those of all masks that it has evaluated."""

    term: MaskTerm
    axes: tuple[Axis, ...]
    facts: Facts
    fills: set[float] = field(default_factory=set)

    def samples(self) -> list[Sample] | None:
        """One for each trace and pattern; None if one is not known, or adds anything but 0 and exclusions."""
        return self._samples({})

    def _samples(self, changes: dict[ir.Value, np.ndarray]) -> list[Sample] | None:
        samples = []
        for index, trace in enumerate(self.facts.traces):
            for fed in self._feedings(trace, changes):
                sample = self._sample(fed, index)
                if sample is None:
                    return None
                samples.append(sample)
        return samples

    def added(self) -> list[np.ndarray] | None:
        """What the term adds in each trace and pattern; None if it is not known."""
        values = []
        for trace in self.facts.traces:
            for fed in self._feedings(trace, {}):
                data = fed.data(self.term.value)
                if data is None:
                    return None
                values.append(np.asarray(data * self.term.factor))
        return values

    def is_moderate(self, values: list[np.ndarray]) -> bool:
        """Whether these numbers, and the constants that they come from, are of the size of scores."""
        constants = [self.facts.constant(value) for value in ancestors(self.term.value)]
        tables = [table for table in constants if table is not None and table.dtype.kind == "f"]
        return all(bool(np.all(array > EXCLUDED)) for array in (*values, *tables))

    def _feedings(self, trace: Trace, overrides: dict[ir.Value, np.ndarray]) -> Iterator[Trace]:
        for feeds in patterns(data_inputs(self.term.value), trace):
            yield trace.with_feeds(feeds, overrides)

    def _sample(self, fed: Trace, index: int) -> Sample | None:
        data = fed.data(self.term.value)
        if data is None:
            return None
        if data.shape != fed.shape(self.term.value):  # a change of constants that changed a size
            return None
        array = align(data, self.term.view, self.axes, index)
        if self.term.kind == "add":
            sample = _additive(fed, index, array * self.term.factor)
        else:
            allowed = array.astype(bool) ^ (self.term.kind == "drop")
            sample = Sample(fed, index, allowed, frozenset([self.term.fill]))
        self.fills |= sample.fills if sample is not None else set()
        return sample

    def any_row(self, samples: list[Sample]) -> list[np.ndarray]:
        """For each trace, the (rows, keys) that any batch entry, head or pattern allows."""
        unions: dict[int, np.ndarray] = {}
        for sample in samples:
            matrix = np.broadcast_to(sample.allowed.any(axis=(0, 1)), self._size(sample.index))
            unions[sample.index] = unions.get(sample.index, np.zeros_like(matrix)) | matrix
        return list(unions.values())

    def _size(self, index: int) -> tuple[int, int]:
        rows, keys = (size_of(axis, self.facts.count)[index] for axis in self.axes[2:])
        return rows, keys

    def varies(self, samples: list[Sample]) -> bool:
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
        return extrapolate(band, self.term.value, self.facts, trace, self._probe, sampled)

    def _probe(self, changes: dict[ir.Value, np.ndarray]) -> list[np.ndarray] | None:
        """(rows, keys) of every trace with some constants replaced; None if one is not known then."""
        samples = self._samples(changes)
        return None if samples is None else self.any_row(samples)

    def explains(self, samples: list[Sample], band: Band, padding: Padding | None) -> bool:
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

    def _keys(self, padding: Padding, sample: Sample) -> np.ndarray | None:
        """The padding of one sample as (batch, 1, 1, keys)."""
        data = sample.trace.data(padding.value)
        if data is None:
            return None
        batch = size_of(self.axes[0], self.facts.count)[sample.index]
        keys = self._size(sample.index)[1]
        return (data.reshape(batch, 1, 1, keys) != 0) ^ padding.inverted

    def find_padding(self, samples: list[Sample], band: Band) -> Padding | None:
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


def _additive(trace: Trace, index: int, values: np.ndarray) -> Sample | None:
    """What an added tensor allows, if it adds nothing but 0 and exclusions."""
    allowed = values == 0
    if not np.all(allowed | (values <= EXCLUDED)):
        return None
    return Sample(trace, index, allowed, frozenset(float(fill) for fill in np.unique(values[~allowed])))


# Operators that make activations: of a mask-like input nothing is left in their results.
_MIXING = frozenset(
    [
        "Conv",
        "Einsum",
        "FusedMatMul",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "RMSNormalization",
        "Sigmoid",
        "Softmax",
        "Tanh",
    ]
)


def is_activation(value: ir.Value, facts: Facts) -> bool:
    """Whether a value of unknown data is of the size of scores, as they are: made by products or norms.

    A float input that is only moved and scaled may hold anything, such as -1e9; so may what is filled with it here.
    """
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        node = current.producer()
        constant = facts.constant(current)
        if constant is not None:
            if constant.dtype.kind == "f" and not np.all(constant > EXCLUDED):
                return False
            continue
        if node is None:
            if facts.is_float(current):
                return False
        elif node.op_type not in (*_MIXING, "Shape", "Size"):
            new = [source for source in node.inputs if source is not None and source not in seen]
            seen.update(new)
            pending.extend(new)
    return True


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
