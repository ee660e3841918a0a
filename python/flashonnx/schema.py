"""The op's schema for onnx: with it, onnx.checker and onnx.shape_inference know FlashAttention.

Importing this module registers it. Shapes are inferred by the library, by the same rule as in ONNX Runtime.
"""

from __future__ import annotations

import math

import onnx
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceContext, InferenceError

from flashonnx import contract, native

_FIRST_SYMBOL = native.UNKNOWN_DIM - 1


def register() -> OpSchema:
    """Registers the schema with onnx, once; returns the one registered."""
    try:
        return onnx.defs.get_schema(contract.OP_TYPE, contract.SINCE_VERSION, contract.DOMAIN)
    except onnx.defs.SchemaError:
        schema = _schema()
        onnx.defs.register_schema(schema)
        return schema


def _schema() -> OpSchema:
    schema = OpSchema(
        contract.OP_TYPE,
        contract.DOMAIN,
        contract.SINCE_VERSION,
        contract.DOC,
        inputs=[_parameter(tensor) for tensor in contract.INPUTS],
        outputs=[_parameter(tensor) for tensor in contract.OUTPUTS],
        type_constraints=[(name, _tensor_types(name), "") for name in contract.TYPES],
        attributes=[_attribute(attribute) for attribute in contract.ATTRIBUTES],
    )
    schema.set_type_and_shape_inference_function(_infer)
    return schema


def _parameter(tensor: contract.Tensor) -> OpSchema.FormalParameter:
    option = OpSchema.FormalParameterOption
    shapes = " or ".join(f"({', '.join(shape)})" for shape in tensor.shapes)
    return OpSchema.FormalParameter(
        tensor.name,
        tensor.type,
        f"{shapes} {tensor.doc}".strip(),
        param_option=option.Optional if tensor.optional else option.Single,
    )


def _tensor_types(variable: str) -> list[str]:
    names: list[str] = []
    for name in contract.TYPES[variable]:
        names += _tensor_types("T") if name == "T" else [f"tensor({name})"]
    return names


def _attribute(attribute: contract.Attribute) -> OpSchema.Attribute:
    if attribute.default is not None:
        default = onnx.helper.make_attribute(attribute.name, attribute.default)
        return OpSchema.Attribute(attribute.name, default, attribute.doc)
    kind = OpSchema.AttrType.FLOAT if attribute.type == "float" else OpSchema.AttrType.INT
    return OpSchema.Attribute(attribute.name, kind, attribute.doc, required=False)


class _Symbols:
    """Numbers for symbolic dimensions, as the library takes them, and back."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def number(self, dim: onnx.TensorShapeProto.Dimension) -> int:
        if dim.HasField("dim_value"):
            return dim.dim_value if dim.dim_value >= 0 else native.UNKNOWN_DIM
        if not dim.dim_param:
            return native.UNKNOWN_DIM
        if dim.dim_param not in self._names:
            self._names.append(dim.dim_param)
        return _FIRST_SYMBOL - self._names.index(dim.dim_param)

    def dim(self, number: int) -> int | str | None:
        if number <= _FIRST_SYMBOL:
            return self._names[_FIRST_SYMBOL - number]
        return None if number == native.UNKNOWN_DIM else number


def _infer(context: InferenceContext) -> None:
    symbols = _Symbols()
    inputs = {
        tensor.name: _native_tensor(context.get_input_type(tensor.index), symbols)
        for tensor in contract.INPUTS
        if tensor.index < context.get_num_inputs() and context.has_input(tensor.index)
    }
    attributes = _read_attributes(context)
    outputs = [
        tensor
        for tensor in contract.OUTPUTS
        if tensor.index < context.get_num_outputs() and context.has_output(tensor.index)
    ]
    names = [tensor.name for tensor in outputs]
    t_type = next((inputs[name].dtype for name in ("Q", "K", "V") if name in inputs and inputs[name].dtype), 0)
    for tensor in outputs:
        try:
            shape = native.output_shape(inputs, tensor.name, attributes, names)
        except ValueError as error:
            raise InferenceError(str(error)) from None
        dtype = onnx.TensorProto.FLOAT if tensor.type == "F" else t_type
        dims = [symbols.dim(number) for number in shape]
        context.set_output_type(tensor.index, onnx.helper.make_tensor_type_proto(dtype, dims))


def _native_tensor(type_: onnx.TypeProto | None, symbols: _Symbols) -> native.NativeTensor:
    tensor = onnx.TypeProto.Tensor() if type_ is None else type_.tensor_type  # None: nothing is known of it
    dims = [symbols.number(dim) for dim in tensor.shape.dim] if tensor.HasField("shape") else None
    return native.NativeTensor(0, tensor.elem_type, dims)


def _read_attributes(context: InferenceContext) -> dict[str, float]:
    values = {}
    for attribute in contract.ATTRIBUTES:
        proto = context.get_attribute(attribute.name)
        if proto is not None:
            value = onnx.helper.get_attribute_value(proto)
            values[attribute.name] = value if isinstance(value, int | float) else math.nan
    return values


register()
