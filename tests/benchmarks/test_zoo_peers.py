"""Counting what peers fuse."""

from __future__ import annotations

from benchmarks.zoo.peers import attention_nodes, model_type
from onnx import TensorProto, helper


def test_counts_attention_in_graphs_functions_and_branches():
    def attention(domain, op_type):
        return helper.make_node(op_type, ["x"], ["y"], domain=domain)

    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([attention("com.microsoft", "Attention")], "branch", [], [y])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    body = helper.make_function(
        "local", "F", ["x"], ["y"], [attention("com.microsoft", "GroupQueryAttention")], [helper.make_opsetid("", 18)]
    )
    nodes = [
        attention("", "Attention"),
        attention("com.microsoft", "MultiHeadAttention"),
        attention("", "Relu"),
        choice,
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []), functions=[body])
    assert attention_nodes(model) == 5


def test_model_types_are_those_of_onnxruntime():
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    from tests.zoo.exporting import SPECS

    assert {model_type(name) for name in SPECS} <= set(MODEL_TYPES)
    assert model_type("bart") == "bart"
    assert model_type("electra") == "bert"
