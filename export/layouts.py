"""Which of the places to take Q, K, V and the output at, and as what rank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from flashonnx.fusion.attention import Attention, is_fixed
from flashonnx.fusion.axes import Axis
from flashonnx.fusion.emit import layout_cost
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.operand import Place


@dataclass(frozen=True)
class Layout:
    """Which places the op takes its tensors from, and as what rank."""

    rank: int
    kv_heads: Axis
    q: Place
    k: Place
    v: Place
    y: Place


def replaced_nodes(attention: Attention, layout: Layout) -> list[ir.Node]:
    """The nodes whose work the op does: those from its inputs to its output, in no order."""
    nodes = dict.fromkeys(attention.absorbed)
    for places, taken in ((attention.q, layout.q), (attention.k, layout.k), (attention.v, layout.v)):
        passed = places[: places.index(taken)]
        nodes |= dict.fromkeys(node for place in passed if (node := place.value.producer()) is not None)
    return list(nodes)


def choose_layout(attention: Attention, facts: Facts) -> Layout:
    """The cheapest combination; at the same cost, rank 3 before 4 and few KV heads before many."""
    dtype = facts.dtype(attention.y[0].value)
    q, k, v = (_of_type(dtype, places, facts) for places in (attention.q, attention.k, attention.v))
    best: tuple[int, Layout] | None = None
    for rank, kv_heads in itertools.product((3, 4), attention.kv_head_choices()):
        if rank == 3 and not (is_fixed(attention.heads, facts) and is_fixed(kv_heads, facts)):
            continue
        picks = [
            cheapest(q, attention.q_axes(rank)),
            cheapest(k, attention.k_axes(rank, kv_heads)),
            cheapest(v, attention.v_axes(rank, kv_heads)),
            cheapest(attention.y, attention.y_axes(rank), forward=True),
        ]
        if any(pick is None for pick in picks):
            continue
        cost = sum(pick[0] for pick in picks if pick is not None)
        if best is None or cost < best[0]:
            best = cost, Layout(rank, kv_heads, *(pick[1] for pick in picks if pick is not None))
    if best is None:
        raise Refusal(_why_no_layout(attention, q, k, v), attention.anchor)
    return best[1]


# What holds every number of the type, so that a Cast changes nothing.
_WIDER = {ir.DataType.FLOAT16: ir.DataType.FLOAT, ir.DataType.BFLOAT16: ir.DataType.FLOAT}


def _of_type(dtype: ir.DataType, places: Sequence[Place], facts: Facts) -> list[Place]:
    """The places of the op's type; if there are none, those that a Cast brings to it, as where a mask widens scores."""
    same = [place for place in places if facts.dtype(place.value) == dtype]
    return same or [place for place in places if _WIDER.get(facts.dtype(place.value)) == dtype]


# What a node costs that stays because the op takes its result, in passes over the tensor times ten; all others 1. A
# Split is shared by Q, K and V.
_STAYING = {"Transpose": 10, "Expand": 10, "Tile": 10, "Mul": 8, "Div": 8, "Cast": 8, "Slice": 5, "Gather": 5}


def cheapest(places: Sequence[Place], axes: tuple[Axis, ...], *, forward: bool = False) -> tuple[int, Place] | None:
    """The place at which the least work is left, made (by layout) and kept (the moves further out).

    places: innermost first. forward: along the output, where a place's own producer goes away.
    """
    left = 0
    best: tuple[int, Place] | None = None
    for place in reversed(places):
        made = layout_cost(place.view, axes)
        if not forward and place is not places[-1]:
            left += _staying(place)
        if made is not None and (best is None or made + left < best[0]):
            best = made + left, place
        if forward:
            left += _staying(place)
    return best


def _staying(place: Place) -> int:
    node = place.value.producer()
    return 1 if node is None else _STAYING.get(node.op_type, 1)


def _why_no_layout(attention: Attention, q: Sequence[Place], k: Sequence[Place], v: Sequence[Place]) -> str:
    for name, places in (("Q", q), ("K", k), ("V", v)):
        if not places:
            return f"{name} is not of the output's type"
    if not attention.kv_head_choices():
        return "K and V are shared by the query heads in a way that grouped heads cannot express"
    return "Q, K, V or the output do not have the same batch and head axes"
