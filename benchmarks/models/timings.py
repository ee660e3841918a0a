"""The contestants of one model, checked against PyTorch's outputs and timed against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from files import FUSED, OPTIMIZER, ORIGINALS, Files, Model, Shape

from flashonnx.bench.timing import interleave, median_ratio, session_options
from flashonnx.runtime import session

TORCH = "PyTorch"
ORT_BEST = "ORT's best"
# Relative to the output's largest value: other kernels sum in another order, through all layers.
_TOLERANCE = 1e-3

Feeds = dict[str, np.ndarray]


class Contestants:
    """Every file in a session of its own, and the PyTorch model."""

    def __init__(self, model: Model, files: Files, threads: int):
        torch.set_num_threads(threads)
        self.model = model
        self.module = model.build()
        self.notes = dict(files.notes)
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        for name, path in files.paths.items():
            try:
                self.sessions[name] = session(path, ["CPUExecutionProvider"], sess_options=session_options(threads))
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                self.notes[name] = f"does not load: {str(error).splitlines()[0]}"

    def measure(self, shape: Shape, rounds: int, max_seconds: float) -> dict[str, Any]:
        """One row: seconds of every round, differences from PyTorch, and the ratios of the best to our best."""
        inputs = self.model.inputs(*shape)
        runs: dict[str, Callable[[], object]] = {TORCH: lambda: self._torch(inputs)}
        expected = self._torch(inputs).numpy()
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        differences, notes = {}, dict(self.notes)
        for name, model in self.sessions.items():
            try:
                differences[name] = _difference(expected, model.run(["output"], feeds)[0])
            except Exception as error:
                notes[name] = f"does not run: {str(error).splitlines()[0]}"
                continue
            if differences[name] <= _TOLERANCE:
                runs[name] = lambda model=model: model.run(["output"], feeds)
            else:
                notes[name] = f"differs from PyTorch by {differences[name]:.1e} of the largest value"
        seconds = interleave(runs, rounds=rounds, max_seconds=max_seconds)
        return {
            "model": self.model.name,
            "shape": list(shape),
            "seconds": seconds,
            "relative_difference": differences,
            "notes": notes,
            "over_ours": _ratios(seconds),
        }

    @torch.inference_mode()
    def _torch(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.module(*inputs.values())


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """NaN, which no bound holds for, included."""
    if expected.shape != found.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def best(seconds: dict[str, list[float]], names: list[str]) -> str | None:
    """The fastest of those that were timed."""
    timed = [name for name in names if name in seconds]
    return min(timed, key=lambda name: float(np.median(seconds[name]))) if timed else None


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Time over that of our faster file, the median of the rounds; of each, and of ONNX Runtime's best original."""
    ours = best(seconds, list(FUSED))
    assert ours is not None
    ratios = {name: median_ratio(seconds, name, ours) for name in seconds}
    original = best(seconds, [*ORIGINALS, OPTIMIZER])
    return ratios | ({ORT_BEST: ratios[original]} if original is not None else {})


def line(row: dict[str, Any]) -> str:
    """The row for people: milliseconds of each, and the ratio that counts."""
    times = "  ".join(f"{name} {np.median(values) * 1e3:.1f}" for name, values in row["seconds"].items())
    batch, length = row["shape"]
    notes = "".join(f"\n    {name} {note}" for name, note in row["notes"].items())
    ratio = row["over_ours"].get(ORT_BEST, float("nan"))
    return f"{row['model']} {batch}x{length}: {times} ms; {ORT_BEST} / ours {ratio:.2f}{notes}"
