"""Models in files: weights beside them, links, names, and what is left behind when something fails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from flashonnx.fusion import ModelError, fuse
from flashonnx.fusion.run import run_model
from tests.export.forms import WIDTH, attention, complete, join_heads
from tests.export.graphs import Graph

SIZES = {"batch": 2, "rows": 6, "keys": 6}


def projected(graph: Graph, value: str) -> str:
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) / WIDTH
    return graph.op("MatMul", join_heads(graph, value), graph.constant(weight, np.float32))


@pytest.fixture
def graph() -> Graph:
    return attention(on_y=projected)


def save(graph: Graph, path: Path, location: str | None = None) -> Path:
    """Writes the model, its weights into `location` if given."""
    path.parent.mkdir(exist_ok=True)
    model = complete(graph)
    onnx.save(model, path, save_as_external_data=location is not None, location=location, size_threshold=128)
    return path


def assert_equal(graph: Graph, path: Path) -> None:
    feeds = [graph.feeds(SIZES, "none", 0)]
    expected = next(run_model(graph.model(), feeds))
    np.testing.assert_allclose(next(run_model(str(path), feeds))[0], expected[0], rtol=1e-4, atol=1e-4)


def move_weights(path: Path, location: str) -> None:
    """Rewrites where the model's external weights are said to be."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_weights_go_with_the_model_to_another_folder(graph: Graph, tmp_path: Path) -> None:
    source = save(graph, tmp_path / "a" / "model.onnx", "weights.bin")
    (tmp_path / "b").mkdir()
    fuse(source, tmp_path / "b" / "fused.onnx")
    assert sorted(os.listdir(tmp_path / "b")) == ["fused.onnx", "fused.onnx.data"]
    assert_equal(graph, tmp_path / "b" / "fused.onnx")


@pytest.mark.parametrize("location", [None, "model.onnx.data", "weights.bin"])
def test_in_place(graph: Graph, tmp_path: Path, location: str | None) -> None:
    source = save(graph, tmp_path / "model.onnx", location)
    fuse(source, source)
    assert "FlashAttention" in [node.op_type for node in onnx.load(source).graph.node]
    assert_equal(graph, source)


@pytest.mark.parametrize("verify", [True, False])
def test_the_result_outlives_the_file_that_it_replaces(tmp_path: Path, verify: bool) -> None:
    """Weights lie at other places in the new file, or in the model itself when they are small."""

    def projected_twice(graph: Graph, value: str) -> str:
        weight = np.random.default_rng(1).standard_normal((WIDTH, 2)) / WIDTH
        return graph.op("MatMul", projected(graph, value), graph.constant(weight, np.float32))

    graph = attention(on_y=projected_twice)
    source = save(graph, tmp_path / "model.onnx", "model.onnx.data")
    result = fuse(source, source, verify=verify)
    result.save(tmp_path / "again.onnx")
    assert_equal(graph, tmp_path / "again.onnx")
    onnx.save(result.model, tmp_path / "whole.onnx")
    assert_equal(graph, tmp_path / "whole.onnx")


def test_the_weights_of_the_input_stay_under_the_name_that_the_output_would_use(graph: Graph, tmp_path: Path) -> None:
    """As after `mv model.onnx original.onnx`, which leaves model.onnx.data where it is."""
    source = save(graph, tmp_path / "original.onnx", "model.onnx.data")
    weights = (tmp_path / "model.onnx.data").read_bytes()
    fuse(source, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").read_bytes() == weights
    assert_equal(graph, source)
    assert_equal(graph, tmp_path / "model.onnx")


def test_links_as_in_a_hub_cache_are_followed(graph: Graph, tmp_path: Path) -> None:
    save(graph, tmp_path / "blobs" / "model.onnx", "weights.bin")
    (tmp_path / "snapshot").mkdir()
    for name in ("model.onnx", "weights.bin"):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / f"hash-of-{name}")
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / f"hash-of-{name}")
    fuse(tmp_path / "snapshot" / "model.onnx", tmp_path / "fused.onnx")
    assert_equal(graph, tmp_path / "fused.onnx")


def test_an_output_that_is_a_link_is_replaced_not_followed(graph: Graph, tmp_path: Path) -> None:
    source = save(graph, tmp_path / "model.onnx")
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "fused.onnx").symlink_to(tmp_path / "other")
    fuse(source, tmp_path / "fused.onnx")
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert_equal(graph, tmp_path / "fused.onnx")


def test_names_in_any_script(graph: Graph, tmp_path: Path) -> None:
    source = save(graph, tmp_path / "модель ü.onnx", "веса.bin")
    fuse(source, tmp_path / "出力.onnx")
    assert_equal(graph, tmp_path / "出力.onnx")


@pytest.mark.parametrize("location", ["../model/weights.bin", "/etc/hostname", "gone.bin"])
def test_weights_elsewhere(graph: Graph, tmp_path: Path, location: str) -> None:
    source = save(graph, tmp_path / "model" / "model.onnx", "weights.bin")
    move_weights(source, location)
    with pytest.raises(ModelError, match=r"model\.onnx.*weight .* is in .*" + location):
        fuse(source, tmp_path / "fused.onnx")
    assert os.listdir(tmp_path) == ["model"]


def test_truncated_weights(graph: Graph, tmp_path: Path) -> None:
    source = save(graph, tmp_path / "model.onnx", "weights.bin")
    os.truncate(tmp_path / "weights.bin", 1000)
    with pytest.raises(ModelError, match=r"truncated.*needs 4096 bytes, the file has 1000"):
        fuse(source, tmp_path / "fused.onnx")


@pytest.mark.parametrize("target", ["no/such/folder/fused.onnx", "folder", "/proc/fused.onnx"])
def test_an_output_that_cannot_be_written(graph: Graph, tmp_path: Path, target: str) -> None:
    source = save(graph, tmp_path / "model.onnx", "weights.bin")
    (tmp_path / "folder").mkdir()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ModelError, match=r"fused\.onnx|folder"):
        fuse(source, tmp_path / target)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_pipe_or_device_is_not_replaced_by_the_output(graph: Graph, tmp_path: Path) -> None:
    source = save(graph, tmp_path / "model.onnx", "weights.bin")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="a device or a pipe"):
        fuse(source, tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "pipe", "weights.bin"]
    assert not (tmp_path / "pipe").is_file()


def test_an_existing_output_survives_a_failure(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(graph, tmp_path / "model.onnx")
    (tmp_path / "fused.onnx").write_bytes(b"precious")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flashonnx.fusion.model_io.write_embedded", full)
    with pytest.raises(ModelError, match="No space left"):
        fuse(source, tmp_path / "fused.onnx")
    assert (tmp_path / "fused.onnx").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["fused.onnx", "model.onnx"]
