"""Model repositories, their configuration read back by Triton's own message."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from flashonnx.engine import triton
from flashonnx.engine.triton import model_config, write_repository


def model(*dims: list[int | str], types: tuple[int, ...] = (TensorProto.INT64, TensorProto.FLOAT)) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(f"in{i}", types[i], shape) for i, shape in enumerate(dims)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT16, [dims[0][0], 4])]
    nodes = [helper.make_node("Identity", ["in0"], ["out"])]
    return helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs), ir_version=10)


def parsed(text: str) -> Any:
    """The ModelConfig message; its module is loaded by its file, because its package wants gRPC."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None:
        pytest.skip("needs tritonclient")
    file = Path(spec.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    module_spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the libraries' place: what is copied does not matter here."""
    for name, function in (("libflashonnx.so", "get_library_path"), ("libflashonnx_trt.so", "get_plugin_path")):
        (tmp_path / name).write_text(name)
        monkeypatch.setattr(triton, function, lambda name=name: str(tmp_path / name))


def test_batch_dimension_is_tritons() -> None:
    config = parsed(model_config(model(["batch", "length"], ["batch", 8]), "bert", "onnxruntime", 16))
    assert (config.name, config.backend, config.max_batch_size) == ("bert", "onnxruntime", 16)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        ("in0", 9, [-1]),  # TYPE_INT64
        ("in1", 11, [8]),  # TYPE_FP32
    ]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("out", 10, [4])]
    assert config.HasField("dynamic_batching")
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1
    assert {name: list(tensor.dims) for name, tensor in warmup.inputs.items()} == {"in0": [1], "in1": [8]}
    assert warmup.inputs["in0"].zero_data
    assert warmup.inputs["in1"].random_data


@pytest.mark.parametrize("dims", [[2, "length"], ["batch", 3]], ids=["static batch", "one input without a batch"])
def test_without_a_common_batch_dimension_nothing_is_batched(dims: list[int | str]) -> None:
    config = parsed(model_config(model(dims, [1, 8]), "m", "onnxruntime", 16))
    assert config.max_batch_size == 0
    assert [list(tensor.dims) for tensor in config.input] == [
        [dim if isinstance(dim, int) else -1 for dim in dims],
        [1, 8],
    ]
    assert not config.HasField("dynamic_batching")


def test_names_are_quoted() -> None:
    assert parsed(model_config(model(["batch", 2]), 'a "quoted\\name', "onnxruntime", 1)).name == 'a "quoted\\name'


def test_repository_serves_both_runtimes(tmp_path: Path, libraries: None) -> None:
    onnx.save(model(["batch", 2]), tmp_path / "bert.onnx")
    (tmp_path / "bert.engine").write_bytes(b"plan")
    made = write_repository(
        tmp_path / "bert.onnx", tmp_path / "repository", engine=tmp_path / "bert.engine", mount="/models"
    )
    files = sorted(str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file())
    assert files == [
        "bert/1/model.onnx",
        "bert/config.pbtxt",
        "bert_tensorrt/1/model.plan",
        "bert_tensorrt/config.pbtxt",
        "flashonnx/libflashonnx.so",
        "flashonnx/libflashonnx_trt.so",
    ]
    config = parsed((made.folder / "bert" / "config.pbtxt").read_text())
    assert list(config.model_operations.op_library_filename) == ["/models/flashonnx/libflashonnx.so"]
    assert parsed((made.folder / "bert_tensorrt" / "config.pbtxt").read_text()).backend == "tensorrt"
    assert "--model-repository=/models" in made.command
    assert "plugins=/models/flashonnx/libflashonnx_trt.so" in made.command


def test_weights_in_other_files_come_along(tmp_path: Path, libraries: None) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [64], bytes(256), raw=True)
    with_weights = model(["batch", 2])
    with_weights.graph.initializer.append(weights)
    onnx.save(with_weights, tmp_path / "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    made = write_repository(tmp_path / "big.onnx", tmp_path / "repository")
    assert (made.folder / "big" / "1" / "w.bin").read_bytes() == bytes(256)
    onnx.load(made.folder / "big" / "1" / "model.onnx")


def test_an_existing_model_is_not_overwritten(tmp_path: Path, libraries: None) -> None:
    onnx.save(model(["batch", 2]), tmp_path / "bert.onnx")
    (tmp_path / "repository" / "bert").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="bert exists already"):
        write_repository(tmp_path / "bert.onnx", tmp_path / "repository")
    assert list((tmp_path / "repository" / "bert").iterdir()) == []


@pytest.mark.parametrize("name", ["../bert", "a/b", "..", "flashonnx"])
def test_a_name_that_is_no_folder_of_its_own(tmp_path: Path, libraries: None, name: str) -> None:
    onnx.save(model(["batch", 2]), tmp_path / "bert.onnx")
    with pytest.raises(ValueError, match="cannot be a model's name"):
        write_repository(tmp_path / "bert.onnx", tmp_path / "repository", name=name)
    assert not (tmp_path / "repository").exists()
    assert not list(tmp_path.glob("bert/*"))


def test_a_failure_leaves_no_model(tmp_path: Path, libraries: None) -> None:
    onnx.save(model(["batch", 2]), tmp_path / "bert.onnx")
    with pytest.raises(FileNotFoundError):
        write_repository(tmp_path / "bert.onnx", tmp_path / "repository", engine=tmp_path / "missing.engine")
    assert not (tmp_path / "repository" / "bert_tensorrt").exists()
