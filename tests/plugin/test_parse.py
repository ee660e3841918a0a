"""The shared node cases through TensorRT's parser: shapes and messages as everywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from flashonnx import contract
from flashonnx.engine import EngineError
from flashonnx.engine.peer import build_peer
from flashonnx.engine.prepare import strip_functions
from flashonnx.engine.tensorrt import Messages, get_logger
from tests.cases.nodes import ACCEPTED, REFUSED, SYMBOLIC, NodeCase
from tests.plugin.models import ELEMENT_TYPES, model_of, one_node_model

HALF = {name: ("float16", ["batch", 4, "length", 32]) for name in "QKV"}


class Parsed:
    """A network and what must live as long; `network` is None if the parser refused the model."""

    def __init__(self, trt: Any, model: onnx.ModelProto) -> None:
        self.builder = trt.Builder(get_logger(trt))
        network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.parser = trt.OnnxParser(network, get_logger(trt))
        self.network = network if self.parser.parse(model.SerializeToString()) else None

    def layers(self) -> list[Any]:
        return [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def output_shapes(self) -> list[list[int]]:
        return [list(self.network.get_output(index).shape) for index in range(self.network.num_outputs)]


def is_tensorrt(case: NodeCase) -> bool:
    """TensorRT has no double, and no rank above 8."""
    return all(dtype in ELEMENT_TYPES and dtype != "double" for dtype, _ in case.inputs.values())


def cases(table: list[NodeCase]) -> Any:
    return pytest.mark.parametrize("case", filter(is_tensorrt, table), ids=str)


@cases(ACCEPTED)
def test_accepted_node_has_the_contracts_shapes(trt: Any, messages: Messages, case: NodeCase) -> None:
    parsed = Parsed(trt, model_of(case))
    assert parsed.network is not None, messages.explain("")
    assert parsed.output_shapes() == [case.shapes[name] for name in case.outputs]
    assert [layer.type for layer in parsed.layers()] == [trt.LayerType.PLUGIN_V3]


@cases([case for case in SYMBOLIC if case.name != "hidden_size_unknown"])
def test_dynamic_dimensions_follow_the_inputs(trt: Any, messages: Messages, case: NodeCase) -> None:
    parsed = Parsed(trt, model_of(case))
    assert parsed.network is not None, messages.explain("")
    wanted = [[dim if isinstance(dim, int) else -1 for dim in case.shapes[name]] for name in case.outputs]
    assert parsed.output_shapes() == wanted


@cases([case for case in SYMBOLIC if case.name == "hidden_size_unknown"])
def test_head_sizes_must_be_static(trt: Any, messages: Messages, case: NodeCase) -> None:
    assert Parsed(trt, model_of(case)).network is None
    assert "dimension 2 of output 'Y' is not known; heads and head sizes must be static" in messages.explain("")


def is_cut(case: NodeCase) -> bool:
    """TensorRT's parser keeps the lower 32 bits of an attribute."""
    return any(abs(value) > 2**31 for value in case.attributes.values() if isinstance(value, int))


@cases([case for case in REFUSED if not is_cut(case)])
def test_refused_node_fails_with_our_message(trt: Any, messages: Messages, case: NodeCase) -> None:
    parsed = Parsed(trt, model_of(case))
    assert parsed.network is None
    assert case.error in messages.explain(""), messages.errors


@cases([case for case in REFUSED if is_cut(case)])
def test_a_number_that_the_parser_cuts_is_refused_too(trt: Any, messages: Messages, case: NodeCase) -> None:
    assert Parsed(trt, model_of(case)).network is None
    assert messages.explain("").startswith("FlashAttention"), messages.errors


def test_a_local_function_hides_the_plugin(trt: Any) -> None:
    """Why portable functions are left out: if this fails, TensorRT has learnt to prefer plugins."""
    model = one_node_model(HALF)
    body = [helper.make_node("Add", ["Q", "K"], ["sum"]), helper.make_node("Add", ["sum", "V"], ["Y"])]
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function(contract.DOMAIN, contract.OP_TYPE, ["Q", "K", "V"], ["Y"], body, opset))
    hidden = Parsed(trt, model)
    assert trt.LayerType.PLUGIN_V3 not in [layer.type for layer in hidden.layers()]
    prepared = ir.from_proto(model)
    assert strip_functions(prepared) != []
    shown = Parsed(trt, ir.to_proto(prepared))
    assert [layer.type for layer in shown.layers()] == [trt.LayerType.PLUGIN_V3]


