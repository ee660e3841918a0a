"""New nodes, put in front of a given one; equal constants and equal nodes are made once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.axes import Axis, View, resolve, size_of
from flashonnx.fusion.facts import Facts
from flashonnx.fusion.operand import Place

PREFIX = "flashonnx"


class Emitter:
    """Adds nodes to one graph. `before` is the node that the next ones must precede."""

    def __init__(self, graph: ir.Graph, facts: Facts):
        self.graph = graph
        self.facts = facts
        self.before: ir.Node | None = None
        self._made: dict[tuple[Any, ...], ir.Value] = {}
        self._count = 0
        nodes = list(graph.all_nodes())
        self._taken = {value.name for value in graph.inputs} | set(graph.initializers)
        self._taken |= {node.name for node in nodes} | {value.name for node in nodes for value in node.outputs}

    def start(self, before: ir.Node) -> None:
        self.before = before

    def constant(self, array: np.ndarray) -> ir.Value:
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            name = self._name("constant")
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
            self.graph.register_initializer(value)
            self._made[key] = value
        return self._made[key]

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.asarray(numbers, np.int64))

    def integer(self, number: int) -> ir.Value:
        return self.constant(np.asarray(number, np.int64))

    def scalar(self, number: float, dtype: ir.DataType) -> ir.Value:
        return self.constant(np.asarray(number, dtype.numpy()))

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a standard operator; the same value if the same node was made before."""
        key = (op_type, inputs, tuple(sorted((name, str(value)) for name, value in attributes.items())))
        if key not in self._made:
            self._made[key] = self.node(op_type, inputs, attributes).outputs[0]
        return self._made[key]

    def cast(self, value: ir.Value, like: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value, which has the type of `like`, a value of the original graph, in that type."""
        return value if self.facts.dtype(like) == dtype else self.op("Cast", value, to=int(dtype))

    def dim(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension, as a tensor of one element."""
        return self.op("Slice", self.op("Shape", value), self.ints(axis), self.ints(axis + 1), self.ints(0))

    def reduce(self, op_type: str, value: ir.Value, axis: int) -> ir.Value:
        """ReduceMax or ReduceMin with the axis kept; opset 18 made the axes an input."""
        if self.graph.opset_imports.get("", 1) < 18:
            return self.op(op_type, value, axes=[axis], keepdims=1)
        return self.op(op_type, value, self.ints(axis), keepdims=1)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
        outputs: int = 1,
        domain: str = "",
    ) -> ir.Node:
        assert self.before is not None
        node = ir.node(op_type, list(inputs), attributes=attributes, domain=domain, num_outputs=outputs)
        node.name = self._name(op_type)
        for output in node.outputs:
            output.name = self._name(f"{op_type}_output")
        self.before.prepend(node)
        return node

    def _name(self, what: str) -> str:
        while True:
            name = f"{PREFIX}_{what}_{self._count}"
            self._count += 1
            if name not in self._taken:
                return name

    def layout(self, place: Place, target: Sequence[Axis]) -> ir.Value:
        """The value with the target's axes. Raises Refusal if layout_cost says None."""
        value, view = _select_fixed(self, place.value, place.view)
        axes = view.axes
        order = [atom for axis in axes for atom in axis]
        wanted = [atom for axis in target for atom in axis]
        if order != wanted:
            value, axes = self._move(value, axes, target)
        return self.reshape(value, axes, target)

    def _move(self, value: ir.Value, axes: Sequence[Axis], target: Sequence[Axis]) -> tuple[ir.Value, tuple[Axis, ...]]:
        blocks = _blocks(axes, target)
        value = self.reshape(value, axes, blocks)
        moved = sorted(blocks, key=lambda block: _position(block, target))
        return self.op("Transpose", value, perm=[blocks.index(block) for block in moved]), tuple(moved)

    def reshape(self, value: ir.Value, axes: Sequence[Axis], target: Sequence[Axis]) -> ir.Value:
        if list(axes) == list(target):
            return value
        return self.op("Reshape", value, self._dims(value, axes, target))

    def _dims(self, value: ir.Value, axes: Sequence[Axis], target: Sequence[Axis]) -> ir.Value:
        """The shape input of a Reshape: constants, 0 (as before), one -1 (the rest); else computed from the value's."""
        dims = [_dim(index, axis, axes, self.facts.count) for index, axis in enumerate(target)]
        if dims.count(None) <= 1:
            return self.ints(*(-1 if dim is None else dim for dim in dims))
        parts = [self._dim_value(value, axes, dim, axis) for dim, axis in zip(dims, target, strict=True)]
        return self.op("Concat", *parts, axis=0)

    def _dim_value(self, value: ir.Value, axes: Sequence[Axis], dim: int | None, axis: Axis) -> ir.Value:
        """A dimension that is fixed, or one of the value's own, or else the rest (of which there is one at most)."""
        if dim:
            return self.ints(dim)
        return self.dim(value, list(axes).index(axis)) if axis in axes else self.ints(-1)


