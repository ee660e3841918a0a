"""Other people's tools with the plugin: Polygraphy, trtexec, ONNX Runtime's TensorRT execution provider."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import flashonnx
from flashonnx.engine import build_engine
from flashonnx.engine.description import describe_gpu
from tests.plugin.models import attention_stack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not describe_gpu().name, reason="needs an NVIDIA GPU"),
    pytest.mark.usefixtures("trt"),
]

TOOLS = Path(__file__).parents[2] / "examples" / "tensorrt_tools"
SHAPES = ("x:[1,1,128]", "x:[2,64,128]", "x:[4,256,128]")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """portable.onnx, which any ONNX Runtime runs, and stack.onnx, the same as TensorRT takes it."""
    folder = tmp_path_factory.mktemp("stack")
    onnx.save(attention_stack(layers=2), folder / "unfused.onnx")
    flashonnx.fuse(folder / "unfused.onnx", folder / "portable.onnx")
    build_engine(folder / "portable.onnx", folder / "stack.engine", onnx_path=folder / "stack.onnx", check=False)
    return folder


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_polygraphy_finds_both_runtimes_equal(files: Path) -> None:
    if shutil.which("polygraphy") is None:
        pytest.skip("needs polygraphy")
    assert "PASSED" in run([str(TOOLS / "polygraphy.sh"), "portable.onnx", "stack.onnx", *SHAPES], files)


def test_trtexec_builds_and_times(files: Path) -> None:
    if shutil.which("trtexec") is None:
        pytest.skip("needs trtexec")
    sizes = [shape.replace(":[", ":").replace("]", "").replace(",", "x") for shape in SHAPES]
    assert "&&&& PASSED" in run([str(TOOLS / "trtexec.sh"), "stack.onnx", *sizes], files)


def test_the_example_of_onnx_runtimes_provider(files: Path) -> None:
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime-gpu with TensorrtExecutionProvider")
    x = np.random.default_rng(0).standard_normal((2, 64, 128)).astype(np.float32)
    np.savez(files / "in.npz", x=x)
    run([sys.executable, str(TOOLS / "ort_tensorrt.py"), "portable.onnx", "in.npz", "out.npz"], files)
    expected = flashonnx.session(files / "portable.onnx", ["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with np.load(files / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["out"], expected, rtol=1e-3, atol=1e-3)


def test_onnx_runtime_hands_the_node_to_tensorrt(files: Path) -> None:
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime-gpu with TensorrtExecutionProvider")
    x = np.random.default_rng(0).standard_normal((2, 64, 128)).astype(np.float32)
    expected = flashonnx.session(files / "portable.onnx", ["CPUExecutionProvider"]).run(None, {"x": x})[0]
    options = {
        "trt_extra_plugin_lib_paths": flashonnx.get_plugin_path(),
        "trt_profile_min_shapes": "x:1x1x128",
        "trt_profile_opt_shapes": "x:2x64x128",
        "trt_profile_max_shapes": "x:4x256x128",
    }
    settings = onnxruntime.SessionOptions()
    settings.enable_profiling = True
    settings.profile_file_prefix = str(files / "profile")
    providers = [("TensorrtExecutionProvider", options), "CPUExecutionProvider"]
    session = flashonnx.session(files / "portable.onnx", providers, sess_options=settings)
    actual = session.run(None, {"x": x})[0]
    profile = Path(session.end_profiling()).read_text()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
    assert "TensorrtExecutionProvider" in profile
    assert "FlashAttention_kernel_time" not in profile  # no kernel of ONNX Runtime's own ran it
