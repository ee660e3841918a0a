"""What a benchmark measured, as data: for the caller, the JSON file and the HTML page."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashonnx.bench.cases import Case
from flashonnx.bench.contestants import OURS
from flashonnx.bench.dram import DramTraffic
from flashonnx.bench.timing import Times, median_ratio
from flashonnx.bench.traffic import Traffic
from flashonnx.files import write_text


@dataclass(frozen=True)
class Timing:
    """One case: seconds of a call by contestant and round, and why the others did not take part.

    On the CPU, `peak_gflops` are those of float32 multiply-adds in registers, by round; in decoding, `read_seconds`
    are those of reading K and V once.
    """

    case: Case
    seconds: Times
    refused: dict[str, str]
    read_seconds: list[float] = field(default_factory=list)
    peak_gflops: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def gflops(self, name: str = OURS) -> float:
        """Useful ones a second, at the median time."""
        return self.case.flops / self.median(name) / 1e9

    def gbytes(self, name: str = OURS) -> float:
        """Inputs and output a second, each moved once, at the median time; in decoding what counts."""
        return (self.case.input_bytes + self.case.output_bytes) / self.median(name) / 1e9

    def ratio(self, name: str) -> float:
        """The contestant's time over ours, in rounds: above 1 we are faster."""
        return median_ratio(self.seconds, name, OURS)

    def fma_share(self) -> float | None:
        """Our useful operations over float32 multiply-adds in registers, in rounds; over 1 where AMX multiplies."""
        if not self.peak_gflops:
            return None
        rounds = zip(self.seconds[OURS], self.peak_gflops, strict=True)
        return statistics.median(self.case.flops / 1e9 / seconds / peak for seconds, peak in rounds)

    def read_share(self) -> float | None:
        """Which share of the machine's read bandwidth we reach: the time of reading K and V over ours, in rounds."""
        if not self.read_seconds:
            return None
        return median_ratio({OURS: self.seconds[OURS], "read": self.read_seconds}, "read", OURS)

    def shares(self) -> dict[str, float]:
        """Those that were measured, under the names that people see."""
        shares = {"of FMA peak": self.fma_share(), "of reading K and V": self.read_share()}
        return {name: share for name, share in shares.items() if share is not None}

    def fastest_peer(self, ours: set[str]) -> str | None:
        """The peer with the smallest median time."""
        peers = [name for name in self.seconds if name not in ours]
        return min(peers, key=self.median) if peers else None


@dataclass(frozen=True)
class Memory:
    """One case: peak bytes above inputs and output by contestant, and why the others were not measured."""

    case: Case
    peak_bytes: dict[str, int]
    refused: dict[str, str]


@dataclass(frozen=True)
class Exactness:
    """One case: largest absolute error against float64 by contestant."""

    case: Case
    max_abs_error: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """A contestant's time over ours, over the cases in which it took part."""

    geometric_mean: float
    least: float
    cases: int


@dataclass
class BenchResult:
    """All that one run of the benchmark measured (timings, memory, exactness, dram) or computed (traffic)."""

    environment: dict[str, object]
    device: str
    threads: int
    ours: set[str]
    timings: list[Timing] = field(default_factory=list)
    scaling: list[Timing] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    exactness: list[Exactness] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    traffic_cache_bytes: int = 0
    dram: list[DramTraffic] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """What it was measured on."""
        gpu = self.environment.get("gpu")
        return str(gpu) if gpu else f"{self.environment['cpu']}, {self.threads} threads"

    def summary(self) -> dict[str, Summary]:
        """Of each peer, over the timed cases."""
        ratios: dict[str, list[float]] = {}
        for timing in self.timings:
            for name in timing.seconds:
                if name not in self.ours:
                    ratios.setdefault(name, []).append(timing.ratio(name))
        return {
            name: Summary(statistics.geometric_mean(values), min(values), len(values))
            for name, values in ratios.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's types, derived figures included."""
        data = asdict(self)
        data["ours"] = sorted(self.ours)
        data["where"] = self.where
        data["summary"] = {name: asdict(summary) for name, summary in self.summary().items()}
        for key in ("timings", "scaling"):
            for entry, timing in zip(data[key], getattr(self, key), strict=True):
                entry["name"] = str(timing.case)
                entry["median_seconds"] = {name: timing.median(name) for name in timing.seconds}
                entry["gflops"] = {name: timing.gflops(name) for name in timing.seconds}
                entry["gbytes"] = {name: timing.gbytes(name) for name in timing.seconds}
                entry["time_over_ours"] = {name: timing.ratio(name) for name in timing.seconds}
                entry["fma_share"] = timing.fma_share()
                entry["read_share"] = timing.read_share()
                entry["fastest_peer"] = timing.fastest_peer(self.ours)
        return data

    def save_json(self, path: str | Path) -> None:
        """Writes `to_dict()`; the file is whole or absent."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Writes a self-contained page with tables and plots."""
        from flashonnx.bench.page import render

        write_text(path, render(self))

    def save_plots(self, folder: str | Path) -> list[Path]:
        """Writes each plot as an SVG file into `folder`, made if need be; returns their paths."""
        from flashonnx.bench.page import plots

        Path(folder).mkdir(parents=True, exist_ok=True)
        paths = []
        for name, svg in plots(self, standalone=True).items():
            paths.append(Path(folder) / f"{name}.svg")
            write_text(paths[-1], svg)
        return paths
