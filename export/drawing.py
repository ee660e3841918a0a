"""A site's subgraph as boxes and arrows: what it is in the file, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.facts import Facts, Refusal, node_name
from flashonnx.fusion.layouts import replaced_nodes
from flashonnx.fusion.lower import Lowered

# Around a site that is left alone, this many nodes next to its softmax are shown.
_NEIGHBOURS = 16
# Constants with fewer elements than this are shapes and scalars, which say nothing as boxes of their own.
_SMALL = 16


@dataclass(frozen=True)
class Box:
    """kind: "node", "value" (comes from outside), "weight", "fused" (the op) or "stop" (why the site is left alone)."""

    label: str
    detail: str  # a second line: the shape, or attributes
    title: str  # the whole name, for who points at the box
    kind: str = "node"


@dataclass
class Drawing:
    """Boxes, and arrows from one to another by number; several between the same two are one."""

    boxes: list[Box] = field(default_factory=list)
    arrows: set[tuple[int, int]] = field(default_factory=set)


def draw_before(attention: Attention, lowered: Lowered, facts: Facts) -> Drawing:
    """What the fused op replaces."""
    inside = set(replaced_nodes(attention, lowered.layout))
    return _draw([old for old, _ in lowered.replaced], inside.__contains__, facts)


def draw_after(lowered: Lowered, facts: Facts) -> Drawing:
    """What takes its place: the nodes that were not in the file."""

    def is_new(node: ir.Node) -> bool:
        return node.outputs[0] not in facts.traces[0].types

    return _draw([new for _, new in lowered.replaced], is_new, facts)


def draw_refused(anchor: ir.Node, refusal: Refusal, facts: Facts) -> Drawing:
    """The nodes around the site's softmax, and the one that stopped the walk."""
    inside = set(_inside_out(anchor)) | ({refusal.node} if refusal.node is not None else set())
    ends = [value for node in inside for value in node.outputs if not any(use.node in inside for use in value.uses())]
    return _draw(ends, inside.__contains__, facts, stop=refusal.node)


def _inside_out(anchor: ir.Node) -> list[ir.Node]:
    """The anchor and the nodes that it hangs together with, nearest first, as many as are shown."""
    found = [anchor]
    for node in found:
        found += [new for new in dict.fromkeys((*node.predecessors(), *node.successors())) if new not in found]
        if len(found) >= _NEIGHBOURS:
            break
    return found[:_NEIGHBOURS]


def _draw(
    outputs: Iterable[ir.Value], is_inside: Callable[[ir.Node], bool], facts: Facts, stop: ir.Node | None = None
) -> Drawing:
    """Everything inside from which the outputs are made, and the values from outside that it reads."""
    drawing = Drawing()
    numbers: dict[ir.Node | ir.Value, int] = {}
    pending = [node for value in outputs if (node := value.producer()) is not None]

    def number_of(thing: ir.Node | ir.Value) -> int:
        if thing not in numbers:
            numbers[thing] = len(drawing.boxes)
            if isinstance(thing, ir.Node):
                drawing.boxes.append(_node_box(thing, facts, stop))
                pending.append(thing)
            else:
                drawing.boxes.append(_value_box(thing, facts))
        return numbers[thing]

    while pending:
        node = pending.pop()
        target = number_of(node)
        for value in node.inputs:
            if value is None or _is_small_constant(value, facts):
                continue
            source = value.producer()
            drawing.arrows.add((number_of(source if source is not None and is_inside(source) else value), target))
    return drawing


def _is_small_constant(value: ir.Value, facts: Facts) -> bool:
    data = facts.traces[0].data(value) if value in facts.traces[0].types else value.const_value
    return data is not None and data.size < _SMALL


def _node_box(node: ir.Node, facts: Facts, stop: ir.Node | None) -> Box:
    title = f"{node_name(node)} ({node.op_type})"
    if (node.domain, node.op_type) == (contract.DOMAIN, contract.OP_TYPE):
        return Box(node.op_type, _attributes(node), title, "fused")
    return Box(node.op_type, shape_text(node.outputs[0], facts), title, "stop" if node is stop else "node")


def _value_box(value: ir.Value, facts: Facts) -> Box:
    name = value.name or "?"
    return Box(name, shape_text(value, facts), name, "weight" if value.is_initializer() else "value")


def _attributes(node: ir.Node) -> str:
    """Those that tell what is computed."""
    known = {name: attribute.value for name, attribute in node.attributes.items()}
    words = ["causal"] if known.get("is_causal") else []
    for name in ("left_window_size", "right_window_size", "softcap"):
        if name in known:
            words.append(f"{name.removesuffix('_size').replace('_', ' ')} {known[name]:g}")
    if known.get("mean_without_keys"):
        words.append("mean without keys")
    if "q_num_heads" in known:
        words.append(f"{known['q_num_heads']} heads")
    return ", ".join(words)


def shape_text(value: ir.Value, facts: Facts) -> str:
    """The shape, its free dimensions by name: "(batch, 12, sequence, 64)". Empty where it is not known."""
    shapes = [trace.shape(value) for trace in facts.traces]
    if any(shape is None for shape in shapes):
        return ""
    return f"({', '.join(_dim_text(sizes, facts) for sizes in np.array(shapes).T)})"


def _dim_text(sizes: np.ndarray, facts: Facts) -> str:
    if np.all(sizes == sizes[0]):
        return str(sizes[0])
    for name in facts.traces[0].sizes:
        named = np.array([trace.sizes[name] for trace in facts.traces])
        if np.array_equal(sizes, named):
            return name
        if np.all(sizes % named == 0) and len(set(sizes // named)) == 1:
            return f"{sizes[0] // named[0]}·{name}"
    return "…"
