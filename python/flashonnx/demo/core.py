"""The demo from model to report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashonnx.bench import cuda
from flashonnx.bench.memory import in_child, is_supported
from flashonnx.bench.timing import Times, interleave
from flashonnx.demo import accuracy, gpu, minilm, models
from flashonnx.demo.result import DemoResult
from flashonnx.environment import cpu_count, describe

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is run: shapes are (batch, sequence length)."""

    accuracy_shapes: Sequence[tuple[int, int]]
    speed_shapes: Sequence[tuple[int, int]]
    memory_batch: int
    memory_lengths: Sequence[int]
    rounds: int
    seconds_per_shape: float  # fewer rounds, but three at least, once a shape has taken this long


FULL = Plan(
    accuracy_shapes=((1, 16), (1, 512), (8, 64), (8, 256), (32, 128)),
    speed_shapes=(
        *((1, length) for length in (32, 128, 256, 512)),
        *((8, length) for length in (32, 128, 256, 512)),
        *((32, length) for length in (32, 128, 512)),
    ),
    memory_batch=8,
    memory_lengths=(128, 256, 512),
    rounds=9,
    seconds_per_shape=10.0,
)
QUICK = Plan(
    accuracy_shapes=((1, 16), (8, 64)),
    speed_shapes=((1, 32), (2, 64)),
    memory_batch=1,
    memory_lengths=(64,),
    rounds=3,
    seconds_per_shape=1.0,
)


def run(plan: Plan = FULL, *, threads: int | None = None, progress: Progress | None = None) -> DemoResult:
    """Exports, fuses, compares and measures all-MiniLM-L6-v2.

    Raises:
        ModuleNotFoundError: the model's package is not installed.
    """
    say = progress or (lambda line: None)
    threads = threads or cpu_count()
    minilm.model_folder()
    with tempfile.TemporaryDirectory(prefix="flashonnx-demo-") as folder:
        files = models.make_files(Path(folder), say)
        result = DemoResult(describe(), threads, files.report)
        contestants = {name: models.onnx_run(path, threads) for name, path in files.paths.items()}
        tokenizer = minilm.load_tokenizer()
        torch = models.torch_run(threads)
        result.accuracy = accuracy.measure(
            torch,
            models.torch_run(threads, float64=True),
            contestants,
            plan.accuracy_shapes,
            tokenizer,
            lambda step: say(f"comparing, {step}"),
        )
        contestants[models.TORCH] = torch
        for batch, length in plan.speed_shapes:
            say(f"timing batch {batch}, length {length}")
            inputs = minilm.encode(tokenizer, minilm.batch_of_texts(batch, length), length)
            result.times[batch, length] = _time(contestants, inputs, plan)
        _measure_memory(plan, files, result, say)
        _measure_on_gpu(plan, files, tokenizer, result, say)
    return result


def _time(contestants: dict[str, models.Run], inputs: dict, plan: Plan) -> Times:
    functions = {name: lambda run=run: run(inputs) for name, run in contestants.items()}
    return interleave(functions, rounds=plan.rounds, max_seconds=plan.seconds_per_shape)


def _measure_on_gpu(plan: Plan, files: models.Files, tokenizer: Any, result: DemoResult, say: Progress) -> None:
    """Where there is one that everything needed can use; else the report says why not."""
    if reason := cuda.why_not():
        result.notes.append(f"nothing is measured on a GPU: that {reason}")
        return
    try:
        result.gpu = gpu.run(files.paths, plan.speed_shapes, tokenizer, say)
    except Exception as error:  # whatever a driver or a library throws; what the CPU has shown is not lost
        result.notes.append(f"nothing is measured on the GPU: {str(error).strip()}")


def _measure_memory(plan: Plan, files: models.Files, result: DemoResult, say: Progress) -> None:
    """Each figure in a process of its own, so that no run finds memory that another has left."""
    if not is_supported():
        result.notes.append("peak memory is not measured: it needs Linux's /proc")
        return
    for name in (models.FUSED, *models.ORIGINALS, models.TORCH):
        for length in plan.memory_lengths:
            say(f"memory of {name}, batch {plan.memory_batch}, length {length}")
            request = {
                "contestant": name,
                "path": str(files.paths.get(name, "")),
                "batch": plan.memory_batch,
                "length": length,
                "threads": result.threads,
            }
            result.memory.setdefault(name, {})[length] = in_child("flashonnx.demo.memory_child", request)
    result.memory_batch = plan.memory_batch
