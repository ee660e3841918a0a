"""From Q·Kᵀ or P·V outwards along one operand: the places at which the fused op may take it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from flashonnx.fusion.axes import View
from flashonnx.fusion.facts import Facts
from flashonnx.fusion.layout import undo


@dataclass(frozen=True)
class Place:
    """A value with the meaning of its axes: one of the spots at which an input or the output may be taken."""

    value: ir.Value
    view: View
    scale: float = 1.0


def walk_operand(value: ir.Value, view: View, facts: Facts, *, scalable: bool) -> tuple[Place, ...]:
    """The operand and what it was made from, innermost first, as long as elements are only moved or (Q, K) scaled."""
    places = [Place(value, view)]
    while True:
        further = next(_further(places[-1], facts, scalable), None)
        if further is None:
            return tuple(places)
        places.append(further)


def _further(place: Place, facts: Facts, scalable: bool) -> Iterator[Place]:
    node = place.value.producer()
    if node is None or node.inputs == () or node.inputs[0] is None:
        return
    view = undo(place.value, place.view, facts)
    if view is not None:
        yield Place(node.inputs[0], view, place.scale)
    elif node.op_type == "Cast" and facts.is_float(node.inputs[0]) and facts.is_float(place.value):
        yield Place(node.inputs[0], place.view, place.scale)
    elif scalable and node.domain == "" and node.op_type in ("Mul", "Div"):
        yield from _scaled(place, node, facts)


def _scaled(place: Place, node: ir.Node, facts: Facts) -> Iterator[Place]:
    for inner, other in (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else (node.inputs,):
        scalar = facts.scalar(other)
        if scalar and inner is not None and facts.sizes(inner) == facts.sizes(node.outputs[0]):
            factor = scalar if node.op_type == "Mul" else 1 / scalar
            yield Place(inner, place.view, place.scale * factor)
