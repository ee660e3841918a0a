"""onnx's checker, shape inference and reference evaluator on the op."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_shapes

from flashonnx import contract, schema
from flashonnx.reference import FlashAttention, flash_attention
from tests.cases.nodes import ACCEPTED, REFUSED, SYMBOLIC, Dim, NodeCase
from tests.op.ort.node_models import ELEMENT_TYPES, case_feeds, case_model, node_model


def shapes(model: onnx.ModelProto) -> dict[str, list[Dim]]:
    return {output.name: [dim_of(dim) for dim in output.type.tensor_type.shape.dim] for output in model.graph.output}


def dim_of(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    # onnx makes up names of this form for unknown dimensions.
    return None if dim.dim_param.startswith("unk__") else dim.dim_param or None


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {output.name: output.type.tensor_type.elem_type for output in model.graph.output}


def without_output_types(model: onnx.ModelProto) -> onnx.ModelProto:
    for output in model.graph.output:
        output.ClearField("type")
    return model


def test_the_schema_is_the_contract() -> None:
    registered = onnx.defs.get_schema(contract.OP_TYPE, contract.SINCE_VERSION, contract.DOMAIN)
    assert [tensor.name for tensor in registered.inputs] == [tensor.name for tensor in contract.INPUTS]
    assert [tensor.name for tensor in registered.outputs] == [tensor.name for tensor in contract.OUTPUTS]
    for attribute in contract.ATTRIBUTES:
        declared = registered.attributes[attribute.name]
        assert not declared.required
        if attribute.default is not None:
            assert onnx.helper.get_attribute_value(declared.default_value) == attribute.default


def test_registering_again_changes_nothing() -> None:
    assert schema.register().name == schema.register().name == contract.OP_TYPE


@pytest.mark.parametrize("case", ACCEPTED + SYMBOLIC, ids=str)
def test_shapes_and_types_are_inferred(case: NodeCase) -> None:
    inferred = infer_shapes(without_output_types(case_model(case)), check_type=True, strict_mode=True)
    assert shapes(inferred) == case.shapes
    t_type = ELEMENT_TYPES[case.inputs["Q"][0]]
    assert types(inferred) == {name: onnx.TensorProto.FLOAT if name == "lse" else t_type for name in case.shapes}
    onnx.checker.check_model(inferred, full_check=True)


def test_an_input_of_unknown_type_does_not_stop_inference() -> None:
    helper = onnx.helper
    nodes = [
        helper.make_node("Unknown", ["x"], ["q"], domain="elsewhere"),
        helper.make_node(contract.OP_TYPE, ["q", "x", "x"], ["y"], domain=contract.DOMAIN),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4, 9, 8])
    y = helper.make_empty_tensor_value_info("y")
    opsets = [helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION), helper.make_opsetid("elsewhere", 1)]
    inferred = infer_shapes(helper.make_model(helper.make_graph(nodes, "graph", [x], [y]), opset_imports=opsets))
    assert types(inferred) == {"y": onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("case", [case for case in REFUSED if case.name != "missing_value"], ids=str)
def test_refused_node_fails_inference(case: NodeCase) -> None:
    model = without_output_types(case_model(case))
    with pytest.raises((InferenceError, onnx.checker.ValidationError)) as failure:
        infer_shapes(model, strict_mode=True)
    assert case.error in str(failure.value)


def test_unknown_attribute_fails_the_checker() -> None:
    model = node_model(ACCEPTED[0].inputs, {"is_casual": 1})
    with pytest.raises(onnx.checker.ValidationError, match="is_casual"):
        onnx.checker.check_node(model.graph.node[0], context(model))


def context(model: onnx.ModelProto) -> onnx.checker.C.CheckerContext:
    made = onnx.checker.C.CheckerContext()
    made.ir_version = model.ir_version
    made.opset_imports = {opset.domain: opset.version for opset in model.opset_import}
    return made


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_reference_evaluator_runs_the_op(case: NodeCase) -> None:
    feeds = case_feeds(case)
    model = infer_shapes(without_output_types(case_model(case)))
    results = ReferenceEvaluator(model, new_ops=[FlashAttention]).run(None, feeds)
    expected = flash_attention(**feeds, **case.attributes)
    for output, have in zip(model.graph.output, results, strict=True):
        np.testing.assert_array_equal(have, expected[output.name])
