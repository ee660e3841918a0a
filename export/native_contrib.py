"""com.microsoft's Attention, MultiHeadAttention and GroupQueryAttention in normal form.

What they take in one tensor, or do by themselves, is taken apart by nodes beside them (unpack.py).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import View
from flashonnx.fusion.contrib_reference import MASK_FILTER_VALUE
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.native import NodeAxes, axes_of, cache_of, mask_of, normal_form, optional_inputs, used_output
from flashonnx.fusion.scores import MaskTerm, Sink
from flashonnx.fusion.unpack import Unpacker


def from_packed_attention(node: ir.Node, emitter: Emitter) -> Attention:
    """Attention: Q, K and V projected from one input by one weight, (input, hidden + hidden + v_hidden)."""
    x, weights, bias, mask, past, attention_bias, past_length = optional_inputs(node, 7)
    attributes = node.attributes
    if past_length is not None or attributes.get_int("past_present_share_buffer", 0) != 0:
        raise Refusal("its past and present share a buffer", node)
    if attributes.get_int("do_rotary", 0):
        raise Refusal("it applies rotary embeddings, whose tables it keeps to itself", node)
    if x is None or weights is None:
        raise Refusal("its input or weights are missing", node)
    facts, heads = emitter.facts, _heads(node)
    width = facts.sizes(weights)[1][0]
    lengths = attributes.get_ints("qkv_hidden_sizes", [width // 3] * 3)
    unpacker = Unpacker(node, emitter)
    q, k, v = unpacker.project(x, weights, bias, lengths)
    past_key, past_value = (None, None) if past is None else unpacker.past(past)
    axes = axes_of(node, q, k, v, past_key, heads, heads, facts)
    attention = normal_form(node, axes, q, k, v, facts)
    attention.form = "Attention with weights"
    attention.cache = cache_of(node, past_key, past_value, facts, axes, is_packed=True)
    return _masked(attention, mask, attention_bias, axes, unpacker)


def from_multi_head_attention(node: ir.Node, emitter: Emitter) -> Attention:
    """MultiHeadAttention: Q, K and V apart, or K and V, or all three in one; a bias for each."""
    query, key, value, bias, mask, attention_bias, past_key, past_value, past_length, beams = optional_inputs(node, 10)
    if past_length is not None or beams is not None:
        raise Refusal("its shared buffers or beam search are not understood", node)
    if used_output(node, 3) is not None:
        raise Refusal("its qk output is used", node)
    facts, heads = emitter.facts, _heads(node)
    unpacker = Unpacker(node, emitter)
    q, k, v = _separated(query, key, value, unpacker, node)
    if bias is not None:
        q, k, v = _biased(q, k, v, bias, unpacker)
    axes = axes_of(node, q, k, v, past_key, heads, heads, facts)
    attention = normal_form(node, axes, q, k, v, facts)
    attention.cache = cache_of(node, past_key, past_value, facts, axes)
    return _masked(attention, mask, attention_bias, axes, unpacker)


def _heads(node: ir.Node) -> int:
    heads = node.attributes.get_int("num_heads", 0)
    if heads <= 0:
        raise Refusal("it does not say num_heads", node)
    return heads


def _separated(
    query: ir.Value | None, key: ir.Value | None, value: ir.Value | None, unpacker: Unpacker, node: ir.Node
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(batch, row, head, 3, feature), or (batch, row, head, 2, feature) of K and V, or the three as they are."""
    facts = unpacker.facts
    if query is not None and key is None and facts.rank(query) == 5:
        return unpacker.part(query, 0), unpacker.part(query, 1), unpacker.part(query, 2)
    if query is not None and key is not None and value is None and facts.rank(key) == 5:
        return query, unpacker.part(key, 0), unpacker.part(key, 1)
    if query is None or key is None or value is None or facts.rank(query) != 3:
        raise Refusal("Q, K and V are neither apart nor packed as the operator says", node)
    return query, key, value


