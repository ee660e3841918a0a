"""What is changed of a model before TensorRT's parser sees it."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from flashonnx import contract
from flashonnx.engine.prepare import close_gaps, is_fused, strip_functions


def model(inputs: list[str], outputs: list[str], *functions: onnx.FunctionProto) -> ir.Model:
    node = helper.make_node(contract.OP_TYPE, inputs, outputs, domain=contract.DOMAIN, scale=0.5)
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*inputs, *outputs) if name
    }
    graph = helper.make_graph(
        [node], "graph", [values[name] for name in inputs if name], [values[name] for name in outputs if name]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(contract.DOMAIN, 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10))


def test_a_node_without_gaps_is_left_alone() -> None:
    for inputs in (["Q", "K", "V"], ["Q", "K", "V", "mask"]):
        prepared = model(inputs, ["Y"])
        before = ir.to_proto(prepared).SerializeToString()
        assert is_fused(prepared)
        assert close_gaps(prepared) == []
        assert ir.to_proto(prepared).SerializeToString() == before


def test_gaps_are_closed_and_told() -> None:
    prepared = model(["Q", "K", "V", "", "past_key", "past_value"], ["Y", "present_key", "present_value", "", "lse"])
    assert close_gaps(prepared) != []
    node = ir.to_proto(prepared).graph.node[0]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert list(node.input) == ["Q", "K", "V", "past_key", "past_value"]
    assert list(node.output) == ["Y", "present_key", "present_value", "lse"]
    assert attributes == {"scale": 0.5, "present_inputs": [0, 1, 2, 4, 5], "present_outputs": [0, 1, 2, 4]}


def test_the_graphs_outputs_keep_their_names() -> None:
    prepared = model(["Q", "K", "V", "", "", "", "lengths"], ["Y"])
    close_gaps(prepared)
    assert [value.name for value in prepared.graph.outputs] == ["Y"]


def test_closing_twice_is_closing_once() -> None:
    prepared = model(["Q", "K", "V", "", "past_key", "past_value"], ["Y"])
    close_gaps(prepared)
    assert close_gaps(prepared) == []


def test_only_our_function_is_stripped() -> None:
    opset = [helper.make_opsetid("", 18)]
    copy = [helper.make_node("Identity", ["Q"], ["Y"])]
    ours = helper.make_function(contract.DOMAIN, contract.OP_TYPE, ["Q", "K", "V"], ["Y"], copy, opset)
    other = helper.make_function("somewhere", contract.OP_TYPE, ["Q", "K", "V"], ["Y"], copy, opset)
    prepared = model(["Q", "K", "V"], ["Y"], ours, other)
    assert strip_functions(prepared) != []
    assert [function.domain for function in prepared.functions.values()] == ["somewhere"]
    assert strip_functions(prepared) == []
