"""Nodes that are an attention by themselves, in normal form: ONNX Attention and the op itself, and what they share with
com.microsoft's (native_contrib.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention, Cache, count_of
from flashonnx.fusion.axes import Atom, Axis, Size, View
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.layout import broadcast_view
from flashonnx.fusion.operand import Place, walk_operand
from flashonnx.fusion.output import walk_places_forward
from flashonnx.fusion.scores import MaskTerm


@dataclass
class NodeAxes:
    """The atoms of one node's tensors; an axis of size 1 has none."""

    batch: Axis
    heads: Axis
    kv_heads: Axis
    rows: Axis
    keys: Axis
    new_keys: Axis
    feature: Axis
    v_feature: Axis
    traces: int

    def place(self, value: ir.Value, facts: Facts, heads: Axis, rows: Axis, feature: Axis) -> Place:
        """A tensor of rank 3 (batch, row, head·feature) or 4 (batch, head, row, feature)."""
        rank = facts.rank(value)
        axes = (self.batch, rows, heads + feature) if rank == 3 else (self.batch, heads, rows, feature)
        return Place(value, View(axes, self.traces))

    def mask_view(self) -> View:
        return View((self.batch, self.heads, self.rows, self.keys), self.traces)


def _axis(size: Size) -> Axis:
    return () if set(size) == {1} else (Atom(size),)


