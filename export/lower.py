"""From the normal form to the op: the one place that emits FlashAttention.

Takes Q, K and V, and gives the output, where that costs the least: as (batch, row, head·feature) wherever the model has
them so, which leaves no Transpose or Reshape around the op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention, count_of
from flashonnx.fusion.axes import Axis, View, resolve
from flashonnx.fusion.emit import Emitter, layout_cost
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.layouts import Layout, cheapest, choose_layout
from flashonnx.fusion.mask_input import emit_mask, op_dtype
from flashonnx.fusion.mask_terms import Meaning
from flashonnx.fusion.operand import Place, walk_operand
from flashonnx.fusion.portable import Form


@dataclass(frozen=True)
class Lowered:
    """The new node, and the values that its results take the place of, as (old, new); the output first."""

    node: ir.Node
    form: Form
    layout: Layout
    replaced: tuple[tuple[ir.Value, ir.Value], ...]


def lower(attention: Attention, meaning: Meaning, emitter: Emitter) -> Lowered:
    """Adds the fused op beside what it will replace. Raises Refusal if it cannot be spelled."""
    layout = choose_layout(attention, emitter.facts)
    if meaning.widened and attention.cache is not None:
        raise Refusal("the masks need float32, which the cache is not", attention.anchor)
    emitter.start(attention.y[0].value.producer() or attention.anchor)
    inputs = _inputs(attention, meaning, layout, emitter)
    attributes = _attributes(attention, meaning, layout, emitter.facts)
    presents = _presents(attention)
    packed_present = None if attention.cache is None else attention.cache.packed_present
    needs_presents = bool(presents) or packed_present is not None
    outputs = contract.OUTPUT_INDEX["present_value"] + 1 if needs_presents else 1
    node = emitter.node(contract.OP_TYPE, inputs, attributes, outputs, contract.DOMAIN)
    result = node.outputs[0]
    if meaning.widened:
        result = emitter.op("Cast", result, to=int(emitter.facts.dtype(attention.y[0].value)))
    axes = attention.y_axes(layout.rank)
    value = emitter.layout(Place(result, View(axes, emitter.facts.count)), layout.y.view.axes)
    replaced = [(layout.y.value, value)]
    replaced += [(old, node.outputs[contract.OUTPUT_INDEX[name]]) for name, old in presents.items()]
    if packed_present is not None:
        replaced.append((packed_present, _packed(node, emitter)))
    return Lowered(node, _form(node, attention, meaning, layout, emitter.facts), layout, tuple(replaced))


def _presents(attention: Attention) -> dict[str, ir.Value]:
    """The grown caches that the model wants, by the name of the op's output."""
    if attention.cache is None:
        return {}
    wanted = {"present_key": attention.cache.present_key, "present_value": attention.cache.present_value}
    return {name: value for name, value in wanted.items() if value is not None}


def _packed(node: ir.Node, emitter: Emitter) -> ir.Value:
    """The grown caches in one, (2, batch, head, row, feature)."""
    key, value = (node.outputs[contract.OUTPUT_INDEX[name]] for name in ("present_key", "present_value"))
    axis = emitter.ints(0)
    return emitter.op("Concat", emitter.op("Unsqueeze", key, axis), emitter.op("Unsqueeze", value, axis), axis=0)


def _form(node: ir.Node, attention: Attention, meaning: Meaning, layout: Layout, facts: Facts) -> Form:
    return Form(
        dtype=op_dtype(attention, meaning, facts),
        rank=layout.rank,
        heads=count_of(attention.heads, facts),
        kv_heads=count_of(layout.kv_heads, facts),
        inputs=tuple(
            tensor.name for tensor, value in zip(contract.INPUTS, node.inputs, strict=False) if value is not None
        ),
        outputs=tuple(tensor.name for tensor in contract.OUTPUTS[: len(node.outputs)]),
        mask_is_bool=meaning.is_bool,
        attributes=tuple(sorted((name, attribute.value) for name, attribute in node.attributes.items())),
    )


