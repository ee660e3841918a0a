"""How long `flashonnx.fuse` takes, step by step, and how much memory: on deep stacks of exported decoder blocks.

    python benchmarks/fusion                      10,000 nodes with 2 GB of weights in an external file
    python benchmarks/fusion --nodes 1000 --gibibytes 0.2
    python benchmarks/fusion --model bert.onnx    a file of one's own

The pass runs in a process of its own, so that its peak memory is seen. Verification, which runs the model, is off
unless asked for. Weights are written as fast as the disk takes them; beside it stands how long copying the files takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from decoder_stack import DecoderStack

_KIB_PER_GIB = 1 << 20
_BYTES_PER_GIB = 1 << 30
_SITES = "the sites"


def measure(source: Path, folder: Path, verify: bool) -> dict[str, Any]:
    """Fuses the file in a new process. What is in the result: see `_fuse_here`."""
    files = sorted(source.parent.glob(f"{source.name}*"))
    size = sum(path.stat().st_size for path in files) / _BYTES_PER_GIB
    command = [sys.executable, __file__, "--here", str(source), str(folder / "fused.onnx")]
    answer = subprocess.run(command + ["--verify"] * verify, check=True, stdout=subprocess.PIPE).stdout
    start = time.perf_counter()
    for path in files:
        shutil.copyfile(path, folder / f"copy-{path.name}")
    copying = time.perf_counter() - start
    nodes = len(onnx.load(source, load_external_data=False).graph.node)
    return {"nodes": nodes, "gib": size, "seconds_of_copying": copying, **json.loads(answer)}


def _fuse_here(source: Path, target: Path, verify: bool) -> dict[str, Any]:
    """Seconds in all and of each step; the peak of resident memory in GiB, and what of it importing takes."""
    from flashonnx.fusion import fuse

    imported = _peak_gib()
    seconds: dict[str, float] = {}
    step, since = "", time.perf_counter()

    def progress(done: int, total: int, name: str) -> None:
        nonlocal step, since
        now = time.perf_counter()
        seconds[step] = seconds.get(step, 0.0) + now - since
        step, since = name if done == total or name == "trying sizes" else _SITES, now

    report = fuse(source, target, verify=verify, progress=progress).report
    progress(0, 0, "")
    del seconds[""]
    return {
        "sites": report.total,
        "fused": report.fused,
        "seconds": sum(seconds.values()),
        "steps": seconds,
        "peak_gib": _peak_gib(),
        "imported_gib": imported,
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    return [
        f"{result['nodes']:,} nodes, {result['gib']:.2f} GiB: {result['fused']} of {result['sites']} sites fused",
        *(f"  {seconds:7.2f} s  {step}" for step, seconds in result["steps"].items()),
        f"  {result['seconds']:7.2f} s  in all; copying the files takes {result['seconds_of_copying']:.2f} s",
        f"  {result['peak_gib']:7.2f} GiB at most, {result['imported_gib']:.2f} of it after importing",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--gibibytes", type=float, default=2.0)
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 256")
    parser.add_argument("--model", type=Path, help="fuse this file instead")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to write, if not where temporary files go")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--here", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(_fuse_here(*arguments.here, verify=arguments.verify)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = arguments.model
        if source is None:
            source = Path(folder) / "stack.onnx"
            DecoderStack(arguments.hidden, source).write(arguments.nodes, arguments.gibibytes)
        result = measure(source, Path(folder), arguments.verify)
    print("\n".join(lines(result)))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
