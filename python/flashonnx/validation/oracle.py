"""The reference in float64: the truth that both the reference's and the model's rounding errors are measured from.

An ONNX file is widened (every floating-point tensor, Cast and type in it becomes float64) and run by onnx's
reference evaluator; a PyTorch module is copied and converted by Module.double().
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from flashonnx.validation.runners import RunError, Runner, TorchRunner

# Larger files would take minutes and many times their size in memory to evaluate with NumPy.
MAX_MODEL_BYTES = 1 << 30

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Attributes that hold an element type, by op.
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}


class Erf(OpRun):
    """onnx 1.23's own rounds its result to float32 whatever the input's type, which no oracle may."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        values = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
        return (values.reshape(x.shape).astype(x.dtype),)


class GatherElements(OpRun):
    """onnx 1.23's own fails on two-dimensional data that is longer than the indices."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        axis %= data.ndim
        covered = tuple(slice(None if d == axis else size) for d, size in enumerate(indices.shape))
        return (np.take_along_axis(data[covered], indices, axis),)


class OnnxOracle:
    """An ONNX file evaluated in float64 by NumPy."""

    def __init__(self, path: str | Path, expose: Iterable[str] = ()) -> None:
        self.label = f"{Path(path).name} (onnx reference evaluator, float64)"
        model = onnx.load(path)
        if model.ByteSize() > MAX_MODEL_BYTES:
            raise RunError(f"{path}: over {MAX_MODEL_BYTES >> 30} GiB, too large for the reference evaluator")
        try:
            self._names = [output.name for output in model.graph.output]
            self._names += [name for name in expose if name not in self._names]
            self._evaluator = ReferenceEvaluator(widen(model), new_ops=_new_ops())
        except Exception as error:
            raise RunError(f"{self.label}: {error}") from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {name: _widened(array) for name, array in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # masks overflow and divide by zero on purpose
                values = self._evaluator.run(None, feeds, intermediate=True)
        except Exception as error:
            raise RunError(f"{self.label}: {error}") from error
        return {name: np.asarray(values[name]) for name in self._names}


def torch_oracle(function: Callable[..., Any], output_names: Sequence[str]) -> Runner:
    """A module's float64 copy, or a plain function called with float64 tensors."""
    import torch

    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function).double()
    return TorchRunner(function, output_names, widen=True)


def widen(model: ModelProto) -> ModelProto:
    """A copy of `model` in which float32, float16 and bfloat16 have become float64; external data must be loaded."""
    wide = ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        del function.value_info[:]
        for node in function.node:
            _widen_node(node)
    return wide


def _new_ops() -> list[type[OpRun]]:
    from flashonnx.reference import FlashAttention

    return [FlashAttention, Erf, GatherElements]


def _widen_graph(graph: GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        _widen_type(value.type)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    if node.op_type == "Constant":
        _widen_constant(node)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.type == AttributeProto.GRAPH:
            _widen_graph(attribute.g)
        elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
            attribute.i = TensorProto.DOUBLE
    # ConstantOfShape without a value makes float32 zeros.
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _widen_constant(node: NodeProto) -> None:
    """`value_float` and `value_floats` mean float32: only `value` can say float64."""
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            values: Any = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.asarray(values, dtype=np.float64))
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))


def _widen_type(proto: TypeProto) -> None:
    if proto.HasField("tensor_type") and proto.tensor_type.elem_type in _FLOATS:
        proto.tensor_type.elem_type = TensorProto.DOUBLE


def _widened(array: np.ndarray) -> np.ndarray:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return array.astype(np.float64) if dtype in _FLOATS else array
