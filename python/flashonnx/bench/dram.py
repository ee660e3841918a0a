"""Bytes that attention moves between a GPU's memory (DRAM) and its chip, measured by Nsight Compute's `ncu`.

FlashAttention's claim is about these bytes: without the score matrix in memory, what must move is Q, K and V in and the
output out, once each; standard attention also writes and reads the scores and the probabilities. Both are given beside
what is measured. (Dao et al. 2022, section 3.2, counts the traffic of on-chip memory, of which DRAM sees what L2
misses: where the keys and values of the heads in flight fit into L2, only the first reading of each.)
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from flashonnx.bench.cases import DTYPES, Case

METRICS = ("dram__bytes_read.sum", "dram__bytes_write.sum")
_TIMEOUT_SECONDS = 600
_SCORE_PASSES = 4  # scores and probabilities, each written once and read once


class ProfileError(RuntimeError):
    """ncu is missing, may not read the GPU's counters, or said something else than expected."""


@dataclass(frozen=True)
class DramTraffic:
    """One case: bytes by formula, bytes measured by contestant, and why others were not measured."""

    case: Case
    flash: int
    standard: int
    measured: dict[str, int]
    refused: dict[str, str]


def least_bytes(case: Case) -> int:
    """Q, K, V and the output, each once: what any attention moves at least."""
    return case.input_bytes + case.output_bytes


def standard_bytes(case: Case) -> int:
    """And the score matrix and the probabilities, each written and read, in the case's dtype."""
    pairs = case.batch_size * case.q_num_heads * case.q_sequence_length * case.kv_sequence_length
    return least_bytes(case) + _SCORE_PASSES * pairs * DTYPES[case.dtype].itemsize


def why_not() -> str:
    """Why nothing can be measured; empty: ncu is there."""
    return "" if shutil.which("ncu") else "--profile needs Nsight Compute's ncu on the PATH; it comes with CUDA"


def measure(case: Case, contestant: str) -> int:
    """DRAM bytes, read and written, of one call, in a process of its own under ncu, caches cold.

    Raises:
        ProfileError: with ncu's words.
    """
    request = json.dumps({"case": asdict(case), "contestant": contestant})
    command = ["ncu", "--csv", "--print-units", "base", "--metrics", ",".join(METRICS), "--profile-from-start", "off"]
    command += [sys.executable, "-m", "flashonnx.bench.dram_child", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProfileError(f"ncu: no answer after {_TIMEOUT_SECONDS} s") from error
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if line.startswith("==ERROR==")]
    if done.returncode != 0 and not errors:
        errors = [line for line in lines if line.strip()][-1:] or [f"exit code {done.returncode}"]
    if errors:
        raise ProfileError(f"ncu: {errors[0]}")
    return total_bytes(done.stdout)


def total_bytes(output: str) -> int:
    """The sum over kernels in ncu's CSV, a row a kernel and metric, among the lines that ncu and the program print.

    Raises:
        ProfileError: there is no table, a metric is missing, or a number is none.
    """
    total, seen = 0, set()
    for row in _rows(output):
        name, unit, value = row.get("Metric Name"), row.get("Metric Unit"), row.get("Metric Value") or ""
        if name not in METRICS:
            continue
        digits = value.replace(",", "")
        if unit != "byte" or not digits.isdecimal():
            raise ProfileError(f"ncu reports {name} as {value!r} {unit!r}; expected a number of bytes")
        seen.add(name)
        total += int(digits)
    if seen != set(METRICS):
        raise ProfileError(f"ncu reported no {', '.join(sorted(set(METRICS) - seen))}: did no kernel run?")
    return total


def _rows(output: str) -> Iterator[dict[str, str]]:
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return iter(())
    table = [line for line in lines[start:] if line.startswith('"')]
    return iter(csv.DictReader(io.StringIO("\n".join(table))))