def _inputs(attention: Attention, meaning: Meaning, layout: Layout, emitter: Emitter) -> list[ir.Value | None]:
    dtype = op_dtype(attention, meaning, emitter.facts)
    query = _query(attention, layout, dtype, emitter)
    inputs: dict[str, ir.Value | None] = {
        "Q": query,
        "K": _taken(layout.k, attention.k_axes(layout.rank, layout.kv_heads), dtype, emitter),
        "V": _taken(layout.v, attention.v_axes(layout.rank, layout.kv_heads), dtype, emitter),
        "attn_mask": emit_mask(attention, meaning, query, emitter),
    }
    if attention.cache is not None:
        inputs |= {"past_key": attention.cache.past_key, "past_value": attention.cache.past_value}
    if attention.nonpad_kv_seqlen is not None:
        inputs["nonpad_kv_seqlen"] = attention.nonpad_kv_seqlen
    elif _counts_from_end(attention, meaning, emitter.facts):
        inputs["nonpad_kv_seqlen"] = _all_keys(inputs["K"], layout.rank, emitter)
    if attention.sink is not None:
        inputs["sinks"] = _sinks(attention, emitter)
    if meaning.alibi_slopes:
        inputs["alibi_slopes"] = emitter.constant(np.asarray(meaning.alibi_slopes, np.float32))
    last = max(contract.INPUT_INDEX[name] for name, value in inputs.items() if value is not None)
    return [inputs.get(tensor.name) for tensor in contract.INPUTS[: last + 1]]


def _query(attention: Attention, layout: Layout, dtype: ir.DataType, emitter: Emitter) -> ir.Value:
    """Q, its rows scaled where the scores were."""
    axes = attention.q_axes(layout.rank)
    query = _taken(layout.q, axes, dtype, emitter)
    if not attention.row_factors:
        return query
    batch, heads, rows, feature = attention.q_axes(4)
    by_row = (batch, heads, rows, feature) if layout.rank == 4 else (batch, rows, heads, feature)
    query = emitter.reshape(query, axes, by_row)
    for value, view in attention.row_factors:
        present = set(view.atoms())
        target = tuple(axis if present & set(axis) else () for axis in by_row)
        if layout_cost(view, target) is None:
            raise Refusal("a factor varies along part of the batch or head axis only", value.producer())
        factor = emitter.layout(Place(value, view), target)
        query = emitter.op("Mul", query, emitter.cast(factor, value, dtype))
    return emitter.reshape(query, by_row, axes)


def _taken(place: Place, axes: tuple[Axis, ...], dtype: ir.DataType, emitter: Emitter) -> ir.Value:
    """The value at the place, with these axes and in the op's type."""
    return emitter.cast(emitter.layout(place, axes), place.value, dtype)


def _attributes(attention: Attention, meaning: Meaning, layout: Layout, facts: Facts) -> dict[str, Any]:
    attributes: dict[str, Any] = {"scale": attention.scale * layout.q.scale * layout.k.scale}
    if meaning.mean_without_keys:
        attributes["mean_without_keys"] = 1
    band = meaning.band
    if band.right == 0:
        attributes["is_causal"] = 1
    elif band.right > 0:
        attributes["right_window_size"] = band.right
    if band.left >= 0:
        attributes["left_window_size"] = band.left
    if attention.softcap:
        attributes["softcap"] = attention.softcap
    if layout.rank == 3:
        attributes["q_num_heads"] = count_of(attention.heads, facts)
        attributes["kv_num_heads"] = count_of(layout.kv_heads, facts)
    return attributes


def _counts_from_end(attention: Attention, meaning: Meaning, facts: Facts) -> bool:
    """Whether the band has to be told that the last query is the last key; a cache says so by itself."""
    band = meaning.band
    return band.bounded and band.from_end and not attention.has_past and attention.lengths_differ(facts)


def _all_keys(key: ir.Value | None, rank: int, emitter: Emitter) -> ir.Value:
    """nonpad_kv_seqlen that counts every key: aligns the last query with the last key."""
    assert key is not None
    return emitter.op("Expand", emitter.dim(key, rank - 2), emitter.dim(key, 0))


def _sinks(attention: Attention, emitter: Emitter) -> ir.Value:
    assert attention.sink is not None
    axes = (resolve(attention.heads),)
    places = walk_operand(attention.sink.value, attention.sink.view, emitter.facts, scalable=False)
    found = cheapest(places, axes)
    if found is None:
        raise Refusal("the sinks are not one number for each head", attention.sink.value.producer())
    value = emitter.layout(found[1], axes)
    if emitter.facts.dtype(attention.sink.value) != ir.DataType.FLOAT:
        value = emitter.op("Cast", value, to=int(ir.DataType.FLOAT))
    factor = attention.sink.factor
    return value if factor == 1.0 else emitter.op("Mul", value, emitter.scalar(factor, ir.DataType.FLOAT))
