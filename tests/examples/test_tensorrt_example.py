"""examples/tensorrt_cpp, built against TensorRT-RTX's package and a CUDA toolkit, and examples/tensorrt_tools."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest

import flashonnx
from flashonnx.engine import build_engine
from flashonnx.engine.description import describe_gpu
from tests.op.ort.node_models import node_model

ROOT = Path(__file__).parents[2]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built as its README says."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs tensorrt_rtx")
    if not os.environ.get("CUDACXX"):
        pytest.skip("needs a CUDA toolkit, whose nvcc CUDACXX names")
    folder = tmp_path_factory.mktemp("tensorrt_cpp")
    (folder / "lib").mkdir()
    library = next(Path(spec.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*"))
    for name in ("libtensorrt_rtx.so", library.name):
        (folder / "lib" / name).symlink_to(library)
    finder = [sys.executable, ROOT / "cmake" / "find_trt_headers.py", "--version", "rtx-1.7"]
    headers = run(*finder, "--cache", ROOT / "build" / "cuda" / "tensorrt_headers")
    if headers.returncode != 0:
        pytest.skip(f"needs TensorRT-RTX's headers: {headers.stderr}")
    (folder / "include").symlink_to(headers.stdout.strip())
    toolkit = Path(os.environ["CUDACXX"]).parents[1]
    options = [f"-DTENSORRT_ROOT={folder}", f"-DCUDAToolkit_ROOT={toolkit}"]
    for command in (
        ["cmake", "-S", ROOT / "examples" / "tensorrt_cpp", "-B", folder / "build", *options],
        ["cmake", "--build", folder / "build"],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "run_engine"


def test_bad_arguments_are_told(program: Path) -> None:
    usage = run(program)
    assert usage.returncode == 2
    assert "usage: " in usage.stderr
    missing = run(program, "no.engine", "/no_such_plugin.so")
    assert missing.returncode == 1
    assert "error: " in missing.stderr


def test_polygraphys_network_has_the_plugins_layer(tmp_path: Path) -> None:
    """As Polygraphy calls it, with TensorRT-RTX; what it then does with the network needs a GPU."""
    for module in ("polygraphy", "tensorrt_rtx"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    try:
        plugin = flashonnx.get_plugin_path()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    onnx.save(node_model({name: ("float16", [2, 4, 64, 32]) for name in "QKV"}), tmp_path / "model.onnx")
    script = (
        "from polygraphy_network import load_network; network = load_network()[1]; "
        "print([network.get_layer(i).type.name for i in range(network.num_layers)])"
    )
    environment = {
        **os.environ,
        "MODEL": str(tmp_path / "model.onnx"),
        "FLASHONNX_PLUGIN": plugin,
        "POLYGRAPHY_USE_TENSORRT_RTX": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT / "examples" / "tensorrt_tools",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['PLUGIN_V3']"


@pytest.mark.parametrize("script", ["polygraphy.sh", "trtexec.sh"])
def test_shell_scripts_are_scripts(script: str) -> None:
    done = run("sh", "-n", ROOT / "examples" / "tensorrt_tools" / script)
    assert done.returncode == 0, done.stderr


def test_onnx_runtimes_tensorrt_provider_is_asked_for() -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is there: tests/plugin/test_gpu_peers.py")
    script = ROOT / "examples" / "tensorrt_tools" / "ort_tensorrt.py"
    done = run(sys.executable, script, "fused.onnx", "in.npz", "out.npz")
    assert done.returncode == 1
    assert "this onnxruntime has no TensorrtExecutionProvider" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not describe_gpu().name, reason="needs an NVIDIA GPU")
def test_it_runs_an_engine(program: Path, tmp_path: Path) -> None:
    model = node_model({name: ("float16", [2, 4, 64, 32]) for name in "QKV"}, {"is_causal": 1})
    onnx.save(model, tmp_path / "model.onnx")
    build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", check=False, module="tensorrt_rtx")
    done = run(program, tmp_path / "model.engine", flashonnx.get_plugin_path())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Y: [2, 4, 64, 32], mean 1"
