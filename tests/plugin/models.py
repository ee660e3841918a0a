"""ONNX models of one FlashAttention node, as TensorRT's parser gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from flashonnx import contract
from flashonnx.engine.prepare import close_gaps
from tests.cases.nodes import Dim, NodeCase

ELEMENT_TYPES = {
    "bool": TensorProto.BOOL,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def one_node_model(
    inputs: Mapping[str, tuple[str, Sequence[Dim]]],
    outputs: Sequence[str] = ("Y",),
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str = "attention",
) -> onnx.ModelProto:
    """The contract's inputs and outputs by name; those that are not given are left out of the node."""
    node = helper.make_node(
        contract.OP_TYPE,
        _without_tail([tensor.name if tensor.name in inputs else "" for tensor in contract.INPUTS]),
        _without_tail([tensor.name if tensor.name in outputs else "" for tensor in contract.OUTPUTS]),
        name=name,
        domain=contract.DOMAIN,
        **(attributes or {}),
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(key, ELEMENT_TYPES[dtype], dims) for key, (dtype, dims) in inputs.items()],
        [helper.make_tensor_value_info(output, _output_type(output, inputs), None) for output in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    prepared = ir.from_proto(model)
    close_gaps(prepared)
    return ir.to_proto(prepared)


def model_of(case: NodeCase) -> onnx.ModelProto:
    return one_node_model(case.inputs, case.outputs, case.attributes, name=case.name)


def _output_type(name: str, inputs: Mapping[str, tuple[str, Sequence[Dim]]]) -> int:
    types = contract.TYPES[contract.OUTPUTS[contract.OUTPUT_INDEX[name]].type]
    return ELEMENT_TYPES[types[0] if len(types) == 1 else inputs["Q"][0]]


def _without_tail(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names.pop()
    return names
