"""Building blocks of test models: a graph in the making, and random inputs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Dim = int | str
IR_VERSION = 10


@dataclass(frozen=True)
class Input:
    """A model input. integers: the numbers that its elements may be; None for activations.

    is_padding: ones at the keys that count; with a fill, 0 there and the fill elsewhere.
    """

    name: str
    dtype: np.dtype
    dims: tuple[Dim, ...]
    integers: tuple[int, ...] | None = None
    is_padding: bool = False
    fill: float | None = None


@dataclass
class Graph:
    """Nodes, inputs and weights; op() gives the name of what it adds."""

    opset: int = 18
    constant_nodes: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    _count: int = 0

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.ops(1, op_type, *inputs, domain=domain, **attributes)[0]

    def ops(self, outputs: int, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        names = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], domain=domain, **attributes))
        return names

    def name(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"

    def input(self, name: str, dtype: Any, dims: Sequence[Dim], **kind: Any) -> str:
        if all(known.name != name for known in self.inputs):
            self.inputs.append(Input(name, np.dtype(dtype), tuple(dims), **kind))
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """A stored tensor, as an initializer or as a Constant node."""
        name = self.name("constant")
        tensor = numpy_helper.from_array(np.asarray(array, dtype), name)
        if self.constant_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def dim(self, value: str, axis: int) -> str:
        """One dimension, as a scalar."""
        return self.op("Gather", self.op("Shape", value), self.constant(axis, np.int64), axis=0)

    def reshape(self, value: str, *dims: int | tuple[str, int]) -> str:
        """To dims that are numbers or (value, axis): the size of another value's axis."""
        if all(isinstance(dim, int) for dim in dims):
            return self.op("Reshape", value, self.ints(*dims))  # type: ignore[arg-type]
        return self.op("Reshape", value, self._shape(dims))

    def expand(self, value: str, *dims: int | tuple[str, int]) -> str:
        return self.op("Expand", value, self._shape(dims))

    def _shape(self, dims: Sequence[int | tuple[str, int]]) -> str:
        parts = [
            self.ints(dim) if isinstance(dim, int) else self.op("Unsqueeze", self.dim(*dim), self.ints(0))
            for dim in dims
        ]
        return self.op("Concat", *parts, axis=0)

    def transpose(self, value: str, *perm: int) -> str:
        return self.op("Transpose", value, perm=list(perm))

    def unsqueeze(self, value: str, *axes: int) -> str:
        return self.op("Unsqueeze", value, self.ints(*axes))

    def positions(self, length: str) -> str:
        """0, 1, … length - 1."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.op("Range", zero, length, one)

    def cast(self, value: str, dtype: Any) -> str:
        return self.op("Cast", value, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def model(self, *, fixed: Mapping[str, int] | None = None, output_dtype: Any = np.float32) -> onnx.ModelProto:
        """fixed: sizes to write into the file in place of the symbolic dimensions."""
        fixed = fixed or {}
        inputs = [
            helper.make_tensor_value_info(
                value.name,
                helper.np_dtype_to_tensor_dtype(value.dtype),
                [fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in value.dims],
            )
            for value in self.inputs
        ]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(output_dtype))
        outputs = [helper.make_tensor_value_info(name, element, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "graph", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def feeds(self, sizes: Mapping[str, int], padding: str, seed: int) -> dict[str, np.ndarray]:
        """Random data at these sizes. padding: one of PADDINGS; "all" masks the whole last entry."""
        generator = np.random.default_rng(seed)
        return {value.name: _draw(value, sizes, padding, generator) for value in self.inputs}


PADDINGS = ("none", "right", "left", "middle", "all")


def _draw(value: Input, sizes: Mapping[str, int], padding: str, generator: np.random.Generator) -> np.ndarray:
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in value.dims)
    if value.is_padding:
        keep = _padding(shape, padding, generator)
        return (keep if value.fill is None else np.where(keep, 0.0, value.fill)).astype(value.dtype)
    if value.integers is not None:
        return generator.choice(np.asarray(value.integers), shape).astype(value.dtype)
    return generator.standard_normal(shape).astype(value.dtype)


def _padding(shape: tuple[int, ...], padding: str, generator: np.random.Generator) -> np.ndarray:
    """Ones at the keys that count, along the last axis; every row keeps one unless `padding` is "all"."""
    keep = np.ones(shape, bool)
    keys = shape[-1]
    if padding == "none" or not keep.size:
        return keep
    length = generator.integers(1, keys + 1, (*shape[:-1], 1))
    position = np.arange(keys)
    if padding == "left":
        keep &= position >= keys - length
    elif padding == "middle":
        keep &= generator.random(shape) < 0.6
        keep[..., generator.integers(0, keys)] = True
    else:
        keep &= position < length
    if padding == "all":
        keep[-1] = False
    return keep
