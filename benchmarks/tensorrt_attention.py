"""Attention alone in TensorRT, in 16 bits: the plugin, against TensorRT's own engine of MatMul, Softmax and MatMul.

    python benchmarks/tensorrt_attention.py --json attention.json
    python benchmarks/tensorrt_attention.py --length 2048 --engines build/engines    keeps its engines there

The causal mask of TensorRT's own is an N x N tensor that is added, as exporters write it: its parser knows no other.
TensorRT's own is built strongly typed and free to choose types, and the faster one counts. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from flashonnx.arrays import to_torch
from flashonnx.bench import cuda, graphs
from flashonnx.bench.cases import Case
from flashonnx.bench.timing import median_ratio
from flashonnx.engine import Engine
from flashonnx.engine.builder import Builder, BuilderOptions
from flashonnx.engine.tensorrt import import_tensorrt, listening, load_plugin
from flashonnx.environment import describe
from flashonnx.files import replacing, write_text

OURS = "flashonnx plugin"
PEERS = ("TensorRT, strongly typed", "TensorRT, free to choose")
_GRAPHS: dict[str, tuple[Callable[[Case], onnx.ModelProto], bool]] = {
    OURS: (graphs.flash_attention, True),
    PEERS[0]: (graphs.unfused, True),
    PEERS[1]: (graphs.unfused, False),
}
CASES = tuple(
    Case(batch, heads, heads, length, length, size, is_causal, "float16")
    for size, heads in ((64, 32), (128, 16))
    for batch, length in ((4, 2048), (1, 8192))
    for is_causal in (False, True)
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--length", type=int, action="append", help="of Q and K; all if not given")
    parser.add_argument("--head-size", type=int, action="append", help="likewise")
    parser.add_argument("--engines", type=Path, help="a folder: engines are kept there, and not built again")
    arguments = parser.parse_args()
    if arguments.engines:
        arguments.engines.mkdir(parents=True, exist_ok=True)
    trt = import_tensorrt()
    load_plugin(trt)
    rows = []
    for case in CASES:
        if not _is_asked_for(case, arguments):
            continue
        rows.append(measure(trt, case, arguments.rounds, arguments.engines))
        print(_line(rows[-1]), flush=True)
    if arguments.json:
        environment = {**describe(), **cuda.describe(), "tensorrt": trt.__version__}
        write_text(arguments.json, json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")
    return 0


def measure(trt: Any, case: Case, rounds: int, folder: Path | None = None) -> dict[str, Any]:
    """Seconds on the GPU of each engine, round by round, and how far the peers' outputs are from ours.

    folder: where engines are kept.
    """
    rng = np.random.default_rng(0)
    shape = (case.batch_size, case.q_num_heads, case.q_sequence_length, case.head_size)
    inputs = {name: to_torch(rng.standard_normal(shape, np.float32).astype(np.float16)).cuda() for name in "qkv"}
    engines = {name: _engine(trt, case, name, folder) for name in _GRAPHS}
    outputs = {name: engine.run_tensors(inputs)["y"].float() for name, engine in engines.items()}
    seconds = cuda.interleave({name: engine.enqueue for name, engine in engines.items()}, rounds=rounds)
    return {
        "case": {"batch": shape[0], "heads": shape[1], "length": shape[2], "head_size": shape[3]},
        "is_causal": case.is_causal,
        "seconds": seconds,
        "tflops": {name: case.flops / statistics.median(times) / 1e12 for name, times in seconds.items()},
        "over_ours": {name: median_ratio(seconds, name, OURS) for name in PEERS},
        "largest_difference": {name: float((outputs[name] - outputs[OURS]).abs().max()) for name in PEERS},
    }


def _is_asked_for(case: Case, arguments: argparse.Namespace) -> bool:
    asked = ((arguments.length, case.q_sequence_length), (arguments.head_size, case.head_size))
    return all(wanted is None or size in wanted for wanted, size in asked)


def _engine(trt: Any, case: Case, name: str, folder: Path | None) -> Engine:
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / f"{case}, {name}.engine".replace(" ", "_").replace("/", "_")
        if not path.exists():
            graph, strongly_typed = _GRAPHS[name]
            source = Path(temporary, "model.onnx")
            onnx.save(graph(case), source)
            options = BuilderOptions(strongly_typed=strongly_typed, tf32=True)
            with listening(trt) as messages, replacing(path) as unfinished:
                unfinished.write_bytes(Builder(trt, messages, options).build(source, {}))
        return Engine(path)


def _line(row: dict[str, Any]) -> str:
    case = "B{batch} H{heads} N{length} D{head_size}".format(**row["case"])
    tflops = ", ".join(f"{name} {value:.0f}" for name, value in row["tflops"].items())
    ratio, off = min(row["over_ours"].values()), max(row["largest_difference"].values())
    mask = "causal" if row["is_causal"] else "full"
    return f"{case} {mask}: {tflops} TFLOP/s; TensorRT's best / ours {ratio:.2f}, outputs {off:.0e} apart"


if __name__ == "__main__":
    sys.exit(main())
