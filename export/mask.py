"""What a mask means, found by evaluating its subgraph over several sizes and several patterns of padding.

A term that only allows or excludes keys is taken apart into a band (causal, window: the op's attributes) and padding
(a tensor of batch by keys that is in the graph already). What cannot be taken apart is handed to the op as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import Axis
from flashonnx.fusion.band import Band, band_of
from flashonnx.fusion.dead_rows import Surroundings, with_dead_rows
from flashonnx.fusion.facts import Facts
from flashonnx.fusion.mask_samples import Sampler, is_activation
from flashonnx.fusion.mask_terms import Meaning, Term, joined
from flashonnx.fusion.patterns import data_inputs
from flashonnx.fusion.scores import MaskTerm


@dataclass
class MaskReader:
    """Reads masks, and remembers what it has read: layers share them."""

    facts: Facts
    _read: dict[tuple[object, ...], Term] = field(default_factory=dict)

    def read(self, attention: Attention) -> Meaning:
        """Raises Refusal where a row without any allowed key would not come out as in the file."""
        terms = [self._term(term, attention.mask_axes()) for term in attention.masks]
        terms = [term for term in terms if term.is_masking or term.band.bounded]
        own = Band(attention.left, 0 if attention.causal else attention.right, from_end=attention.has_past)
        if attention.nonpad_kv_seqlen is not None or (attention.has_past and attention.lengths_differ(self.facts)):
            # The op counts its band from the past, or by the entry's length: only a band that counts so may join it.
            terms = [_agreeing(term, attention, own) for term in terms]
        if attention.sink is not None:  # then a row without keys is 0 however they are excluded
            return joined(terms, own)
        dtype = self.facts.dtype(attention.y[0].value)
        more_rows = attention.may_have_more_rows_than_keys(self.facts)
        return with_dead_rows(terms, Surroundings(own, dtype, more_rows))

    def _term(self, term: MaskTerm, axes: tuple[Axis, ...]) -> Term:
        layout = tuple(tuple(_place(atom, axes) for atom in axis) for axis in term.view.axes)
        key = (term.value, term.kind, term.factor, term.fill, layout)
        if key not in self._read:
            self._read[key] = _read_term(Sampler(term, axes, self.facts))
        return replace(self._read[key], source=term)


def _agreeing(term: Term, attention: Attention, own: Band) -> Term:
    counts_alike = attention.nonpad_kv_seqlen is None and term.band.from_end == own.from_end
    return term if counts_alike or not term.band.bounded else term.kept_whole()


def _place(atom: object, axes: tuple[Axis, ...]) -> tuple[int, int] | None:
    for number, axis in enumerate(axes):
        if atom in axis:
            return number, axis.index(atom)
    return None


def _read_term(sampler: Sampler) -> Term:
    term = sampler.term
    samples = sampler.samples()
    if samples is None:
        return _not_understood(sampler)
    fills = {fill for sample in samples for fill in sample.fills}
    if len(fills) > 1:
        return _not_understood(sampler)
    fill = fills.pop() if fills else -np.inf
    whole = Term(term, fill, whole=True)
    sampled = band_of(sampler.any_row(samples))
    if sampled is None:
        return whole
    if data_inputs(term.value) and not sampler.varies(samples):
        return whole  # it depends on data in a way that no pattern has shown
    band = sampler.beyond(sampled)
    if band is None or (band.bounded and len(sampler.fills) != 1):
        return whole  # the keys beyond the samples are excluded in a way, or by a number, that is not known
    plain = replace(whole, fill=min(sampler.fills, default=fill), band=band, whole=False)
    if sampler.explains(samples, sampled, None):
        return plain
    padding = sampler.find_padding(samples, sampled)
    return whole if padding is None else replace(plain, padding=padding)


def _not_understood(sampler: Sampler) -> Term:
    """A mask of unknown data, or numbers to add that are not all 0 or one fill."""
    term = sampler.term
    if term.kind != "add":
        return Term(term, term.fill, whole=True)
    values = sampler.added()
    is_moderate = is_activation(term.value, sampler.facts) if values is None else sampler.is_moderate(values)
    return Term(term, 0.0, whole=True, is_bias=True, is_moderate=is_moderate)
