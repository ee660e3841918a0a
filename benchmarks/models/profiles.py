"""Where the time of a file goes, by operator, as ONNX Runtime's profiler counts it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from files import Model, Shape

from flashonnx.bench.timing import session_options
from flashonnx.runtime import session

_RUNS = 5
_SHOWN = 12


def by_operator(model: Model, paths: dict[str, Path], shape: Shape, threads: int) -> Iterator[str]:
    """For each file a line in all and one for each of its costliest operators: milliseconds a run, and how many."""
    feeds = {name: tensor.numpy() for name, tensor in model.inputs(*shape).items()}
    for name, path in paths.items():
        totals, counts = _profile(path, feeds, threads)
        yield f"{model.name} {shape[0]}x{shape[1]}, {name}: {sum(totals.values()):.2f} ms"
        for operator in sorted(totals, key=totals.__getitem__, reverse=True)[:_SHOWN]:
            yield f"  {totals[operator]:9.2f} ms  {counts[operator]:4}  {operator}"


def _profile(path: Path, feeds: dict, threads: int) -> tuple[dict[str, float], dict[str, int]]:
    """Milliseconds and nodes by operator, of one run after the first."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        model = session(path, ["CPUExecutionProvider"], sess_options=options)
        for _ in range(_RUNS + 1):
            model.run(None, feeds)
        events = json.loads(Path(model.end_profiling()).read_text(encoding="utf-8"))
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            totals[operator] += event["dur"] / 1e3
            counts[operator] += 1
    runs = _RUNS + 1
    return {name: time / runs for name, time in totals.items()}, {name: count // runs for name, count in counts.items()}
