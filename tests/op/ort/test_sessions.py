"""How the op behaves in a process: threads, sessions side by side, repeated runs, options that are the caller's."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import flashonnx
from flashonnx.reference import flash_attention
from tests.op.ort.node_models import node_model, run, session

ROOT = Path(__file__).parents[3]
SHAPES = {name: ("float", ["batch", 4, f"{name}_length", 32]) for name in "QKV"}


def feeds(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((2, 4, length, 32)).astype(np.float32) for name in "QKV"}


def test_one_session_serves_many_threads() -> None:
    runner = session(node_model(SHAPES, {"is_causal": 1}))

    def check(seed: int) -> float:
        inputs = feeds(20 + seed, seed)
        return float(np.abs(run(runner, inputs)["Y"] - flash_attention(**inputs, is_causal=1)["Y"]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(check, range(64))) < 2e-6


def test_sessions_are_made_and_run_side_by_side() -> None:
    inputs = feeds(16)
    expected = flash_attention(**inputs)["Y"]

    def check(_: int) -> float:
        return float(np.abs(run(session(node_model(SHAPES)), inputs)["Y"] - expected).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(check, range(16))) < 2e-6


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}], ids=["full", "causal"])
@pytest.mark.parametrize("length", [1, 130])
def test_the_number_of_threads_changes_no_bit(length: int, attributes: dict[str, int]) -> None:
    inputs = {**feeds(700), "Q": feeds(length)["Q"]}
    model = node_model(SHAPES, attributes)
    results = [
        run(session(model, intra_op_num_threads=threads), inputs)["Y"].tobytes()
        for threads in (1, 2, 3)
        for _ in range(2)
    ]
    assert len(set(results)) == 1


def test_no_threads_but_onnx_runtimes() -> None:
    """In a process of its own: this one's other libraries start threads."""
    script = """
import os
from tests.op.ort.node_models import node_model, run, session
from tests.op.ort.test_sessions import SHAPES, feeds
runner = session(node_model(SHAPES), intra_op_num_threads=2, inter_op_num_threads=1)
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
for length in (1, 64, 600):
    run(runner, feeds(length))
print(before, count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    before, after = done.stdout.split()
    assert before == after


def test_session_options_stay_the_callers() -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = node_model(SHAPES).SerializeToString()
    made = flashonnx.session(model, ["CPUExecutionProvider"], sess_options=options)
    assert made.get_session_options().intra_op_num_threads == 1
    assert made.get_providers() == ["CPUExecutionProvider"]


def test_session_options_serve_many_sessions() -> None:
    options = ort.SessionOptions()
    model = node_model(SHAPES).SerializeToString()
    inputs = feeds(8)
    made = [flashonnx.session(model, ["CPUExecutionProvider"], sess_options=options) for _ in range(2)]
    options.register_custom_ops_library(flashonnx.get_library_path())
    made.append(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
    assert len({run(session, inputs)["Y"].tobytes() for session in made}) == 1


def test_session_takes_a_path(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(node_model(SHAPES).SerializeToString())
    inputs = feeds(8)
    np.testing.assert_allclose(
        run(flashonnx.session(path), inputs)["Y"], flash_attention(**inputs)["Y"], rtol=0, atol=2e-6
    )


def test_a_failing_run_does_not_disturb_runs_beside_it() -> None:
    runner = session(node_model(SHAPES))
    good, bad = feeds(50), {**feeds(50), "K": feeds(50)["K"][:1]}
    expected = flash_attention(**good)["Y"]
    errors: list[str] = []

    def fail() -> None:
        for _ in range(50):
            with pytest.raises(Exception, match="batch_size is 1, but 2 by input 'Q'"):
                run(runner, bad)

    failing = threading.Thread(target=fail)
    failing.start()
    for _ in range(50):
        if np.abs(run(runner, good)["Y"] - expected).max() > 2e-6:
            errors.append("wrong result")
    failing.join()
    assert errors == []
