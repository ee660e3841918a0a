"""What the walk asks about values: sizes at every trace, scalars, constants, consumers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.axes import Size
from flashonnx.fusion.evaluate import Trace


class Refusal(Exception):  # noqa: N818 - a site is refused; nothing went wrong
    """Why a site is left alone: what was met, at which node."""

    def __init__(self, reason: str, node: ir.Node | None = None):
        self.node = node
        super().__init__(reason if node is None else f"{reason}: node {node_name(node)} ({node.op_type})")


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or node.outputs[0].name or "?"


@dataclass
class Facts:
    traces: list[Trace]

    def sizes(self, value: ir.Value | None) -> tuple[Size, ...]:
        """One Size for each axis. Raises Refusal where the shape is not known."""
        shapes = [trace.shape(value) for trace in self.traces] if value is not None else [None]
        if any(shape is None for shape in shapes):
            raise Refusal(f"the shape of {value.name if value is not None else 'an absent input'} is not known")
        return tuple(zip(*shapes, strict=True)) if shapes[0] else ()

    def rank(self, value: ir.Value | None) -> int:
        return len(self.sizes(value))

    def dtype(self, value: ir.Value) -> ir.DataType:
        dtype = self.traces[0].dtype(value)
        if dtype is None:
            raise Refusal(f"the type of {value.name} is not known")
        return dtype

    def is_float(self, value: ir.Value) -> bool:
        """Whether the type holds any activation; integers and the 8-bit floats round it away."""
        return self.dtype(value) in _FLOATS

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The value's data if they are the same in every trace."""
        first = self.traces[0].data(value)
        if first is None:
            return None
        for trace in self.traces[1:]:
            other = trace.data(value)
            if (
                other is None
                or other.shape != first.shape
                or not np.array_equal(other, first, equal_nan=_floats(first))
            ):
                return None
        return first

    def scalar(self, value: ir.Value | None) -> float | None:
        """The number that all elements of the value are, in every trace."""
        if value is None:
            return None
        numbers = set()
        for trace in self.traces:
            data = trace.data(value)
            if data is None or data.size == 0 or data.dtype == np.object_:
                return None
            number = data.reshape(-1)[0]
            if not np.all(data == number):
                return None
            numbers.add(float(number))
        return numbers.pop() if len(numbers) == 1 else None

    def integers(self, value: ir.Value | None) -> list[int] | None:
        data = self.constant(value)
        return None if data is None else [int(number) for number in data.reshape(-1)]

    def is_dimension(self, size: Size) -> bool:
        """Whether one of the model's symbolic dimensions is this size in every trace."""
        return any(tuple(trace.sizes[name] for trace in self.traces) == size for name in self.traces[0].sizes)

    def fixed(self, number: int) -> Size:
        """A size that is the same in every trace."""
        return (number,) * self.count

    def learn(self, node: ir.Node) -> None:
        """Adds a node of the pass's own to what is known of the graph."""
        for trace in self.traces:
            trace.extend(node)

    @cached_property
    def count(self) -> int:
        return len(self.traces)


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def _floats(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def data_consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read the value's elements; one that only asks for its shape is none."""
    return [node for node in dict.fromkeys(use.node for use in value.uses()) if node.op_type not in ("Shape", "Size")]


def is_in_body(consumer: ir.Node, value: ir.Value) -> bool:
    """Whether the node reads the value from within the body of an If, Loop or Scan."""
    producer = value.producer()
    return producer is not None and consumer.graph is not producer.graph


def require_single_consumer(value: ir.Value, what: str, consumers: tuple[ir.Node, ...]) -> None:
    """Raises Refusal if anything but these nodes reads the value."""
    if value.is_graph_output():
        raise Refusal(f"{what} are an output of the model, {value.name}")
    others = [node for node in data_consumers(value) if node not in consumers]
    if others:
        raise Refusal(f"{what} are used elsewhere too", others[0])


def require_inference(dropout: ir.Node, facts: Facts) -> None:
    """Raises Refusal unless the Dropout passes its input through."""
    training = dropout.inputs[2] if len(dropout.inputs) > 2 else None
    if training is not None and facts.scalar(training) != 0:
        raise Refusal("dropout in training mode", dropout)
    if len(dropout.outputs) > 1 and dropout.outputs[1].uses():
        raise Refusal("dropout whose mask is used", dropout)
