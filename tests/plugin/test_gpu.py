"""Engines on a GPU: right, from files, in threads, in CUDA graphs, at every shape of the profile and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from flashonnx.arrays import from_torch, to_torch
from flashonnx.engine import Engine, EngineError, build_engine
from flashonnx.engine.description import Description, describe_gpu
from flashonnx.engine.peer import build_peer
from flashonnx.engine.profile import Range
from flashonnx.reference import flash_attention
from flashonnx.validation.compare import difference, judge_against_oracle, judge_closeness
from tests.plugin.models import attention_stack, one_node_model

torch = pytest.importorskip("torch", reason="needs PyTorch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not describe_gpu().name, reason="needs an NVIDIA GPU"),
    pytest.mark.usefixtures("trt"),
]

DTYPES = {"float": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHAPE = {"batch": 2, "heads": 4, "kv_heads": 2, "length": 200, "keys": 264, "size": 64}

# Inputs beside Q, K and V, attributes, outputs beside Y.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "full": ({}, {}, []),
    "causal": ({}, {"is_causal": 1}, []),
    "window": ({}, {"left_window_size": 31, "right_window_size": 7}, []),
    "softcap": ({}, {"softcap": 20.0, "scale": 0.3}, []),
    "padding": ({"attn_mask": ("bool", [2, 1, 1, 264])}, {}, []),
    "bias": ({"attn_mask": ("T", [1, 4, 200, 264])}, {}, []),
    "past": ({"past_key": ("T", [2, 2, 50, 64]), "past_value": ("T", [2, 2, 50, 64])}, {"is_causal": 1}, []),
    "present": (
        {"past_key": ("T", [2, 2, 50, 64]), "past_value": ("T", [2, 2, 50, 64])},
        {},
        ["present_key", "present_value"],
    ),
    "lengths": ({"nonpad_kv_seqlen": ("int64", [2])}, {}, ["lse"]),
    "sinks and slopes": ({"sinks": ("float", [4]), "alibi_slopes": ("float", [4])}, {"is_causal": 1}, ["lse"]),
}


def random_arrays(inputs: dict[str, tuple[str, list[int]]], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, shape) in inputs.items():
        if dtype == "bool":
            array = rng.random(shape) < 0.8
        elif dtype == "int64":
            array = np.array([100, 264])
        else:
            array = rng.standard_normal(shape).astype(DTYPES[dtype])
        arrays[name] = array
    return arrays


def qkv(dtype: str, **sizes: int) -> dict[str, tuple[str, list[int]]]:
    s = {**SHAPE, **sizes}
    return {
        "Q": (dtype, [s["batch"], s["heads"], s["length"], s["size"]]),
        "K": (dtype, [s["batch"], s["kv_heads"], s["keys"], s["size"]]),
        "V": (dtype, [s["batch"], s["kv_heads"], s["keys"], s["size"]]),
    }


def built(folder: Path, model: onnx.ModelProto, name: str = "model", **options: Any) -> Path:
    onnx.save(model, folder / f"{name}.onnx")
    target = folder / f"{name}.engine"
    build_engine(folder / f"{name}.onnx", target, check=False, **options)
    return target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_one_node_is_what_the_definition_says(tmp_path: Path, case: str, dtype: str) -> None:
    more, attributes, outputs = CASES[case]
    inputs = {**qkv(dtype), **{name: (dtype if kind == "T" else kind, shape) for name, (kind, shape) in more.items()}}
    names = ["Y", *outputs]
    engine = Engine(built(tmp_path, one_node_model(inputs, names, attributes)))
    arrays = random_arrays(inputs)
    actual = engine.run(arrays)
    wide = {name: array.astype(np.float64) if name in "QKV" else array for name, array in arrays.items()}
    expected = flash_attention(**wide, **attributes)
    assert list(actual) == names
    for name in names:
        verdict = judge_closeness(difference(actual[name], expected[name]), DTYPES[dtype])
        assert verdict.passed, (name, verdict)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 200])
def test_one_tensor_for_q_k_and_v_is_as_good_as_three(tmp_path: Path, length: int, dtype: str) -> None:
    sizes = {"Q": 4 * 64, "K": 2 * 64, "V": 2 * 64}
    heads = {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1}
    three = {name: (dtype, [2, length, size]) for name, size in sizes.items()}
    arrays = random_arrays(three)
    expected = Engine(built(tmp_path, one_node_model(three, attributes=heads))).run(arrays)["Y"]
    one = one_node_model({"Q": (dtype, [2, length, 8 * 64])}, attributes={**heads, "packed_qkv": 1})
    packed = np.concatenate([arrays[name] for name in "QKV"], axis=2)
    actual = Engine(built(tmp_path, one, "packed")).run({"Q": packed})["Y"]
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_error_is_that_of_pytorch(tmp_path: Path, causal: bool, dtype: str) -> None:
    inputs = qkv(dtype, keys=SHAPE["length"], kv_heads=SHAPE["heads"])
    engine = Engine(built(tmp_path, one_node_model(inputs, attributes={"is_causal": int(causal)})))
    arrays = random_arrays(inputs)
    actual = engine.run(arrays)["Y"]
    truth = flash_attention(**{name: array.astype(np.float64) for name, array in arrays.items()}, is_causal=int(causal))
    tensors = [to_torch(arrays[name]).cuda() for name in "QKV"]
    peer = from_torch(torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal))
    verdict = judge_against_oracle(
        difference(actual, truth["Y"]), difference(peer, truth["Y"]), difference(actual, peer), DTYPES[dtype]
    )
    assert verdict.passed, verdict


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory, trt: Any) -> Path:
    """Causal attention, fp16, batch 1 to 4 and length 1 to 512."""
    inputs = {name: ("float16", ["batch", "length", 4 * 64]) for name in "QKV"}
    attributes = {"is_causal": 1, "q_num_heads": 4, "kv_num_heads": 4}
    model = one_node_model(inputs, attributes=attributes)
    shapes = {"min_shapes": {"Q": (1, 1, 256)}, "opt_shapes": {"Q": (1, 128, 256)}, "max_shapes": {"Q": (4, 512, 256)}}
    return built(tmp_path_factory.mktemp("dynamic"), model, **shapes)


def dynamic_arrays(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    return random_arrays({name: ("float16", [batch, length, 256]) for name in "QKV"}, seed)


def expected_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    return flash_attention(**wide, is_causal=1, q_num_heads=4, kv_num_heads=4)["Y"]


def test_one_engine_serves_every_shape_of_its_profile(dynamic: Path) -> None:
    engine = Engine(dynamic)
    for batch, length in [(1, 1), (1, 7), (4, 512), (2, 129), (1, 512), (4, 1)]:
        arrays = dynamic_arrays(batch, length)
        verdict = judge_closeness(difference(engine.run(arrays)["Y"], expected_of(arrays)), DTYPES["float16"])
        assert verdict.passed, (batch, length, verdict)


def test_a_shape_outside_the_profile_is_refused(dynamic: Path) -> None:
    engine = Engine(dynamic)
    with pytest.raises(EngineError, match=r"input 'Q' has shape \(1, 513, 256\); allowed: 1x1x256 .. 4x512x256"):
        engine.run(dynamic_arrays(1, 513))
    arrays = dynamic_arrays(2, 16)
    assert engine.run(arrays)["Y"].shape == (2, 16, 256)  # and the engine still runs


def test_wrong_inputs_are_named(dynamic: Path) -> None:
    engine = Engine(dynamic)
    arrays = dynamic_arrays(1, 8)
    with pytest.raises(EngineError, match="given Q, K; it takes Q, K, V"):
        engine.run({name: arrays[name] for name in "QK"})
    with pytest.raises(EngineError, match=r"input 'K' is torch.float32; allowed: torch.float16"):
        engine.run({**arrays, "K": arrays["K"].astype(np.float32)})


def test_same_bits_run_after_run(dynamic: Path) -> None:
    engine, arrays = Engine(dynamic), dynamic_arrays(2, 300)
    first = engine.run(arrays)["Y"]
    assert all(engine.run(arrays)["Y"].tobytes() == first.tobytes() for _ in range(5))


def test_two_contexts_run_in_two_threads(dynamic: Path) -> None:
    engine = Engine(dynamic)
    sets = [dynamic_arrays(2, 300, seed=1), dynamic_arrays(4, 450, seed=2)]
    alone = [engine.run(arrays)["Y"] for arrays in sets]

    def many(engine: Engine, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return [engine.run(arrays)["Y"] for _ in range(50)]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(many, [engine, engine.clone()], sets))
    for outputs, expected in zip(results, alone, strict=True):
        assert all(output.tobytes() == expected.tobytes() for output in outputs)


def test_a_cuda_graph_replays_it(dynamic: Path) -> None:
    engine, arrays = Engine(dynamic), dynamic_arrays(2, 256)
    tensors = {name: to_torch(array).cuda() for name, array in arrays.items()}
    outputs = engine.run_tensors(tensors)  # TensorRT prepares for new shapes outside of graphs
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        engine.enqueue()
    other = dynamic_arrays(2, 256, seed=3)
    for name, array in other.items():
        tensors[name].copy_(to_torch(array))
    outputs["Y"].zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert from_torch(outputs["Y"]).tobytes() == engine.run(other)["Y"].tobytes()


def test_a_fresh_process_runs_the_file(dynamic: Path, tmp_path: Path) -> None:
    arrays = dynamic_arrays(2, 33)
    np.savez(tmp_path / "in.npz", **arrays)
    command = [sys.executable, "-c", "from flashonnx.cli import main; main()", "run", dynamic, "in.npz", "out.npz"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["Y"].tobytes() == Engine(dynamic).run(arrays)["Y"].tobytes()


def test_the_inspector_shows_the_plugin(dynamic: Path) -> None:
    layers = json.dumps(json.loads(Engine(dynamic).layers()))
    assert "FlashAttention" in layers or "PluginV3" in layers, layers


def test_layers_are_timed_by_name(dynamic: Path) -> None:
    engine = Engine(dynamic)
    arrays = dynamic_arrays(2, 33)
    before = engine.run(arrays)["Y"].tobytes()
    layers = engine.profile({name: to_torch(array).cuda() for name, array in arrays.items()}, runs=3)
    assert any("attention" in name for name in layers), layers  # the node's name
    assert all(milliseconds >= 0 for milliseconds in layers.values())
    assert engine.run(arrays)["Y"].tobytes() == before


def test_what_is_written_beside_it(dynamic: Path) -> None:
    description = Description.load(dynamic)
    assert description is not None
    gpu = describe_gpu()
    assert (description.gpu, description.compute_capabilities) == (gpu.name, (gpu.compute_capability,))
    assert description.profile["Q"]["max"] == [4, 512, 256]


@pytest.mark.parametrize("keep", [0, 100, -100], ids=["empty", "start", "all but the end"])
def test_a_damaged_file_is_refused(dynamic: Path, tmp_path: Path, keep: int) -> None:
    plan = dynamic.read_bytes()
    damaged = tmp_path / "damaged.engine"
    damaged.write_bytes(plan[:keep])
    with pytest.raises(EngineError, match=r"damaged\.engine: "):
        Engine(damaged)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_model_is_fused_built_and_compared(tmp_path: Path, precision: str) -> None:
    onnx.save(attention_stack(layers=2), tmp_path / "stack.onnx")
    cache = tmp_path / "timings"
    result = build_engine(tmp_path / "stack.onnx", tmp_path / "stack.engine", precision=precision, timing_cache=cache)
    assert "fused 2 of 2 attention sites" in result.notes
    assert result.check is not None
    assert result.check.passed
    assert cache.stat().st_size > 0
    again = build_engine(
        tmp_path / "stack.onnx", tmp_path / "again.engine", precision=precision, timing_cache=cache, check=False
    )
    assert again.path.exists()


@pytest.mark.parametrize("strongly_typed", [True, False])
def test_tensorrts_own_engine_is_the_same_model(tmp_path: Path, strongly_typed: bool) -> None:
    onnx.save(attention_stack(layers=1), tmp_path / "stack.onnx")
    shapes = Range((1, 1, 128), (2, 64, 128), (2, 64, 128))
    precision = "fp16" if strongly_typed else None
    build_peer(
        tmp_path / "stack.onnx",
        tmp_path / "peer.engine",
        {"x": shapes},
        precision=precision,
        strongly_typed=strongly_typed,
    )
    build_engine(tmp_path / "stack.onnx", tmp_path / "stack.engine", precision="fp16", check=False)
    arrays = random_arrays({"x": ("float", [2, 64, 128])})
    ours, peers = (Engine(tmp_path / f"{name}.engine") for name in ("stack", "peer"))
    assert "FlashAttention" not in peers.layers()
    np.testing.assert_allclose(peers.run(arrays)["out"], ours.run(arrays)["out"], rtol=2e-2, atol=2e-2)


def test_validate_compares_an_engine_with_its_onnx_file(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flashonnx.cli import app

    onnx.save(attention_stack(layers=1), tmp_path / "stack.onnx")
    build_engine(tmp_path / "stack.onnx", tmp_path / "stack.engine", precision="fp16", check=False)
    arguments = ["validate", str(tmp_path / "stack.onnx"), "--engine", str(tmp_path / "stack.engine"), "--json", "-"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"]
    # Another model's engine must not pass.
    onnx.save(attention_stack(layers=1, seed=1), tmp_path / "other.onnx")
    arguments[1] = str(tmp_path / "other.onnx")
    assert CliRunner().invoke(app, arguments).exit_code == 1
