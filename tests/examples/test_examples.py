"""The examples, built and run as their READMEs say, on a model that is fused here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import flashonnx
from flashonnx.reference import flash_attention
from tests.op.ort.node_models import node_model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-attention of one input would be too easy to get right by chance: three inputs, their mean is known."""
    path = tmp_path_factory.mktemp("model") / "fused.onnx"
    shapes = {name: ("float", ["batch", 2, "length", 8]) for name in "QKV"}
    onnx.save(node_model(shapes, {"is_causal": 1}), path)
    return path


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expected_mean(size: int) -> float:
    ones = np.ones((size, 2, size, 8), np.float32)
    return float(flash_attention(ones, ones, ones, is_causal=1)["Y"].mean())


def test_ort_python(model: Path) -> None:
    output = run(sys.executable, EXAMPLES / "ort_python" / "run.py", model, "batch=3", "length=5")
    assert output.strip() == f"Y: float32 [3, 2, 5, 8], mean {expected_mean(3):.6f}"


@pytest.fixture(scope="module")
def onnxruntime_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime as its release archive lays it out: the headers of the build, the library of the Python package."""
    root = tmp_path_factory.mktemp("onnxruntime")
    (root / "lib").mkdir()
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this onnxruntime package has no libonnxruntime.so to link")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library)
    cache = ROOT / "build" / "release" / "onnxruntime_headers"
    headers = run(sys.executable, ROOT / "cmake" / "find_ort_headers.py", "--cache", cache)
    (root / "include").symlink_to(headers.strip())
    return root


def test_ort_cpp(model: Path, onnxruntime_root: Path, tmp_path: Path) -> None:
    source = EXAMPLES / "ort_cpp"
    run("cmake", "-S", source, "-B", tmp_path, f"-DONNXRUNTIME_ROOT={onnxruntime_root}")
    run("cmake", "--build", tmp_path)
    output = run(tmp_path / "run_fused", model, flashonnx.get_library_path(), 4)
    assert output.strip() == "Y: [4, 2, 4, 8], mean 1"
    refused = subprocess.run(
        [tmp_path / "run_fused", model, tmp_path / "no_such_library.so"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "no_such_library.so" in refused.stderr


def test_triton_configuration_names_the_library_and_the_demos_tensors() -> None:
    from flashonnx.demo import minilm

    text = (EXAMPLES / "triton_onnxruntime" / "model_repository" / "minilm" / "config.pbtxt").read_text()
    assert 'op_library_filename: [ "/opt/flashonnx/libflashonnx.so" ]' in text
    for name in (*minilm.INPUTS, *minilm.OUTPUTS):
        assert f'name: "{name}"' in text
