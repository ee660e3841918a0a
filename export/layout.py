"""Operators that only move elements: the view of one side of the node from the view of the other."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from flashonnx.fusion.axes import Atom, AxesError, Axis, View
from flashonnx.fusion.facts import Facts, Refusal

Undo = Callable[[ir.Node, View, Facts], "View | None"]

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def undo(value: ir.Value, view: View, facts: Facts) -> View | None:
    """The view of the first input of the node that made `value`; None if that node does more than move elements."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    try:
        if node.op_type == "Split":
            return _undo_split(node, value, view, facts)
        handler = _UNDO.get(node.op_type)
        return None if handler is None else handler(node, view, facts)
    except AxesError:
        return None


def redo(node: ir.Node, view: View, facts: Facts) -> View | None:
    """The view of the node's output, given its first input's."""
    if node.domain != "":
        return None
    if node.op_type == "Transpose":
        return view.transpose(permutation(node, view.rank))
    if node.op_type in _RESHAPES:
        try:
            return view.reshape(facts.sizes(node.outputs[0]))
        except AxesError:
            return None
    return None


def permutation(node: ir.Node, rank: int) -> list[int]:
    perm = node.attributes.get_ints("perm", None)
    return list(reversed(range(rank))) if perm is None else list(perm)


def broadcast_view(value: ir.Value, view: View, facts: Facts) -> View:
    """The view of an operand that broadcasts to `view`: axes that it does not have, or of size 1, hold no atoms."""
    sizes = facts.sizes(value)
    if len(sizes) > view.rank:
        raise Refusal(f"{value.name} has more axes than what it is combined with")
    axes = view.axes[view.rank - len(sizes) :]
    return view.with_axes(() if set(size) == {1} else axis for axis, size in zip(axes, sizes, strict=True))


def _undo_transpose(node: ir.Node, view: View, facts: Facts) -> View:
    return view.untranspose(permutation(node, view.rank))


def _undo_reshape(node: ir.Node, view: View, facts: Facts) -> View:
    return view.reshape(facts.sizes(node.inputs[0]))


def _undo_expand(node: ir.Node, view: View, facts: Facts) -> View:
    assert node.inputs[0] is not None
    return broadcast_view(node.inputs[0], view, facts)


def _undo_tile(node: ir.Node, view: View, facts: Facts) -> View:
    """Each output axis is (repeat, input axis)."""
    sizes = facts.sizes(node.inputs[0])
    axes: list[Axis] = []
    for axis, (before, after) in zip(view.axes, zip(sizes, view.sizes(), strict=True), strict=False):
        repeats = tuple(long // short for long, short in zip(after, before, strict=True))
        axes.append(View((axis,), view.traces).reshape([repeats, before]).axes[1])
    return view.with_axes(axes)


def _undo_gather(node: ir.Node, view: View, facts: Facts) -> View | None:
    """Gather of one index: the input has that axis too, pinned to the index."""
    index = facts.scalar(node.inputs[1])
    if index is None or facts.rank(node.inputs[1]) > 1:
        return None
    sizes = facts.sizes(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(sizes)
    axes = list(view.axes)
    if facts.rank(node.inputs[1]) == 1:
        axes.pop(axis)
    pinned = _pinned(sizes[axis], int(index))
    return None if pinned is None else view.with_axes([*axes[:axis], (pinned,), *axes[axis:]])


def _undo_slice(node: ir.Node, view: View, facts: Facts) -> View | None:
    """Slice of one of several equal parts of an axis, as when Q, K and V come out of one product."""
    starts, ends, axes, steps = (facts.integers(value) for value in (*node.inputs[1:], None, None)[:4])
    sizes = facts.sizes(node.inputs[0])
    if starts is None or ends is None or len(starts) != 1 or (steps or [1]) != [1]:
        return None
    if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    axis = (axes or [0])[0] % len(sizes)
    whole = sizes[axis]
    if len(set(whole)) != 1:
        return None
    begin, end, _ = slice(starts[0], ends[0]).indices(whole[0])
    return _part(view, axis, whole[0], begin, end)


def _undo_split(node: ir.Node, output: ir.Value, view: View, facts: Facts) -> View | None:
    """Split: the output is a part of the axis, like a Slice's."""
    sizes = facts.sizes(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(sizes)
    lengths = [facts.sizes(part)[axis] for part in node.outputs]
    if len(set(sizes[axis])) != 1:
        return None
    begin = sum(length[0] for length in lengths[: node.outputs.index(output)])
    return _part(view, axis, sizes[axis][0], begin, begin + lengths[node.outputs.index(output)][0])


def _part(view: View, axis: int, whole: int, begin: int, end: int) -> View | None:
    length = end - begin
    if length <= 0 or begin % length or whole % length:
        return None
    if length == whole:
        return view
    pinned = _pinned((whole // length,) * view.traces, begin // length)
    return None if pinned is None else view.replace(axis, (pinned, *view.axes[axis]))


def _pinned(size: tuple[int, ...], index: int) -> Atom | None:
    if len(set(size)) != 1 or not -size[0] <= index < size[0]:
        return None
    return Atom(size, fixed=index % size[0])


_UNDO: dict[str, Undo] = {
    "Transpose": _undo_transpose,
    "Expand": _undo_expand,
    "Tile": _undo_tile,
    "Gather": _undo_gather,
    "Slice": _undo_slice,
    **dict.fromkeys(_RESHAPES, _undo_reshape),
}