def _biased(
    q: ir.Value, k: ir.Value, v: ir.Value, bias: ir.Value, unpacker: Unpacker
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Biases of Q, K and V one after the other in one vector; K and V of rank 4 come from a cache, biased already."""
    facts = unpacker.facts
    width = facts.sizes(q)[2][0]
    total = facts.sizes(bias)[0][0]
    q = unpacker.biased(q, bias, 0, width)
    if facts.rank(k) != 3:
        return q, k, v
    return q, unpacker.biased(k, bias, width, 2 * width), unpacker.biased(v, bias, 2 * width, total)


def _masked(
    attention: Attention, mask: ir.Value | None, bias: ir.Value | None, axes: NodeAxes, unpacker: Unpacker
) -> Attention:
    """Scale, causality and masks, which Attention and MultiHeadAttention spell alike."""
    node, facts = attention.anchor, unpacker.facts
    attributes = node.attributes
    attention.scale = attributes.get_float("scale", 0.0) or attention.scale
    attention.causal = bool(attributes.get_int("unidirectional", 0))
    if attention.causal and not attention.has_past and attention.lengths_differ(facts):
        raise Refusal("it is unidirectional with another number of keys than of queries", node)
    masks = []
    if bias is not None:
        masks.append(mask_of(bias, "add", axes, facts, node))
    if mask is not None:
        fill = attributes.get_float("mask_filter_value", MASK_FILTER_VALUE)
        masks.append(_key_mask(mask, fill, axes, attention, unpacker))
    attention.masks = tuple(masks)
    attention.made = tuple(unpacker.made)
    return attention


def _key_mask(value: ir.Value, fill: float, axes: NodeAxes, attention: Attention, unpacker: Unpacker) -> MaskTerm:
    """Masks of (batch, keys) and (batch, rows, keys), lengths of (batch), ends and starts of (2·batch)."""
    sizes = unpacker.facts.sizes(value)
    batch, _, rows, keys = axes.mask_view().sizes()
    view = View((axes.batch, axes.keys), axes.traces)
    if sizes in ((batch,), (tuple(2 * size for size in batch),)):
        keep = unpacker.within(value, batch, _number_of_keys(attention, unpacker))
    elif sizes in ((batch, keys), (batch, rows, keys)):
        keep = unpacker.op("Greater", value, unpacker.emitter.scalar(0, unpacker.facts.dtype(value)))
        view = view if len(sizes) == 2 else View((axes.batch, axes.rows, axes.keys), axes.traces)
    else:
        raise Refusal("its mask is neither (batch, keys) nor (batch, rows, keys) nor lengths", attention.anchor)
    return MaskTerm("keep", keep, view, fill=fill)


def _number_of_keys(attention: Attention, unpacker: Unpacker) -> ir.Value:
    """As a scalar: the rows of the past and the new ones."""
    new = attention.k[0].value
    length = unpacker.length(new, 1 if unpacker.facts.rank(new) == 3 else 2)
    past = None if attention.cache is None else attention.cache.past_key
    return length if past is None else unpacker.op("Add", unpacker.length(past, 2), length)


def from_group_query_attention(node: ir.Node, emitter: Emitter) -> Attention:
    """GroupQueryAttention over a prompt, or with a past of as many rows in every batch entry."""
    query, key, value, past_key, past_value, lengths, _, cos, sin, position_ids, bias, sinks = optional_inputs(node, 12)
    if any(optional_inputs(node, 17)[12:]):
        raise Refusal("its quantised caches, norms of Q and K or query lengths are not understood", node)
    if used_output(node, 3) is not None:
        raise Refusal("its qk output is used", node)
    attributes, facts = node.attributes, emitter.facts
    if attributes.get_int("sliding_window_cache", 0):
        raise Refusal("its cache drops the oldest keys", node)
    _require_equal_pasts(node, past_key, query, lengths, facts)
    heads, kv_heads = _heads(node), attributes.get_int("kv_num_heads", 1)
    unpacker = Unpacker(node, emitter)
    q, k, v = _split_groups(query, key, value, heads, kv_heads, unpacker, node)
    if attributes.get_int("do_rotary", 0):
        if cos is None or sin is None:
            raise Refusal("it applies rotary embeddings without tables", node)
        ids = unpacker.positions(position_ids, past_key, q)
        interleaved = attributes.get_int("rotary_interleaved", 0)
        q = unpacker.rotated(q, ids, cos, sin, heads, interleaved)
        k = unpacker.rotated(k, ids, cos, sin, kv_heads, interleaved)
    axes = axes_of(node, q, k, v, past_key, heads, kv_heads, facts)
    attention = normal_form(node, axes, q, k, v, facts)
    attention.scale = attributes.get_float("scale", 0.0) or attention.scale
    attention.softcap = attributes.get_float("softcap", 0.0)
    attention.causal = bool(attributes.get_int("causal", 1))
    window = attributes.get_int("local_window_size", -1)
    attention.left = window - 1 if window > 0 else -1
    attention.cache = cache_of(node, past_key, past_value, facts, axes)
    attention.masks = _group_masks(attention, bias, lengths, axes, unpacker)
    attention.sink = _sink(node, sinks, heads, axes, unpacker)
    attention.made = tuple(unpacker.made)
    return attention


def _require_equal_pasts(
    node: ir.Node,
    past_key: ir.Value | None,
    query: ir.Value | None,
    lengths: ir.Value | None,
    facts: Facts,
) -> None:
    """seqlens_k counts each entry's keys: appending is Concat only if sizes alone make it the same for all."""
    if past_key is None or not any(facts.sizes(past_key)[2]):
        return
    for trace, past, rows in zip(facts.traces, facts.sizes(past_key)[2], facts.sizes(query)[1], strict=True):
        counted = trace.data(lengths)
        if counted is None or not (counted == past + rows - 1).all():
            raise Refusal("its caches may hold another number of rows for each batch entry (seqlens_k)", node)


def _split_groups(
    query: ir.Value | None,
    key: ir.Value | None,
    value: ir.Value | None,
    heads: int,
    kv_heads: int,
    unpacker: Unpacker,
    node: ir.Node,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    if query is not None and key is None and value is None:
        size = unpacker.facts.sizes(query)[2][0] // (heads + 2 * kv_heads)
        q, k, v = unpacker.split(query, [heads * size, kv_heads * size, kv_heads * size])
        return q, k, v
    if query is None or key is None or value is None:
        raise Refusal("Q, K and V are neither apart nor all in one", node)
    return query, key, value


def _group_masks(
    attention: Attention, bias: ir.Value | None, lengths: ir.Value | None, axes: NodeAxes, unpacker: Unpacker
) -> tuple[MaskTerm, ...]:
    """The bias; and, where it is not causal, which keys count. A causal row that counts sees none that do not."""
    masks = () if bias is None else (mask_of(bias, "add", axes, unpacker.facts, attention.anchor),)
    if attention.causal or lengths is None:
        return masks
    one = unpacker.emitter.scalar(1, unpacker.facts.dtype(lengths))
    ends = unpacker.op("Add", lengths, one)
    keep = unpacker.within(ends, axes.mask_view().sizes()[0], _number_of_keys(attention, unpacker))
    return (*masks, MaskTerm("keep", keep, View((axes.batch, axes.keys), axes.traces), fill=-np.inf))


def _sink(node: ir.Node, sinks: ir.Value | None, heads: int, axes: NodeAxes, unpacker: Unpacker) -> Sink | None:
    """One logit for each head; smooth_softmax is a logit of 0."""
    if sinks is None:
        if node.attributes.get_int("smooth_softmax", 0) != 1:
            return None
        sinks = unpacker.op("Identity", unpacker.emitter.constant(np.zeros(heads, np.float32)))
    return Sink(sinks, View((axes.heads,), axes.traces), 1.0, with_sink=(), keys=axes.keys)
