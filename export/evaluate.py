"""A graph at given input sizes: the shape of every value, and the data of those that do not depend on activations.

This is what the pass reasons with instead of symbolic shapes: two dimensions are the same if they agree at several
unrelated sizes, and a mask is what it evaluates to. Shapes come from ONNX's own inference, data from ONNX's reference
operators, one node at a time; both are remembered by what they depend on, since layers repeat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from flashonnx import contract, schema
from flashonnx.fusion.contrib_types import CONTRIB_DOMAIN, contrib_types
from flashonnx.fusion.tensor_type import Shape, SizeError, Type, broadcast

# Data above this many elements is not evaluated: nothing that decides a shape or a mask at small sizes is that large.
MAX_INPUT_ELEMENTS = 1 << 24
MAX_OUTPUT_ELEMENTS = 1 << 21
# Shape inference looks into data of these few elements: the shape, axes, starts and ends that nodes take as inputs.
MAX_SHAPE_DATA = 64


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAME_AS_FIRST = _names(
    """
    Abs Cast Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN
    LayerNormalization LeakyRelu Log LogSoftmax Mish Neg Not Reciprocal Relu RMSNormalization Round Selu Sigmoid
    SimplifiedLayerNormalization Sign Sin Softmax Softplus Sqrt Swish Tanh ThresholdedRelu Trilu CumSum FastGelu
    BiasGelu QuickGelu
    """
)
_BROADCAST = _names(
    """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu Sub Sum Where Xor
    """
)
_TO_BOOL = frozenset(
    ["And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor", "Not", "IsNaN", "IsInf"]
)
_NOT_EVALUATED = frozenset(
    ["If", "Loop", "Scan", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"]
)


@lru_cache(maxsize=4)
def operators_of(opsets: frozenset[tuple[str, int]], ir_version: int) -> Operators:
    """The same one for every model of these operator sets: what is known of an operator holds for all of them."""
    return Operators(dict(opsets), ir_version)


# So many operators with their shapes are remembered: those of hundreds of models, a few hundred bytes each.
_REMEMBERED = 1 << 16


@dataclass
class Operators:
    """Shape inference and evaluation of single nodes."""

    opsets: dict[str, int]
    ir_version: int
    _evaluators: dict[bytes, ReferenceEvaluator] = field(default_factory=dict)
    _inferred: dict[Any, list[Type | None]] = field(default_factory=dict)

    def infer(self, node: ir.Node, types: list[Type | None], data: list[np.ndarray | None]) -> list[Type | None]:
        key = (
            _signature(node),
            tuple(types),
            tuple(None if array is None else (array.dtype.str, array.shape, array.tobytes()) for array in data),
        )
        if key not in self._inferred:
            if len(self._inferred) >= _REMEMBERED:
                self._inferred.clear()
            self._inferred[key] = self._infer(node, types, data)
        return self._inferred[key]

    def _infer(self, node: ir.Node, types: list[Type | None], data: list[np.ndarray | None]) -> list[Type | None]:
        if node.domain == contract.DOMAIN:
            schema.register()
        try:
            known_as = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return [None] * len(node.outputs)
        proto = _canonical(node)
        known = {
            name: onnx.helper.make_tensor_type_proto(int(type_.dtype), type_.shape)
            for name, type_ in zip(proto.input, types, strict=True)
            if type_ is not None
        }
        constants = {
            name: onnx.numpy_helper.from_array(array, name)
            for name, array in zip(proto.input, data, strict=True)
            if array is not None
        }
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                known_as, proto, known, constants, opset_imports=opsets, ir_version=self.ir_version
            )
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise SizeError(f"{node.op_type}: {error}") from error
        return [_static_type(inferred.get(name)) for name in proto.output]

    def evaluate(self, node: ir.Node, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
        key = _signature(node)
        if key not in self._evaluators:
            if len(self._evaluators) >= _REMEMBERED:
                self._evaluators.clear()
            self._evaluators[key] = ReferenceEvaluator(_canonical(node), opsets=self.opsets)
        evaluator = self._evaluators[key]
        feeds = {f"i{index}": array for index, array in enumerate(inputs) if array is not None}
        with np.errstate(all="ignore"):
            return [np.asarray(output) for output in evaluator.run(None, feeds)]


@dataclass
class Trace:
    """One graph at one assignment of sizes and input data.

    sizes: the size of every symbolic input dimension. feeds: data of graph inputs, by name.
    """

    operators: Operators
    sizes: Mapping[str, int]
    types: dict[ir.Value, Type] = field(default_factory=dict)
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    overrides: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    taken: dict[ir.Value, ir.Value] = field(default_factory=dict)  # an If's output: the taken branch's
    _data: dict[ir.Value, np.ndarray | None] = field(default_factory=dict)

    def shape(self, value: ir.Value) -> Shape | None:
        known = self.types.get(value)
        return None if known is None else known.shape

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        known = self.types.get(value)
        return None if known is None else known.dtype

    def with_feeds(self, feeds: Mapping[str, np.ndarray], overrides: dict[ir.Value, np.ndarray] | None = None) -> Trace:
        """The same sizes and shapes with other input data; `overrides` replaces the data of single values."""
        return Trace(self.operators, self.sizes, self.types, feeds, overrides or {}, self.taken)

    def run(self, graph: ir.Graph) -> None:
        """Finds the type of every value, in graph order. Raises SizeError where the sizes do not fit together."""
        for value in graph.initializers.values():
            self._set_initializer(value)
        for node in graph:
            self._run_node(node)

    def extend(self, node: ir.Node) -> None:
        """Finds the types of a node's outputs that was added to the graph since, and of its new weights."""
        for value in node.inputs:
            if value is not None and value not in self.types:
                self._set_initializer(value)
        self._run_node(node)

    def _set_initializer(self, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is not None:
            self.types[value] = Type(tensor.dtype, tuple(tensor.shape.numpy()))

    def _run_node(self, node: ir.Node) -> None:
        if node.op_type == "If" and node.domain == "":
            self._run_if(node)
            return
        for output, type_ in zip(node.outputs, self._infer(node), strict=False):
            known = type_ or self._type_of_data(output)
            if known is not None:
                self.types[output] = known

    def _type_of_data(self, value: ir.Value) -> Type | None:
        """Where only the data tell the shape: NonZero, or a Range of numbers that a cast has made."""
        data = self.data(value)
        if data is None:
            self._data.pop(value, None)  # unknown so far; its inputs' types may be all that was missing
            return None
        return Type(ir.DataType.from_numpy(data.dtype), data.shape)

    def _run_if(self, node: ir.Node) -> None:
        """Follows the branch that is taken at these sizes, if that is known."""
        condition = self.data(node.inputs[0])
        if condition is None:
            return
        branch = node.attributes["then_branch" if condition.all() else "else_branch"].as_graph()
        self.run(branch)
        for output, inner in zip(node.outputs, branch.outputs, strict=True):
            if inner in self.types:
                self.types[output] = self.types[inner]
                self.taken[output] = inner

    def _infer(self, node: ir.Node) -> list[Type | None]:
        stored = _stored(node.outputs[0]) if node.op_type == "Constant" else None
        if stored is not None:  # its data are part of the node, and too large to remember it by
            return [Type(stored.dtype, tuple(stored.shape.numpy()))]
        if node.op_type in ("Gather", "GatherElements", "GatherND"):
            self._check_indices(node)
        types = [None if value is None else self.types.get(value) for value in node.inputs]
        if node.domain in ("", CONTRIB_DOMAIN) and len(node.outputs) == 1:
            quick = _quick_type(node, types)
            if quick is not None:
                return [quick]
        contrib = contrib_types(node, types)
        if contrib is not None:
            return contrib
        if node.op_type == "Shape" and types and types[0] is None:
            return [None]
        if any(type_ is None for value, type_ in zip(node.inputs, types, strict=True) if value is not None):
            # Inference from half the inputs could take an unknown size for a known one.
            return [None] * len(node.outputs)
        data = [self._shape_data(value, type_) for value, type_ in zip(node.inputs, types, strict=True)]
        inferred = self.operators.infer(node, types, data)
        if node.op_type == "Reshape" and types[0] is not None:
            self._check_elements(types[0], inferred[0])
        return inferred

    @staticmethod
    def _check_elements(before: Type, after: Type | None) -> None:
        """A Reshape to another number of elements: a size is written into the file that does not fit these."""
        if after is not None and math.prod(before.shape) != math.prod(after.shape):
            raise SizeError(f"Reshape: {before.shape} to {after.shape}")

    def _check_indices(self, node: ir.Node) -> None:
        """Indices that follow from sizes must be within what they index; else two sizes do not belong together."""
        shape, indices = self.shape(node.inputs[0]), self.data(node.inputs[1])  # type: ignore[arg-type]
        if shape is None or indices is None or not indices.size:
            return
        if node.op_type == "GatherND":
            first = node.attributes.get_int("batch_dims", 0)
            limits = np.asarray(shape[first : first + indices.shape[-1]])
        else:
            axis = node.attributes.get_int("axis", 0)
            if not -len(shape) <= axis < len(shape):
                raise SizeError(f"Gather: no axis {axis} in {shape}")
            limits = np.asarray(shape[axis])
        if np.any(indices >= limits) or np.any(indices < -limits):
            raise SizeError(f"{node.op_type}: an index is out of range")

    def _shape_data(self, value: ir.Value | None, type_: Type | None) -> np.ndarray | None:
        if value is None or type_ is None or len(type_.shape) > 1 or math.prod(type_.shape) > MAX_SHAPE_DATA:
            return None
        if type_.dtype.is_floating_point() and value.const_value is None:
            return None
        return self.data(value)

    def data(self, value: ir.Value | None) -> np.ndarray | None:
        """The value's elements, or None if they depend on activations, on chance, or are too many."""
        if value is None:
            return None
        pending = [value]
        while pending:
            current = pending[-1]
            if current in self._data:
                pending.pop()
                continue
            sources = self._data_sources(current)
            if any(self._data.get(source, source) is None for source in sources):
                self._data[current] = None  # without looking at the others, which may be large weights
                continue
            missing = next((source for source in sources if source not in self._data), None)
            if missing is not None:
                pending.append(missing)
            else:
                self._data[current] = self._compute(current)
        return self._data[value]

    def _data_sources(self, value: ir.Value) -> list[ir.Value]:
        if value in self.taken and value not in self.overrides:
            return [self.taken[value]]
        node = value.producer()
        if (
            node is None
            or value in self.overrides
            or node.op_type in _NOT_EVALUATED
            or node.op_type in ("Shape", "Size")
        ):
            return []
        if math.prod(self.shape(value) or (0,)) > MAX_OUTPUT_ELEMENTS:
            return []
        return [source for source in node.inputs if source is not None]

    def _compute(self, value: ir.Value) -> np.ndarray | None:
        if value in self.overrides:
            return self.overrides[value]
        if value in self.taken:
            return self._data[self.taken[value]]
        node = value.producer()
        tensor = _stored(value)
        if tensor is not None:
            return tensor.numpy() if tensor.size <= MAX_INPUT_ELEMENTS else None
        if node is None:
            return self.feeds.get(value.name or "")
        if node.op_type in ("Shape", "Size"):
            source = node.inputs[0]
            if source is None or source not in self.types:
                return None
            return _shape_data(node, self.types[source].shape)
        if node.op_type in _NOT_EVALUATED or math.prod(self.shape(value) or (0,)) > MAX_OUTPUT_ELEMENTS:
            return None
        inputs = [None if source is None else self._data[source] for source in node.inputs]
        if any(array is None for source, array in zip(node.inputs, inputs, strict=True) if source is not None):
            return None
        try:
            outputs = self.operators.evaluate(node, inputs)
        except Exception:  # the reference raises whatever NumPy does; the value then counts as unknown
            return None
        return outputs[value.index() or 0]


def _stored(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor in the file that is this value, as a weight or a Constant, if nobody can feed another."""
    try:
        return None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    except ValueError:  # a Constant that is broken, or of a kind that ONNX IR has no tensor for
        return None


def _shape_data(node: ir.Node, shape: Shape) -> np.ndarray:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(shape))
    return np.asarray(shape[slice(start, end)], np.int64)


def _quick_type(node: ir.Node, types: list[Type | None]) -> Type | None:
    """The output of the common operators whose shape follows from their inputs' alone; None for all others."""
    if not types or types[0] is None:
        return None
    first = types[0]
    if node.op_type in _SAME_AS_FIRST:
        return Type(_output_dtype(node, first.dtype), first.shape)
    if any(type_ is None for type_ in types):
        return None
    if node.op_type in _BROADCAST:
        dtype = types[-1].dtype if node.op_type == "Where" else first.dtype  # type: ignore[union-attr]
        return Type(_output_dtype(node, dtype), broadcast(node, [type_.shape for type_ in types if type_]))
    if node.op_type == "MatMul" and min(len(type_.shape) for type_ in types if type_) >= 2:
        a, b = (type_.shape for type_ in types if type_)
        if a[-1] != b[-2]:
            raise SizeError(f"MatMul: {a} by {b}")
        return Type(first.dtype, (*broadcast(node, [a[:-2], b[:-2]]), a[-2], b[-1]))
    return None


def _output_dtype(node: ir.Node, dtype: ir.DataType) -> ir.DataType:
    if node.op_type == "Cast":
        try:
            return ir.DataType(node.attributes.get_int("to"))
        except ValueError as error:
            raise SizeError(f"Cast: {error}") from error
    return ir.DataType.BOOL if node.op_type in _TO_BOOL else dtype


def _canonical(node: ir.Node) -> onnx.NodeProto:
    """The node with positional names, so that equal work has equal form."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    proto.input.extend("" if value is None else f"i{index}" for index, value in enumerate(node.inputs))
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    proto.attribute.extend(ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values())
    return proto


def _signature(node: ir.Node) -> bytes:
    signature = node.meta.get("flashonnx.signature")
    if signature is None:
        signature = node.meta["flashonnx.signature"] = _canonical(node).SerializeToString(deterministic=True)
    return signature


def _static_type(proto: onnx.TypeProto | None) -> Type | None:
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return Type(ir.DataType(proto.tensor_type.elem_type), tuple(dim.dim_value for dim in dims))
