"""Q and K as (batch, row, head, feature) where a model turns them by head: RoPE and norms, past the Transpose.

Models split heads, transpose, and then rotate or normalise Q and K, so that a Transpose stays between a projection and
the op, and another is needed behind. RotaryEmbedding and norms work row by row: done before the Transpose, they leave
none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import resolve
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import data_consumers
from flashonnx.fusion.operand import Place, walk_operand
from flashonnx.fusion.unpack import Unpacker

_HEADS_TO_ROWS = (0, 2, 1, 3)


def with_rows_first(attention: Attention, emitter: Emitter) -> Attention:
    """The attention with Q and K taken there, or one of them, where nothing else reads what they are made of."""
    movable = [name for name in ("q", "k") if _is_by_head(_places(attention, name)[-1], attention)]
    for names in (movable, movable[:1], movable[1:]):  # both at once first: they may come out of one Split
        moved = _moved(attention, names, emitter)
        if moved is not None:
            return moved
    return attention


def _places(attention: Attention, name: str) -> tuple[Place, ...]:
    return attention.q if name == "q" else attention.k


def _moved(attention: Attention, names: Sequence[str], emitter: Emitter) -> Attention | None:
    mover = _Mover(Unpacker(attention.anchor, emitter))
    readers = set(attention.absorbed)
    found = {"q": attention.q, "k": attention.k}
    for name in names:
        *inner, place = found[name]
        value = mover.moved(place.value)
        if value is None:
            return None
        readers.update(node for other in inner if (node := other.value.producer()) is not None)
        outer = walk_operand(value, place.view.transpose(_HEADS_TO_ROWS), emitter.facts, scalable=False)
        found[name] = (*inner, *(replace(other, scale=place.scale) for other in outer))
    if not names or not mover.stands_for_all(readers):
        return None
    made = (*attention.made, *mover.unpacker.made, *mover.old)
    return replace(attention, q=found["q"], k=found["k"], made=made)


def _is_by_head(place: Place, attention: Attention) -> bool:
    """Whether the axes are (batch, head, row, feature)."""
    if place.view.rank != 4 or place.value.producer() is None:
        return False
    batch, heads, rows, feature = place.view.axes
    lengths = (resolve(attention.rows), resolve(attention.new_keys))
    return (
        (batch, feature) == (resolve(attention.batch), resolve(attention.feature)) and heads != () and rows in lengths
    )


@dataclass
class _Mover:
    """Makes values again with their head and row axes in the other order. old: the nodes that it made again."""

    unpacker: Unpacker
    old: list[ir.Node] = field(default_factory=list)
    _moved: dict[ir.Value, ir.Value | None] = field(default_factory=dict)

    def moved(self, value: ir.Value) -> ir.Value | None:
        """(batch, row, head, feature), with the axes of fewer that broadcast to it; None if it cannot be had so."""
        if value not in self._moved:
            self._moved[value] = self._without_rows(value) if self._has_no_heads(value) else self._again(value)
        return self._moved[value]

    def stands_for_all(self, readers: set[ir.Node]) -> bool:
        """Whether nothing but the attention reads the nodes made again, so that they go away."""
        known = {*self.old, *readers}
        values = [value for node in self.old for value in node.outputs]
        return all(not value.is_graph_output() and known.issuperset(data_consumers(value)) for value in values)

    def _has_no_heads(self, value: ir.Value) -> bool:
        sizes = self.unpacker.facts.sizes(value)
        return len(sizes) < 3 or (len(sizes) in (3, 4) and set(sizes[-3]) == {1})

    def _without_rows(self, value: ir.Value) -> ir.Value | None:
        """A number, or one for each feature. A table by rows would broadcast between the rows and the features.

        ONNX Runtime does that a head at a time, at the cost of the Transposes: RoPE of primitive operators stays.
        """
        sizes = self.unpacker.facts.sizes(value)
        return value if len(sizes) < 2 or set(sizes[-2]) == {1} else None

    def _again(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if node is None or self.unpacker.facts.rank(value) != 4:
            return None
        self.old.append(node)
        if (node.domain, node.op_type) == ("", "Transpose"):
            return node.inputs[0] if tuple(node.attributes.get_ints("perm", ())) == _HEADS_TO_ROWS else None
        handler = _HANDLERS.get(node.op_type)
        return None if handler is None else handler(self, node, value)

    def inputs(self, node: ir.Node, count: int) -> list[ir.Value] | None:
        """The first inputs, moved."""
        values = [None if source is None else self.moved(source) for source in node.inputs[:count]]
        return None if None in values else [value for value in values if value is not None]

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> tuple[ir.Value, ...]:
        """The node with other inputs."""
        return self.unpacker.copy(node, inputs)


def _elementwise(mover: _Mover, node: ir.Node, value: ir.Value) -> ir.Value | None:
    inputs = mover.inputs(node, len(node.inputs))
    return None if inputs is None else mover.copy(node, inputs)[0]


def _along_features(mover: _Mover, node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Operators that work along the last axis, which stays where it is."""
    axis = node.attributes.get_int("axis", -1 if node.op_type != "Split" else 0)
    inputs = mover.inputs(node, len(node.inputs) if node.op_type == "Concat" else 1)
    if inputs is None or axis not in (-1, 3):
        return None
    outputs = mover.copy(node, [*inputs, *node.inputs[len(inputs) :]])
    return outputs[node.outputs.index(value)]


def _slice(mover: _Mover, node: ir.Node, value: ir.Value) -> ir.Value | None:
    bounds = [mover.unpacker.facts.integers(source) for source in node.inputs[1:]]
    inputs = mover.inputs(node, 1)
    if inputs is None or len(bounds) < 3 or None in bounds or bounds[2] not in ([-1], [3]):
        return None
    numbers = [mover.unpacker.emitter.ints(*bound) for bound in bounds if bound is not None]
    return mover.copy(node, [*inputs, *numbers])[0]


def _mean(mover: _Mover, node: ir.Node, value: ir.Value) -> ir.Value | None:
    axes = node.attributes.get_ints("axes", ()) or mover.unpacker.facts.integers(node.inputs[1]) or ()
    inputs = mover.inputs(node, 1)
    if inputs is None or list(axes) not in ([-1], [3]) or not node.attributes.get_int("keepdims", 1):
        return None
    return mover.copy(node, [*inputs, *node.inputs[1:]])[0]


def _rotary(mover: _Mover, node: ir.Node, value: ir.Value) -> ir.Value | None:
    """RotaryEmbedding takes (batch, row, head·feature) too."""
    inputs = mover.inputs(node, 1)
    heads = set(mover.unpacker.facts.sizes(value)[1])
    if inputs is None or len(heads) != 1:
        return None
    unpacker, (count,) = mover.unpacker, heads
    joined = unpacker.op("Reshape", inputs[0], unpacker.emitter.ints(0, 0, -1))
    rotated = unpacker.copy(node, [joined, *node.inputs[1:]], num_heads=count)[0]
    return unpacker.op("Reshape", rotated, unpacker.emitter.ints(0, 0, count, -1))


_HANDLERS: dict[str, Callable[[_Mover, ir.Node, ir.Value], ir.Value | None]] = {
    **dict.fromkeys(["Add", "Cast", "Div", "Identity", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"], _elementwise),
    **dict.fromkeys(
        ["Concat", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Split"], _along_features
    ),
    "ReduceMean": _mean,
    "RotaryEmbedding": _rotary,
    "Slice": _slice,
}