def test_a_node_with_a_gap_is_refused_unless_it_is_closed(trt: Any, messages: Messages) -> None:
    """Why gaps are closed: if this fails, TensorRT has learnt of absent inputs."""
    inputs = {**HALF, "sinks": ("float", [4])}
    closed = one_node_model(inputs)
    assert Parsed(trt, closed).network is not None, messages.explain("")
    node = closed.graph.node[0]
    node.input[:] = ["Q", "K", "V", *[""] * 4, "sinks"]
    del node.attribute[:]
    assert Parsed(trt, closed).network is None


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        ("present_inputs", [0, 1, 2, 4], "attribute 'present_inputs' names 4 inputs, and the node has 3"),
        (
            "present_inputs",
            [0, 2, 1],
            "attribute 'present_inputs' has 1 at index 2; allowed: ascending ints from 0 to 8",
        ),
        ("present_outputs", [5], "attribute 'present_outputs' has 5 at index 0; allowed: ascending ints from 0 to 4"),
        ("present_outputs", 1.5, "attribute 'present_outputs' is of another type"),
        ("packed_qkv", 1, "attribute 'packed_qkv' goes with input 'Q', without 'K' and 'V', and with both numbers"),
        ("is_causal", 1.0, "attribute 'is_causal' is of another type; allowed: an int"),
        ("scale", 1, "attribute 'scale' is of another type; allowed: a float"),
    ],
)
def test_layer_attributes_are_checked(trt: Any, messages: Messages, attribute: str, values: Any, message: str) -> None:
    assert Parsed(trt, one_node_model(HALF, attributes={attribute: values})).network is None
    assert message in messages.explain("")


def test_one_tensor_for_q_k_and_v(trt: Any, messages: Messages) -> None:
    inputs = {"Q": ("float16", ["batch", "length", 8 * 16]), "attn_mask": ("bool", ["batch", 1, 1, "length"])}
    attributes = {"q_num_heads": 4, "kv_num_heads": 2, contract.PACKED_QKV: 1}
    parsed = Parsed(trt, one_node_model(inputs, attributes=attributes))
    assert parsed.network is not None, messages.explain("")
    assert parsed.output_shapes() == [[-1, -1, 4 * 16]]


def test_a_tensorrt_that_chooses_no_types_says_so(trt: Any, tmp_path: Path) -> None:
    if hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip(f"{trt.__name__} {trt.__version__} can be left to choose float16")
    onnx.save(one_node_model(HALF), tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="builds strongly typed engines only"):
        build_peer(tmp_path / "model.onnx", tmp_path / "model.engine", {}, strongly_typed=False)
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize("target", ["SM89", "SM120"])
@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
def test_engine_holds_the_plugins_layer(trt: Any, messages: Messages, target: str, dtype: str) -> None:
    if not hasattr(trt, "ComputeCapability"):
        pytest.skip(f"{trt.__name__} builds for this machine's GPU only, tensorrt_rtx for any")
    inputs = {name: (dtype, ["batch", "length", 64]) for name in "QKV"}
    mask = {"attn_mask": ("bool", ["batch", 1, 1, "length"])}
    parsed = Parsed(trt, one_node_model({**inputs, **mask}, attributes={"q_num_heads": 2, "kv_num_heads": 2}))
    config = parsed.builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = parsed.builder.create_optimization_profile()
    for name in "QKV":
        profile.set_shape(name, (1, 1, 64), (2, 16, 64), (4, 128, 64))
    profile.set_shape("attn_mask", (1, 1, 1, 1), (2, 1, 1, 16), (4, 1, 1, 128))
    config.add_optimization_profile(profile)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    assert plan is not None, messages.explain("")
    assert b"FlashAttention" in bytes(plan)
