"""A float32 model in float16 or bfloat16, for strongly typed networks: TensorRT then computes as the file says.

Inputs, outputs and numerically delicate parts stay in float32: sums and powers (of hand-written norms) with what lies
between them, but not the cube in GELU; and whatever leads to a sine, a cosine or an integer, because positions are not
exact in 16 bits and another integer is another row of a table.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from flashonnx import contract
from flashonnx.engine.tensorrt import EngineError

PRECISIONS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

_DELICATE = {
    *("Cos", "CumSum", "Exp", "Log", "Pow", "Range", "Reciprocal", "Sin", "Softplus", "Sqrt"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
    *("ReduceSumSquare", "InstanceNormalization", "GroupNormalization"),
}
# Some of their inputs are float32 whatever the data's type.
_TYPED = {"DequantizeLinear", "QuantizeLinear", "Resize"}
_TRIGONOMETRIC = {"Cos", "Sin"}
_ELEMENTWISE = {"Abs", "Add", "Cast", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub"}


def convert(model: ir.Model, precision: str) -> None:
    """Changes `model` in place; its weights must be readable.

    Raises:
        EngineError: the precision is unknown, the model has control flow, or a value's type cannot be inferred.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision != "fp32":
        _Conversion(model, PRECISIONS[precision]).run()


def least_precision(model: ir.Model) -> str:
    """The narrowest floating-point type of the weights; "fp32" if there are none."""
    found = {value.dtype for value in model.graph.initializers.values()}
    return next((name for name in ("bf16", "fp16") if PRECISIONS[name] in found), "fp32")


