"""The op on ONNX Runtime's CUDA execution provider: onnx's cases, graphs, streams, threads, errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.backend.test.case.test_case import TestCase

import flashonnx
from flashonnx.reference import flash_attention
from tests.cases.nodes import ACCEPTED, NodeCase
from tests.op.ort.node_models import case_feeds, case_model, node_model, run
from tests.op.ort.test_conformance import CASES, check_case
from tests.plugin.models import attention_stack

CUDA = "CUDAExecutionProvider"

pytestmark = pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason=f"needs an onnxruntime with {CUDA}")

SHAPES = {name: ("float16", ["batch", 4, f"{name}_length", 64]) for name in "QKV"}
LONG = 3000  # so many keys for one query are split, and need a workspace


def cuda_session(
    model: onnx.ModelProto, provider_options: dict[str, str] | None = None, *, alone: bool = True
) -> ort.InferenceSession:
    """A session on the GPU; `alone`: it fails to be made if the node would run on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the errors that tests provoke are read from the exception
    if alone:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [(CUDA, provider_options or {})]
    return flashonnx.session(model.SerializeToString(), providers, sess_options=options)


def feeds(queries: int, keys: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = {"Q": queries, "K": keys, "V": keys}
    return {name: rng.standard_normal((2, 4, rows, 64)).astype(np.float16) for name, rows in lengths.items()}


def error(actual: np.ndarray, inputs: dict[str, np.ndarray], **attributes: float) -> float:
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    return float(np.abs(actual.astype(np.float64) - flash_attention(**wide, **attributes)["Y"]).max())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_node_case(case: TestCase) -> None:
    check_case(case, cuda_session)


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_accepted_node_is_what_the_definition_says(case: NodeCase) -> None:
    arrays = case_feeds(case)
    outputs = run(cuda_session(case_model(case)), arrays)
    expected = flash_attention(**arrays, **case.attributes)
    atol = {"float": 5e-6, "float16": 4e-3, "bfloat16": 3e-2, "double": 1e-6}[case.inputs["Q"][0]]
    assert set(outputs) == set(case.outputs)
    for name, array in outputs.items():
        np.testing.assert_allclose(array.astype(float), expected[name].astype(float), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (1, LONG)], ids=["prefill", "decode"])
def test_a_cuda_graph_captures_and_replays_it(queries: int, keys: int) -> None:
    shapes = {"Q": queries, "K": keys, "V": keys}
    model = node_model({name: ("float16", [2, 4, rows, 64]) for name, rows in shapes.items()})
    session = cuda_session(model, {"enable_cuda_graph": "1"})
    inputs = feeds(queries, keys)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in inputs.items()}
    y = ort.OrtValue.ortvalue_from_numpy(np.zeros((2, 4, queries, 64), np.float16), "cuda", 0)
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("Y", y)
    for seed in (0, 1, 2):  # the first run captures, the others replay what it captured, on other numbers
        inputs = feeds(queries, keys, seed)
        for name, value in values.items():
            value.update_inplace(inputs[name])
        session.run_with_iobinding(binding)
        assert error(y.numpy(), inputs) < 4e-3


def test_same_bits_run_after_run() -> None:
    session, inputs = cuda_session(node_model(SHAPES)), feeds(1, LONG)
    assert len({run(session, inputs)["Y"].tobytes() for _ in range(20)}) == 1


def test_one_session_serves_many_threads() -> None:
    """Decoding steps, each with partial results in a workspace that no other run may touch meanwhile."""
    session = cuda_session(node_model(SHAPES))

    def check(seed: int) -> float:
        inputs = feeds(1 + seed % 3, LONG + 100 * seed, seed)
        return error(run(session, inputs)["Y"], inputs)

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(check, range(32))) < 4e-3


def test_sessions_on_streams_of_their_own() -> None:
    import torch

    streams = [torch.cuda.Stream() for _ in range(2)]
    sessions = [cuda_session(node_model(SHAPES), {"user_compute_stream": str(s.cuda_stream)}) for s in streams]

    def check(index: int) -> float:
        inputs = feeds(1, LONG, index)
        return max(error(run(sessions[index], inputs)["Y"], inputs) for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(check, range(2))) < 4e-3


def test_a_refused_run_leaves_the_session_usable() -> None:
    session = cuda_session(node_model(SHAPES))
    bad = {**feeds(5, 9), "K": feeds(5, 9)["K"][:1]}
    with pytest.raises(Exception, match="batch_size is 1, but 2 by input 'Q'"):
        run(session, bad)
    good = feeds(5, 9)
    assert error(run(session, good)["Y"], good) < 4e-3


def test_a_head_size_beyond_shared_memory_is_a_message() -> None:
    model = node_model({name: ("float", [1, 1, 4, 40000]) for name in "QKV"})
    arrays = {name: np.zeros((1, 1, 4, 40000), np.float32) for name in "QKV"}
    with pytest.raises(Exception, match="no CUDA kernel takes this problem"):
        run(cuda_session(model), arrays)


def test_a_fused_model_runs_there_whole(tmp_path: Path) -> None:
    onnx.save(attention_stack(layers=2), tmp_path / "stack.onnx")
    flashonnx.fuse(tmp_path / "stack.onnx", tmp_path / "fused.onnx")
    x = {"x": np.random.default_rng(0).standard_normal((2, 100, 128)).astype(np.float32)}
    expected = ort.InferenceSession(tmp_path / "stack.onnx", providers=["CPUExecutionProvider"]).run(None, x)[0]
    fused = cuda_session(onnx.load(tmp_path / "fused.onnx"), {"use_tf32": "0"}, alone=False)
    np.testing.assert_allclose(fused.run(None, x)[0], expected, rtol=0, atol=1e-4)
