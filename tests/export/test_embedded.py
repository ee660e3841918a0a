"""Files with their weights in them, written without protobuf's help."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashonnx.fusion.embedded import write_embedded

WEIGHTS = {
    "float": np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32),
    "half": np.arange(900, dtype=np.float16).reshape(30, 30),
    "brain": np.linspace(-3, 3, 700).astype(ml_dtypes.bfloat16),
    "nibbles": np.resize(np.arange(-8, 8), 4001).astype(ml_dtypes.int4),
    "integers": np.arange(-500, 500, dtype=np.int64),
    "small": np.asarray(2.5, np.float32),
    "none": np.zeros((0, 4), np.float32),
    "yes": np.resize([True, False, True], 2000),
}


def model_of(tensors: list[TensorProto]) -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", [tensor.name], [f"{tensor.name}_out"]) for tensor in tensors]
    outputs = [
        helper.make_tensor_value_info(node.output[0], tensor.data_type, tensor.dims)
        for node, tensor in zip(nodes, tensors, strict=True)
    ]
    graph = helper.make_graph(nodes, "graph", [], outputs, tensors, doc_string="weights of all kinds")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"key": "value"})
    return model


def test_the_file_is_the_message_that_protobuf_would_write(tmp_path: Path) -> None:
    model = ir.from_proto(model_of([numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]))
    write_embedded(model, tmp_path / "model.onnx")
    found, expected = onnx.load(tmp_path / "model.onnx"), ir.to_proto(model)
    onnx.checker.check_model(found)
    assert {tensor.name: tensor for tensor in found.graph.initializer} == {
        tensor.name: tensor for tensor in expected.graph.initializer
    }
    for proto in (found, expected):
        del proto.graph.initializer[:]
    assert found == expected


def test_weights_in_typed_fields_and_of_text_come_out_whole(tmp_path: Path) -> None:
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, (600,), np.arange(600.0))
    words = helper.make_tensor("words", TensorProto.STRING, (400,), [b"a word"] * 400)
    write_embedded(ir.from_proto(model_of([numbers, words])), tmp_path / "model.onnx")
    found = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    assert np.array_equal(found["numbers"], np.arange(600.0))
    assert list(found["words"]) == ["a word"] * 400


@pytest.mark.parametrize("size", [126, 127, 128, 16_383, 16_384])
def test_lengths_of_every_width(tmp_path: Path, size: int) -> None:
    array = np.arange(8 * size, dtype=np.uint8)
    write_embedded(ir.from_proto(model_of([numpy_helper.from_array(array, "w")])), tmp_path / "model.onnx")
    (tensor,) = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(tensor), array)


def test_the_model_keeps_its_weights(tmp_path: Path) -> None:
    model = ir.from_proto(model_of([numpy_helper.from_array(WEIGHTS["float"], "float")]))
    write_embedded(model, tmp_path / "model.onnx")
    assert np.array_equal(model.graph.initializers["float"].const_value.numpy(), WEIGHTS["float"])
