"""Whole models as TensorRT engines in 16 bits: the fused model's against TensorRT's own best of the original.

The original is built twice: strongly typed, from a file converted to float16 as the fused one is, and from the float32
file with TensorRT left free to choose float16. The faster one is what ours is compared with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import Inputs, Model, Shape, make_original

from flashonnx.bench.timing import interleave, median_ratio
from flashonnx.engine import Engine, build_engine
from flashonnx.engine.precision import convert
from flashonnx.engine.tensorrt import get_logger, import_tensorrt
from flashonnx.fusion import model_io

FUSED = "flashonnx plugin"
STRONG = "TensorRT, float16 file"
FREE = "TensorRT, free to choose float16"
TORCH = "PyTorch, float16"
_OPSET = 18  # the newest that TensorRT 10.6 parses whole: it has no Attention
_ROUNDS = 7


def measure(model: Model, folder: Path, shape: Shape, say: Callable[[str], None]) -> dict[str, Any]:
    """One row: milliseconds, build seconds and relative differences from PyTorch in float32, by contestant."""
    source = make_original(model, folder, _OPSET, say)
    inputs = {name: tensor.cuda() for name, tensor in model.inputs(*shape).items()}
    expected = _torch(model, torch.float32)(inputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    half = _torch(model, torch.float16)
    runs: dict[str, Callable[[], object]] = {TORCH: lambda: half(inputs)}
    differences = {TORCH: _difference(half(inputs), expected)}
    build_seconds: dict[str, float] = {}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, build in ((FUSED, _build_fused), (STRONG, _build_strong), (FREE, _build_free)):
            say(f"{model.name}: building, {name}")
            started = time.monotonic()
            path = Path(scratch, "engine")
            try:
                build(source, path, shapes)
                engine = Engine(path)
            except Exception as error:  # TensorRT's refusals, whatever their class
                notes[name] = str(error).splitlines()[0]
                continue
            build_seconds[name] = time.monotonic() - started
            outputs = engine.bind(inputs)
            engine.enqueue()
            differences[name] = _difference(next(iter(outputs.values())), expected)
            runs[name] = engine.enqueue
    seconds = _time(runs)
    return {
        "model": model.name,
        "shape": list(shape),
        "milliseconds": {name: float(np.median(times)) * 1e3 for name, times in seconds.items()},
        "build_seconds": build_seconds,
        "relative_difference": differences,
        "notes": notes,
        "over_ours": {name: median_ratio(seconds, name, FUSED) for name in seconds} if FUSED in seconds else {},
    }


def line(row: dict[str, Any]) -> str:
    """The row for people."""
    batch, length = row["shape"]
    times = "  ".join(
        f"{name} {value:.3f} ms ({row['relative_difference'][name]:.1e})" for name, value in row["milliseconds"].items()
    )
    best = min((row["over_ours"].get(name, float("inf")) for name in (STRONG, FREE)), default=float("nan"))
    notes = "".join(f"\n    {name}: {note}" for name, note in row["notes"].items())
    return f"{row['model']} {batch}x{length}: {times}; TensorRT's best / ours {best:.2f}{notes}"


def _torch(model: Model, dtype: torch.dtype) -> Callable[[Inputs], torch.Tensor]:
    module = model.build().to(device="cuda", dtype=dtype)

    @torch.inference_mode()
    def run(inputs: Inputs) -> torch.Tensor:
        return module(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs.values()))

    return run


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, relative to the largest value."""
    torch.cuda.synchronize()
    return float((found.float() - expected.float()).abs().max() / expected.abs().max())


def _build_fused(source: Path, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    build_engine(source, path, precision="fp16", min_shapes=shapes, opt_shapes=shapes, max_shapes=shapes, check=False)


def _build_strong(source: Path, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    model = model_io.load(source)
    convert(model, "fp16")
    converted = path.with_suffix(".onnx")
    model_io.save(model, converted)
    _build_plain(converted, path, shapes, strongly_typed=True)


def _build_free(source: Path, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    _build_plain(source, path, shapes, strongly_typed=False)


def _build_plain(source: Path, path: Path, shapes: dict[str, tuple[int, ...]], *, strongly_typed: bool) -> None:
    """As `trtexec` builds it."""
    trt = import_tensorrt()
    builder = trt.Builder(get_logger(trt))
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag) if strongly_typed else 0)
    parser = trt.OnnxParser(network, get_logger(trt))
    if not parser.parse_from_file(str(source)):
        raise RuntimeError("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    if not strongly_typed:
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine")
    path.write_bytes(bytes(plan))


def _time(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of a run, many in a row and waited for once."""
    many = 20

    def timed(run: Callable[[], object]) -> Callable[[], object]:
        def all_of_them() -> None:
            for _ in range(many):
                run()
            torch.cuda.synchronize()

        return all_of_them

    times = interleave({name: timed(run) for name, run in runs.items()}, rounds=_ROUNDS)
    return {name: [value / many for value in values] for name, values in times.items()}
