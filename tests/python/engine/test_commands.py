"""engine, run, serve-repo and validate --engine: what they write, and what they say of bad input. No GPU needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from flashonnx.cli import app


def flashonnx(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """y = x + x, x (n, 2)."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_run_takes_and_writes_arrays(double: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([[1, 2], [3, 4]], np.float32))
    result = flashonnx("run", double, tmp_path / "in.npz", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    assert "y: float32[2x2]" in result.stdout
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["y"].tolist() == [[2, 4], [6, 8]]


def test_run_with_wrong_inputs_writes_nothing(double: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", z=np.zeros((1, 2), np.float32))
    result = flashonnx("run", double, tmp_path / "in.npz", tmp_path / "out.npz")
    assert result.exit_code == 2
    assert "no array for x; unknown z" in result.stderr
    assert not (tmp_path / "out.npz").exists()


def test_serve_repo_tells_how_to_serve(double: Path, tmp_path: Path) -> None:
    result = flashonnx("serve-repo", double, tmp_path / "repository", "--mount", "/models")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "tritonserver --model-repository=/models"
    again = flashonnx("serve-repo", double, tmp_path / "repository")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.onnx", "OUT"], "missing.onnx"),
        (["MODEL", "no/such/folder.engine"], "no such folder"),
        (["MODEL", "OUT", "--min", "x"], "'x' is not a shape such as input_ids=2x128"),
        (["MODEL", "OUT", "--max", "z=1x2"], "no input 'z'; the model takes x"),
        (["MODEL", "OUT", "--max", "x=1x3"], "shape (1, 3) contradicts x: float32[nx2]"),
    ],
)
def test_engine_refuses_before_it_builds(double: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    target = tmp_path / "double.engine"
    known = {"MODEL": str(double), "OUT": str(target)}
    result = flashonnx("engine", *[known.get(argument, argument) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not target.exists()


def test_validate_wants_a_model_or_an_engine(double: Path) -> None:
    for more in ([], [double, "--engine", "x.engine"]):
        result = flashonnx("validate", double, *more)
        assert result.exit_code == 2
        assert "name one thing to validate" in result.stderr


def test_a_missing_engine_is_named(double: Path, tmp_path: Path) -> None:
    result = flashonnx("validate", double, "--engine", tmp_path / "missing.engine")
    assert result.exit_code == 2
    assert "missing.engine: No such file or directory" in result.stderr


def test_an_engine_without_a_gpu_is_refused(double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flashonnx.engine import run
    from flashonnx.engine.description import Gpu

    monkeypatch.setattr(run, "describe_gpu", Gpu)
    (tmp_path / "double.engine").write_bytes(b"plan")
    result = flashonnx("validate", double, "--engine", tmp_path / "double.engine")
    assert result.exit_code == 2
    assert "engines run on an NVIDIA GPU, and PyTorch sees none" in result.stderr
