"""Input data to try a mask with: which model inputs it depends on, and patterns of padding for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.evaluate import Trace

Feeds = Mapping[str, np.ndarray]

PATTERNS = ("ones", "zeros", "right", "left", "random", "sparse")


def ancestors(value: ir.Value) -> list[ir.Value]:
    """The value and all whose elements it is computed from, nearest first; a Shape is where that ends."""
    order = [value]
    seen = {value}
    for current in order:
        node = current.producer()
        if node is None or node.op_type in ("Shape", "Size"):
            continue
        for source in node.inputs:
            if source is not None and source not in seen:
                seen.add(source)
                order.append(source)
    return order


def data_inputs(value: ir.Value) -> list[ir.Value]:
    """The model inputs that decide the value's elements, not merely its shape."""
    return [source for source in ancestors(value) if source.is_graph_input()]


def patterns(inputs: list[ir.Value], trace: Trace) -> Iterator[Feeds]:
    """Data for integer and bool inputs: every position on, none, padding right and left, and at random.

    What an input is compared with in the graph, such as a padding token, is among its random numbers. The last two
    entries of a batch stay mixed, so that a row which is masked altogether is among them. Without inputs there is one
    pattern, the empty one. Other inputs get no data, so what depends on them counts as unknown.
    """
    if not inputs:
        yield {}
        return
    for number, pattern in enumerate(PATTERNS):
        generator = np.random.default_rng(number)
        yield {
            value.name or "": array
            for value in inputs
            if (array := _draw(value, pattern, trace, generator)) is not None
        }


def _draw(value: ir.Value, pattern: str, trace: Trace, generator: np.random.Generator) -> np.ndarray | None:
    known = trace.types.get(value)
    if known is None or known.dtype not in (ir.DataType.BOOL, ir.DataType.INT64, ir.DataType.INT32):
        return None
    numbers = _compared_with(value, trace)
    if numbers and pattern == "random":
        array = generator.choice([0, 1, *numbers], known.shape)
    elif numbers and pattern == "sparse":
        array = np.where(generator.random(known.shape) < 0.4, generator.choice(numbers, known.shape), 0)
    else:
        array = fill(pattern, known.shape, generator)
    return array.astype(known.dtype.numpy())


_MOVES = frozenset(
    [
        "Cast",
        "Expand",
        "Flatten",
        "Gather",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
_COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])


def _compared_with(value: ir.Value, trace: Trace) -> list[int]:
    """The numbers on which it depends what comparisons say of the value, 0 and 1 aside."""
    numbers: set[int] = set()
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node in current.consumers():
            if node.op_type in _MOVES and node.inputs[0] is current and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
            elif node.op_type in _COMPARISONS:
                other = trace.data(node.inputs[1] if node.inputs[0] is current else node.inputs[0])
                if other is not None and other.size == 1 and int(other.reshape(-1)[0]) not in (0, 1):
                    number = int(other.reshape(-1)[0])
                    numbers |= {number - 1, number, number + 1}
    return sorted(numbers)


def fill(pattern: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Ones where a position counts, of any of PATTERNS."""
    if pattern == "ones":
        return np.ones(shape)
    if pattern == "zeros" or not shape:
        return np.zeros(shape)
    if pattern == "random":
        return generator.integers(0, 2, shape)
    if pattern == "sparse":
        return generator.random(shape) < 0.2
    array = np.ones(shape)
    lengths = generator.integers(0, shape[-1], shape[:-1])
    lengths.reshape(-1)[-1:] = shape[-1]  # the last row holds nothing but padding
    padded = np.arange(shape[-1]) < lengths[..., None]
    array[padded if pattern == "left" else padded[..., ::-1]] = 0
    return array