def _divide(whole: Size, part: int, what: str, node: ir.Node) -> Size:
    if any(size % part for size in whole):
        raise Refusal(f"{what} is not divisible by {part}", node)
    return tuple(size // part for size in whole)


def axes_of(
    node: ir.Node, q: ir.Value, k: ir.Value, v: ir.Value, past: ir.Value | None, heads: int, kv_heads: int, facts: Facts
) -> NodeAxes:
    """heads and kv_heads matter for tensors of rank 3 only; those of rank 4 say it themselves."""
    q_sizes, k_sizes, v_sizes = facts.sizes(q), facts.sizes(k), facts.sizes(v)
    fixed = facts.fixed
    if len(q_sizes) == 3:
        batch, rows, head_size = q_sizes[0], q_sizes[1], _divide(q_sizes[2], heads, "Q's last dimension", node)
        head_count = fixed(heads)
    else:
        batch, head_count, rows, head_size = q_sizes
    kv_count, new_keys = (fixed(kv_heads), k_sizes[1]) if len(k_sizes) == 3 else (k_sizes[1], k_sizes[2])
    v_head_size = _divide(v_sizes[2], kv_heads, "V's last dimension", node) if len(v_sizes) == 3 else v_sizes[3]
    group = tuple(h // kv for h, kv in zip(head_count, kv_count, strict=True))
    if any(h % kv for h, kv in zip(head_count, kv_count, strict=True)):
        raise Refusal("the number of query heads is no multiple of the number of KV heads", node)
    kv_axis, new_axis = _axis(kv_count), _axis(new_keys)
    keys = new_axis
    if past is not None:
        total = tuple(old + new for old, new in zip(facts.sizes(past)[2], new_keys, strict=True))
        keys = _axis(total)
    return NodeAxes(
        batch=_axis(batch),
        heads=kv_axis + _axis(group),
        kv_heads=kv_axis,
        rows=_axis(rows),
        keys=keys,
        new_keys=new_axis,
        feature=_axis(head_size),
        v_feature=_axis(v_head_size),
        traces=facts.count,
    )


def normal_form(node: ir.Node, axes: NodeAxes, q: ir.Value, k: ir.Value, v: ir.Value, facts: Facts) -> Attention:
    """All but scale, masks and caches."""

    def places(value: ir.Value, heads: Axis, rows: Axis, feature: Axis, *, scalable: bool) -> tuple[Place, ...]:
        place = axes.place(value, facts, heads, rows, feature)
        return walk_operand(value, place.view, facts, scalable=scalable)

    return Attention(
        anchor=node,
        batch=axes.batch,
        heads=axes.heads,
        rows=axes.rows,
        keys=axes.keys,
        new_keys=axes.new_keys,
        feature=axes.feature,
        v_feature=axes.v_feature,
        q=places(q, axes.heads, axes.rows, axes.feature, scalable=True),
        k=places(k, axes.kv_heads, axes.new_keys, axes.feature, scalable=True),
        v=places(v, axes.kv_heads, axes.new_keys, axes.v_feature, scalable=False),
        y=walk_places_forward(axes.place(node.outputs[0], facts, axes.heads, axes.rows, axes.v_feature), facts),
        scale=count_of(axes.feature, facts) ** -0.5,
        absorbed=(node,),
        form=node.op_type,
    )


def optional_inputs(node: ir.Node, count: int) -> list[ir.Value | None]:
    """Its first inputs, None where it has none."""
    return [*node.inputs, *[None] * count][:count]


def _require(node: ir.Node, *values: ir.Value | None) -> list[ir.Value]:
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        raise Refusal("Q, K and V are not separate inputs", node)
    return found


def used_output(node: ir.Node, index: int) -> ir.Value | None:
    """An output, if anything reads it."""
    if index >= len(node.outputs):
        return None
    value = node.outputs[index]
    return value if value.uses() or value.is_graph_output() else None


def from_onnx_attention(node: ir.Node, emitter: Emitter) -> Attention:
    """ONNX Attention, opset 23 and later, by the contract's names of its inputs."""
    facts = emitter.facts
    q, k, v, mask, past_key, past_value, nonpad = optional_inputs(node, 7)
    q, k, v = _require(node, q, k, v)
    if used_output(node, 3) is not None:
        raise Refusal("its qk_matmul_output is used", node)
    attributes = node.attributes
    axes = axes_of(
        node, q, k, v, past_key, attributes.get_int("q_num_heads", 1), attributes.get_int("kv_num_heads", 1), facts
    )
    attention = normal_form(node, axes, q, k, v, facts)
    attention.scale = attributes.get_float("scale", attention.scale)
    attention.softcap = attributes.get_float("softcap", 0.0)
    attention.causal = bool(attributes.get_int("is_causal", 0))
    attention.left = attributes.get_int("left_window_size", -1)
    attention.right = attributes.get_int("right_window_size", -1)
    attention.nonpad_kv_seqlen = nonpad
    attention.cache = cache_of(node, past_key, past_value, facts, axes)
    if mask is not None:
        kind = "keep" if facts.dtype(mask) == ir.DataType.BOOL else "add"
        attention.masks = (mask_of(mask, kind, axes, facts, node),)
    return attention


def from_flash_attention(node: ir.Node, emitter: Emitter) -> Attention:
    """The op itself, as flashonnx.export writes it or an earlier pass: its layout may still improve."""
    onnx_inputs = 7
    for tensor, value in zip(contract.INPUTS[onnx_inputs:], node.inputs[onnx_inputs:], strict=False):
        if value is not None:
            raise Refusal(f"it is {contract.OP_TYPE} already; one with {tensor.name} is left as it is", node)
    if used_output(node, contract.OUTPUT_INDEX["lse"]) is not None:
        raise Refusal(f"it is {contract.OP_TYPE} already; one whose lse is used is left as it is", node)
    return from_onnx_attention(node, emitter)


def mask_of(value: ir.Value, kind: str, axes: NodeAxes, facts: Facts, node: ir.Node, fill: float = -np.inf) -> MaskTerm:
    view = axes.mask_view()
    keys = facts.sizes(value)[-1]
    if keys not in (view.sizes()[-1], facts.fixed(1)):
        raise Refusal("its mask is shorter than the keys", node)
    return MaskTerm(kind, value, broadcast_view(value, view, facts), fill=fill)


def cache_of(
    node: ir.Node,
    past_key: ir.Value | None,
    past_value: ir.Value | None,
    facts: Facts,
    axes: NodeAxes,
    *,
    is_packed: bool = False,
) -> Cache | None:
    """is_packed: its second output is both grown caches in one."""
    first, second = used_output(node, 1), used_output(node, 2)
    if past_key is None and first is None and second is None:
        return None
    if (past_key is None) != (past_value is None):
        raise Refusal("it has a past key without a past value, or the other way round", node)
    if is_packed:
        return Cache(past_key, past_value, None, None, axes.kv_heads, packed_present=first)
    return Cache(past_key, past_value, first, second, axes.kv_heads)