class _Conversion:
    """What is float32 and not among `kept` nodes becomes `target`; Casts stand where the two meet."""

    def __init__(self, model: ir.Model, target: ir.DataType) -> None:
        import flashonnx.schema  # noqa: F401  tells shape inference of our op

        ShapeInferencePass()(model)
        self.graph = model.graph
        self.target = target
        self.kept = self._kept_nodes()
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        nodes = list(self.graph)
        self._check(nodes)
        outputs = list(self.graph.outputs)
        floats = {value for node in nodes for value in node.outputs if value.dtype == ir.DataType.FLOAT}
        for node in nodes:
            if node not in self.kept:
                self._convert_node(node)
        for node in nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and (value in floats or _is_source(value)):
                    node.replace_input_with(index, self._as(value, self._wanted(node, index), node))
        for index, value in enumerate(outputs):
            if value in floats and value.dtype == self.target:
                self._keep_output(index, value)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
                if (converted := self.casts.get((value, self.target))) is not None:
                    converted.name = name

    def _check(self, nodes: list[ir.Node]) -> None:
        graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for node in nodes:
            if any(attribute.type in graphs for attribute in node.attributes.values()):
                raise EngineError(f"{node.name!r} ({node.op_type}) holds a graph, which cannot be converted; use fp32")
            for value in node.outputs:
                if value.name and value.dtype is None:
                    raise EngineError(f"the type of {value.name!r}, made by {node.op_type}, is not known; use fp32")

    def _kept_nodes(self) -> set[ir.Node]:
        pending = [node for node in self.graph if node.op_type in _TRIGONOMETRIC or _is_cast_to_integer(node)]
        kept = {node for node in self.graph if node.op_type in _DELICATE | _TYPED and not _is_cube_in_gelu(node)}
        kept |= set(pending)
        while pending:
            for value in pending.pop().inputs:
                producer = value.producer() if value is not None else None
                if producer is not None and producer not in kept:
                    kept.add(producer)
                    pending.append(producer)
        return kept | self._between(kept)

    def _between(self, kept: set[ir.Node]) -> set[ir.Node]:
        """What computes with numbers of kept nodes or with integers, and for kept nodes alone: an epsilon, a length."""
        found = {node for node in self.graph if node.op_type in _ELEMENTWISE} - kept
        while leaving := {node for node in found if not _neighbours(node) <= kept | found}:
            found -= leaving
        return found

    def _convert_node(self, node: ir.Node) -> None:
        for index, value in enumerate(node.outputs):
            if value.dtype == ir.DataType.FLOAT and not _is_always_float(node, contract.OUTPUTS, index):
                value.dtype = self.target
        for name, attribute in list(node.attributes.items()):
            if name in ("to", "dtype") and attribute.value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, self.target)
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrTensor(name, self._converted(attribute.value))
            elif name in ("value_float", "value_floats") and node.op_type == "Constant":
                del node.attributes[name]
                array = np.asarray(attribute.value, dtype=np.float32)
                node.attributes["value"] = ir.AttrTensor("value", self._converted(ir.tensor(array)))
        if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
            node.attributes["value"] = ir.AttrTensor("value", self._converted(ir.tensor(np.zeros(1, np.float32))))

    def _wanted(self, node: ir.Node, index: int) -> ir.DataType:
        if node in self.kept or _is_always_float(node, contract.INPUTS, index):
            return ir.DataType.FLOAT
        return self.target

    def _as(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """`value`, or what holds it in `dtype`."""
        if value.dtype == dtype or value.dtype not in (ir.DataType.FLOAT, self.target):
            return value
        key = (value, dtype)
        if key not in self.casts:
            constant = value.const_value if value.is_initializer() else None
            self.casts[key] = (
                self._add_weight(value, constant) if constant is not None else self._add_cast(value, dtype)
            )
        return self.casts[key]

    def _add_weight(self, value: ir.Value, constant: ir.TensorProtocol) -> ir.Value:
        name = f"{value.name}_{self.target.name.lower()}"
        tensor = self._converted(constant)
        weight = ir.Value(name=name, type=ir.TensorType(self.target), shape=value.shape, const_value=tensor)
        self.graph.register_initializer(weight)
        return weight

    def _add_cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        output = ir.Value(name=f"{value.name}_{dtype.name.lower()}", type=ir.TensorType(dtype), shape=value.shape)
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[output], name=f"Cast_{output.name}")
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, cast)
        else:
            self.graph.insert_before(self.graph[0], cast)
        return output

    def _keep_output(self, index: int, value: ir.Value) -> None:
        """The graph's output keeps its name and its type."""
        name = value.name
        value.name = f"{name}_{self.target.name.lower()}"
        cast = self._add_cast(value, ir.DataType.FLOAT)
        cast.name = name
        self.graph.outputs[index] = cast

    def _converted(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """Numbers beyond the target's range, which masks are made with, become its largest; infinities stay."""
        array = tensor.numpy()
        dtype = self.target.numpy()
        largest = float(ml_dtypes.finfo(dtype).max)
        clipped = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
        return ir.tensor(clipped.astype(dtype), dtype=self.target, name=tensor.name)


def _is_cube_in_gelu(node: ir.Node) -> bool:
    """Whether all that becomes of it is a tanh, which is 1 long before a cube is beyond float16.

    In 16 bits throughout, TensorRT does the whole GELU at the end of the product before it.
    """
    return node.op_type == "Pow" and _is_inside_tanh(node)


def _is_inside_tanh(node: ir.Node) -> bool:
    uses = [use.node for value in node.outputs for use in value.uses()]
    reads = (use.op_type == "Tanh" or (use.op_type in ("Add", "Mul") and _is_inside_tanh(use)) for use in uses)
    return bool(uses) and all(reads)


def _is_cast_to_integer(node: ir.Node) -> bool:
    if node.op_type != "Cast" or node.inputs[0] is None or node.inputs[0].dtype != ir.DataType.FLOAT:
        return False
    return ir.DataType(node.attributes["to"].as_int()).is_integer()


def _neighbours(node: ir.Node) -> set[ir.Node | None]:
    """The nodes that make its float inputs, constants aside, and those that read its outputs; None for the graph."""
    floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
    makers = {value.producer() for value in floats if value.const_value is None}
    readers = {use.node for value in node.outputs for use in value.uses()}
    return makers | readers | ({None} if any(value.is_graph_output() for value in node.outputs) else set())


def _is_source(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT and value.producer() is None


def _is_always_float(node: ir.Node, tensors: tuple[contract.Tensor, ...], index: int) -> bool:
    """Whether the contract gives the tensor a type of its own, as it does for sinks and lse."""
    if node.domain != contract.DOMAIN or node.op_type != contract.OP_TYPE:
        return False
    return index < len(tensors) and contract.TYPES[tensors[index].type] == ["float"]