def _dim(index: int, axis: Axis, axes: Sequence[Axis], traces: int) -> int | None:
    sizes = set(size_of(axis, traces))
    if len(sizes) == 1:
        return sizes.pop()
    return 0 if index < len(axes) and axes[index] == axis else None


def _select_fixed(emitter: Emitter, value: ir.Value, view: View) -> tuple[ir.Value, View]:
    """Takes the one part of an axis that a slice further in had taken."""
    for index, axis in enumerate(view.axes):
        if not any(atom.fixed is not None for atom in axis):
            continue
        pinned, rest = axis[0], axis[1:]
        assert pinned.fixed is not None
        if rest:
            length = size_of(rest, view.traces)[0]
            bounds = (pinned.fixed * length, (pinned.fixed + 1) * length)
            value = emitter.op("Slice", value, emitter.ints(bounds[0]), emitter.ints(bounds[1]), emitter.ints(index))
            return _select_fixed(emitter, value, view.replace(index, rest))
        value = emitter.op("Gather", value, emitter.integer(pinned.fixed), axis=index)
        return _select_fixed(emitter, value, view.with_axes((*view.axes[:index], *view.axes[index + 1 :])))
    return value, view


def layout_cost(view: View, target: Sequence[Axis]) -> int | None:
    """What layout() would have to do, roughly in passes over the tensor times ten; None if it cannot."""
    cost = 0
    axes = []
    for axis in view.axes:
        fixed = [atom.fixed is not None for atom in axis]
        if any(fixed):
            if fixed != [True] + [False] * (len(axis) - 1) or not all(atom.is_constant() for atom in axis):
                return None
            cost += 5
        axes.append(tuple(atom for atom in axis if atom.fixed is None))
    order = [atom for axis in axes for atom in axis]
    wanted = [atom for axis in target for atom in axis]
    if sorted(map(id, order)) != sorted(map(id, wanted)):
        return None
    if order != wanted:
        blocks = _blocks(axes, target)
        moved = sorted(blocks, key=lambda block: _position(block, target))
        can = _can_reshape(axes, blocks, view.traces) and _can_reshape(moved, target, view.traces)
        return cost + 10 if can else None
    if axes == list(target):
        return cost
    return cost + 1 if _can_reshape(axes, target, view.traces) else None


def _can_reshape(axes: Sequence[Axis], target: Sequence[Axis], traces: int) -> bool:
    """Whether the shape can be written down: at most one dimension that is neither fixed nor one of the old ones."""
    dims = [_dim(index, axis, axes, traces) for index, axis in enumerate(target)]
    return sum(axis not in axes for dim, axis in zip(dims, target, strict=True) if dim is None) <= 1


def _blocks(axes: Sequence[Axis], target: Sequence[Axis]) -> list[Axis]:
    """The longest runs of atoms that stay together on the way from one layout to the other."""
    blocks: list[Axis] = []
    for axis in axes:
        run: Axis = ()
        for atom in axis:
            if run and not _follows(run[-1], atom, target):
                blocks.append(run)
                run = ()
            run += (atom,)
        if run:
            blocks.append(run)
    return blocks


def _follows(first: object, second: object, target: Sequence[Axis]) -> bool:
    return any(a is first and b is second for axis in target for a, b in itertools.pairwise(axis))


def _position(block: Axis, target: Sequence[Axis]) -> int:
    order = [atom for axis in target for atom in axis]
    return order.index(resolve(block)[0])
