"""Whole models in 16 bits on a GPU: TensorRT engines with the plugin and without, ONNX Runtime fused and not, PyTorch.

Engines are replayed as CUDA graphs, so that what is timed is the GPU's work; ONNX Runtime and PyTorch run as they are
called. Time, memory and how far the output is from PyTorch's in float32. A fused engine that gives other bits in two
threads than alone is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_files import ENGINES, FREE, FUSED, STRONG, EngineFiles, Say, tensorrt_version
from files import Inputs, Model, Shape

from flashonnx.bench import cuda
from flashonnx.bench.timing import Times, median_ratio
from flashonnx.engine import Engine
from flashonnx.environment import describe

ORT = "ONNX Runtime CUDA"
ORT_FUSED = "flashonnx in ONNX Runtime CUDA"
TORCH = "PyTorch"
NAMES = (FUSED, STRONG, FREE, ORT_FUSED, ORT, TORCH)
OURS = (FUSED, ORT_FUSED)

_ROUNDS = 9


class Contestants:
    """Of one model and shape, each with its inputs in place; what fails is in `notes`.

    shapes: what the engines are made for, tuned for the first.
    """

    def __init__(self, model: Model, folder: Path, shapes: Sequence[Shape], shape: Shape, say: Say) -> None:
        self.files = EngineFiles(model, folder, say)
        self.files.make_half()
        self.model, self.shapes, self.shape = model, shapes, shape
        self.inputs = {name: tensor.cuda() for name, tensor in model.inputs(*shape).items()}
        self.expected = _torch(model, torch.float32)(self.inputs)
        self.runs: dict[str, Callable[[], object]] = {}
        self.differences: dict[str, float] = {}
        self.mebibytes: dict[str, int] = {}
        self.build_seconds: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self._engines: list[Engine] = []

    def row(self) -> dict[str, Any]:
        """All of them, measured."""
        for name in NAMES:
            try:
                self._add(name)
            except Exception as error:  # TensorRT's and ONNX Runtime's refusals share no class
                self.notes[name] = str(error).strip().splitlines()[0]
        seconds = cuda.interleave(self.runs, rounds=_ROUNDS)
        return {
            "model": self.model.name,
            "shape": list(self.shape),
            "engine_shapes": [list(shape) for shape in self.shapes],
            "seconds": seconds,
            "over_ours": _ratios(seconds),
            "relative_difference": self.differences,
            "mebibytes": self.mebibytes,
            "build_seconds": self.build_seconds,
            "notes": self.notes,
        }

    def engine(self, name: str) -> Engine:
        path, self.build_seconds[name] = self.files.make_engine(name, self.shapes)
        return Engine(path)

    def _add(self, name: str) -> None:
        free_before = _free_bytes()
        if name in ENGINES:
            run, output = self._prepare_engine(name)
        elif name == TORCH:
            run, output = self._prepare_torch()
        else:
            run, output = self._prepare_ort(self.files.fused_half if name == ORT_FUSED else self.files.half)
        with torch.cuda.stream(cuda.stream()):
            run()
        torch.cuda.synchronize()
        self.mebibytes[name] = (free_before - _free_bytes()) >> 20
        self.differences[name] = float((output().float() - self.expected).abs().max() / self.expected.abs().max())
        self.runs[name] = run

    def _prepare_engine(self, name: str) -> tuple[Callable[[], object], Callable[[], torch.Tensor]]:
        engine = self.engine(name)
        if name == FUSED:
            _check_threads(engine, self.inputs)
        outputs = engine.bind(self.inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(cuda.stream()):
            engine.enqueue()  # what the first run loads is not to be captured
            cuda.stream().synchronize()
            with torch.cuda.graph(graph, stream=cuda.stream()):
                engine.enqueue()
        self._engines.append(engine)  # a graph does not keep alive what it runs
        return graph.replay, lambda: next(iter(outputs.values()))

    def _prepare_torch(self) -> tuple[Callable[[], object], Callable[[], torch.Tensor]]:
        half = _torch(self.model, torch.float16)
        return lambda: half(self.inputs), lambda: half(self.inputs)

    def _prepare_ort(self, path: Path) -> tuple[Callable[[], object], Callable[[], torch.Tensor]]:
        output = torch.empty_like(self.expected)
        run = cuda.BoundRun(cuda.new_session(path), self.inputs, {"output": output})
        return run, lambda: output


def profile(model: Model, folder: Path, shapes: Sequence[Shape], shape: Shape, say: Say) -> Iterator[str]:
    """Where the time of each engine goes, layer by layer."""
    contestants = Contestants(model, folder, shapes, shape, say)
    for name in ENGINES:
        layers = contestants.engine(name).profile(contestants.inputs)
        yield f"{model.name} {shape[0]}x{shape[1]}, {name}: {sum(layers.values()):.3f} ms, {len(layers)} layers"
        yield from (f"  {milliseconds:8.4f}  {layer}" for layer, milliseconds in layers.items())


def environment() -> dict[str, Any]:
    """What the figures were taken with."""
    import onnxruntime

    versions = {"tensorrt": tensorrt_version(), "onnxruntime": onnxruntime.__version__}
    return {**describe(), **cuda.describe(), **versions}


def line(row: dict[str, Any]) -> str:
    """The row for people."""
    batch, length = row["shape"]
    times = "\n".join(
        f"    {name}: {np.median(times) * 1e3:.3f} ms, off by {row['relative_difference'][name]:.1e}, "
        f"{row['mebibytes'][name]} MiB" + (f", built in {built:.0f} s" if built else "")
        for name, times in row["seconds"].items()
        for built in [row["build_seconds"].get(name)]
    )
    notes = "".join(f"\n    {name}: {note}" for name, note in row["notes"].items())
    return f"{row['model']} {batch}x{length}: TensorRT's best / ours {best_ratio(row):.2f}\n{times}{notes}"


def table(result: dict[str, Any]) -> Iterator[str]:
    """A Markdown table of a JSON file of rows."""
    environment = result["environment"]
    yield (
        f"{environment['gpu']}, TensorRT {environment['tensorrt']}, "
        f"ONNX Runtime {environment['onnxruntime']}, PyTorch {environment['packages']['torch']}; milliseconds, medians"
    )
    yield ""
    more = ("TensorRT's best / ours", "off by, of PyTorch's own", "MiB, ours / TensorRT's", "built in s, likewise")
    yield f"| model | batch x length | {' | '.join((*NAMES, *more))} |"
    yield f"|---|---|{'---:|' * (len(NAMES) + len(more))}"
    for row in result["rows"]:
        seconds = row["seconds"]
        cells = [f"{np.median(seconds[name]) * 1e3:.3f}" if name in seconds else "" for name in NAMES]
        off = row["relative_difference"].get(FUSED, np.nan) / row["relative_difference"].get(TORCH, np.nan)
        cells += [f"{best_ratio(row):.2f}", f"{off:.2f}"]
        cells += [_ours_and_strong(row["mebibytes"]), _ours_and_strong(row["build_seconds"])]
        yield f"| {row['model']} | {'x'.join(map(str, row['shape']))} | {' | '.join(cells)} |"


def _ours_and_strong(figures: dict[str, float]) -> str:
    return " / ".join(f"{figures[name]:.0f}" if name in figures else "" for name in (FUSED, STRONG))


def best_ratio(row: dict[str, Any]) -> float:
    """Time of TensorRT's faster engine over that of the fused one."""
    return min((row["over_ours"][name] for name in (STRONG, FREE) if name in row["over_ours"]), default=float("nan"))


def _ratios(seconds: Times) -> dict[str, float]:
    return {name: median_ratio(seconds, name, FUSED) for name in seconds} if FUSED in seconds else {}


def _check_threads(engine: Engine, inputs: Inputs) -> None:
    """Raises unless two execution contexts, in two threads, give the bits of one that runs alone."""

    def run(context: Engine) -> dict[str, torch.Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            outputs = context.run_tensors(inputs)
            torch.cuda.current_stream().synchronize()
        return outputs

    expected = run(engine.clone())
    with ThreadPoolExecutor(2) as threads:
        for outputs in threads.map(run, (engine.clone(), engine.clone())):
            if not all(torch.equal(outputs[name], expected[name]) for name in expected):
                raise RuntimeError("gives other bits in two threads than alone")


def _torch(model: Model, dtype: torch.dtype) -> Callable[[Inputs], torch.Tensor]:
    module = model.build().to(device="cuda", dtype=dtype)

    @torch.inference_mode()
    def run(inputs: Inputs) -> torch.Tensor:
        return module(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs.values()))

    return run


def _free_bytes() -> int:
    """Of the GPU's memory, after PyTorch has given back what it holds for later."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]
