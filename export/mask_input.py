"""From a mask's meaning to the op's attn_mask, as small as it can be."""

from __future__ import annotations

import onnx_ir as ir

from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import Axis, size_of
from flashonnx.fusion.emit import Emitter, layout_cost
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.mask_terms import Meaning, Padding, Term
from flashonnx.fusion.operand import walk_operand


def op_dtype(attention: Attention, meaning: Meaning, facts: Facts) -> ir.DataType:
    """The op's type T: the output's, unless that cannot say what the masks mean."""
    return ir.DataType.FLOAT if meaning.widened else facts.dtype(attention.y[0].value)


def emit_mask(attention: Attention, meaning: Meaning, query: ir.Value, emitter: Emitter) -> ir.Value | None:
    """One attn_mask of all terms: bool where they only exclude, in Q's type where something is added."""
    if meaning.is_bool:
        return _allowed(meaning, attention, query, emitter)
    terms = [term for term in meaning.terms if term.is_masking]
    return _added(terms, op_dtype(attention, meaning, emitter.facts), attention, query, emitter)


def _allowed(meaning: Meaning, attention: Attention, query: ir.Value, emitter: Emitter) -> ir.Value | None:
    """The keys that all terms allow."""
    allowed = None
    for term in meaning.terms:
        if term.is_masking:
            keep = _keep(term, attention, query, emitter)
            allowed = keep if allowed is None else emitter.op("And", allowed, keep)
    return allowed


def _added(
    terms: list[Term], dtype: ir.DataType, attention: Attention, query: ir.Value, emitter: Emitter
) -> ir.Value | None:
    """What the terms make of scores of 0, one after the other as in the file, the innermost first."""
    mask = None
    for term in reversed(terms):
        if term.is_added:
            value = _bias(term, attention, query, dtype, emitter)
        else:
            inner = mask if term.replaces and mask is not None else emitter.scalar(0.0, dtype)
            value = emitter.op("Where", _keep(term, attention, query, emitter), inner, emitter.scalar(term.fill, dtype))
        mask = value if mask is None or term.replaces else emitter.op("Add", mask, value)
    return mask


def _padding(padding: Padding, attention: Attention, emitter: Emitter) -> ir.Value:
    """The padding as a bool of (batch, 1, 1, keys)."""
    value = padding.value
    if emitter.facts.dtype(value) != ir.DataType.BOOL:
        value = emitter.op("Cast", value, to=int(ir.DataType.BOOL))
    if padding.inverted:
        value = emitter.op("Not", value)
    batch, _, _, keys = attention.mask_axes()
    sizes = emitter.facts.sizes(padding.value)
    axes = tuple(() if set(size) == {1} else (batch if size == size_of(batch, len(size)) else keys) for size in sizes)
    return emitter.reshape(value, axes, (batch, (), (), keys))


def _keep(term: Term, attention: Attention, query: ir.Value, emitter: Emitter) -> ir.Value:
    """Where the term allows a key."""
    if term.padding is not None:
        return _padding(term.padding, attention, emitter)
    value = _aligned(term, attention, query, emitter)
    return value if term.source.kind == "keep" else emitter.op("Not", value)


def _bias(term: Term, attention: Attention, query: ir.Value, dtype: ir.DataType, emitter: Emitter) -> ir.Value:
    value = _aligned(term, attention, query, emitter)
    if emitter.facts.dtype(term.source.value) != dtype:
        value = emitter.op("Cast", value, to=int(dtype))
    if term.source.factor != 1.0:
        value = emitter.op("Mul", value, emitter.scalar(term.source.factor, dtype))
    return value


def _aligned(term: Term, attention: Attention, query: ir.Value, emitter: Emitter) -> ir.Value:
    """The mask as rank 4, broadcast over the axes that it does not vary along. query: the op's Q."""
    places = walk_operand(term.source.value, term.source.view, emitter.facts, scalable=False)
    axes = attention.mask_axes()  # only now: the walk takes rows and keys apart where the mask is made of their parts
    options = []
    for index, place in enumerate(places):
        present = set(place.view.atoms())
        target = tuple(tuple(atom for atom in axis if atom in present) for axis in axes)
        cost = layout_cost(place.view, target)
        if cost is not None and all(map(_can_broadcast, target, axes, (True, False, False, False))):
            options.append((len(present), cost, index, target))
    if not options:
        raise Refusal("a mask varies along part of the batch or head axis only", term.source.value.producer())
    _, _, index, target = min(options, key=lambda option: option[:3])
    value = emitter.layout(places[index], target)
    if target[0] in ((), axes[0]):
        return value
    # One mask for each of the windows that a batch entry is made of: the batch axis repeats them.
    repeats = emitter.op("Div", emitter.dim(query, 0), emitter.ints(size_of(target[0], emitter.facts.count)[0]))
    return emitter.op("Tile", value, emitter.op("Concat", repeats, emitter.ints(1, 1, 1), axis=0))


def _can_broadcast(part: Axis, whole: Axis, may_repeat: bool) -> bool:
    """Whether what varies along part of an axis can be made to vary along the whole of it."""
    if part in ((), whole):
        return True
    return may_repeat and whole[-len(part) :] == part and all(atom.is_constant() for atom in part)
