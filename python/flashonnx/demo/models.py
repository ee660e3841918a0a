"""The demo's contestants: one model in PyTorch, as two exported ONNX files, and as the fused one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashonnx.bench.timing import session_options
from flashonnx.demo import minilm
from flashonnx.fusion import FuseReport, fuse
from flashonnx.runtime import session

TORCH = "PyTorch"
FUSED = "fused"
# torch.onnx.export writes attention as a dozen nodes at opset 18, and as one Attention node at 23.
ORIGINALS = {"original, opset 18": 18, "original, opset 23": 23}
# The original that the fused file is made from: at opset 23 GELU is one node too, which ONNX Runtime knows to be fast.
FUSED_FROM = "original, opset 23"

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Files:
    """Paths of the ONNX files by name, and what fusion said of the last."""

    paths: dict[str, Path]
    report: FuseReport


def make_files(folder: Path, say: Callable[[str], None]) -> Files:
    """Exports the model at each opset with dynamic batch and sequence, and fuses it."""
    import torch

    from flashonnx.exporter import export_unfused

    model = minilm.load_model()
    example = minilm.encode(minilm.load_tokenizer(), minilm.sentences()[:3])
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=minilm.MAX_LENGTH)
    paths = {}
    for name, opset in ORIGINALS.items():
        say(f"exporting, opset {opset}")
        paths[name] = folder / f"minilm_opset{opset}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own internals
            export_unfused(
                model,
                [torch.from_numpy(example[name]) for name in minilm.INPUTS],
                paths[name],
                dynamic_shapes=({0: batch, 1: sequence},) * len(minilm.INPUTS),
                input_names=list(minilm.INPUTS),
                output_names=list(minilm.OUTPUTS),
                opset_version=opset,
            )
    say("fusing")
    paths[FUSED] = folder / "minilm_fused.onnx"
    result = fuse(paths[FUSED_FROM], paths[FUSED])
    return Files(paths, result.report)


def torch_run(threads: int, *, float64: bool = False) -> Run:
    """The PyTorch model as a function of named arrays."""
    import torch

    torch.set_num_threads(threads)
    model = minilm.load_model()
    model = model.double() if float64 else model

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = model(*(torch.from_numpy(inputs[name]) for name in minilm.INPUTS))
        return dict(zip(minilm.OUTPUTS, (output.numpy() for output in outputs), strict=True))

    return run


def onnx_run(path: Path, threads: int) -> Run:
    """A file in ONNX Runtime, with all of its optimisations and our library registered."""
    model = session(path, ["CPUExecutionProvider"], sess_options=session_options(threads))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values: Any = model.run(list(minilm.OUTPUTS), dict(inputs))
        return dict(zip(minilm.OUTPUTS, values, strict=True))

    return run
