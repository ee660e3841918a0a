"""What the demo found, and the bars that it is held to."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashonnx.bench.timing import Times, median_ratio
from flashonnx.demo.accuracy import PADDING, Accuracy
from flashonnx.demo.gpu import GpuResult
from flashonnx.demo.models import FUSED, FUSED_FROM, ORIGINALS
from flashonnx.files import write_text
from flashonnx.fusion import FuseReport
from flashonnx.validation.compare import ERROR_RATIO

MAX_ABS_DIFF = 2e-5

Shape = tuple[int, int]  # batch, sequence length


@dataclass
class DemoResult:
    """Figures of one run. `memory` is the peak in bytes above the loaded model, by contestant and sequence length."""

    environment: dict[str, object]
    threads: int
    fusion: FuseReport
    accuracy: Accuracy = field(default_factory=Accuracy)
    times: dict[Shape, Times] = field(default_factory=dict)
    memory: dict[str, dict[int, int]] = field(default_factory=dict)
    memory_batch: int = 0
    notes: list[str] = field(default_factory=list)
    gpu: GpuResult | None = None

    def median(self, shape: Shape, name: str) -> float:
        """Seconds of a run."""
        return statistics.median(self.times[shape][name])

    def best_original(self, shape: Shape) -> str:
        """The original that ONNX Runtime runs fastest."""
        return min(ORIGINALS, key=lambda name: self.median(shape, name))

    def speedup(self, shape: Shape) -> float:
        """Time of ONNX Runtime's best original over the fused model's: the median of the ratios within rounds."""
        return median_ratio(self.times[shape], self.best_original(shape), FUSED)

    def accuracy_bars(self) -> dict[str, bool]:
        """What must hold on any machine, and whether it does."""
        sites = self.fusion
        fused, unfused = self.accuracy.max_abs(FUSED), self.accuracy.max_abs(FUSED_FROM)
        padding = [self.accuracy.max_abs(name, [PADDING]) for name in (FUSED, FUSED_FROM)]
        return {
            f"every site fused ({sites.fused} of {sites.total})": 0 < sites.total == sites.fused,
            f"max abs difference from PyTorch {fused:.1e} <= {MAX_ABS_DIFF:.0e}": fused <= MAX_ABS_DIFF,
            f"and <= {ERROR_RATIO} x that of the original {unfused:.1e}": fused <= ERROR_RATIO * unfused,
            f"at padding {padding[0]:.1e} <= {ERROR_RATIO} x {padding[1]:.1e}": padding[0] <= ERROR_RATIO * padding[1],
            "nearest sentences unchanged": self.accuracy.rankings_equal[FUSED],
        }

    def speed_bars(self) -> dict[str, bool]:
        """What should hold on a machine that does nothing else."""
        slower = [f"{batch} x {length}" for batch, length in self.times if self.speedup((batch, length)) < 1]
        where = f" (slower: {', '.join(slower)})" if slower else ""
        return {f"at least as fast as ONNX Runtime's best original at every batch and length{where}": not slower}

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's types."""
        speedup: dict[str, dict[str, float]] = {}
        for batch, length in self.times:
            speedup.setdefault(str(batch), {})[str(length)] = self.speedup((batch, length))
        return {
            "environment": self.environment,
            "threads": self.threads,
            "sites_total": self.fusion.total,
            "sites_fused": self.fusion.fused,
            "max_abs_diff_vs_torch": self.accuracy.max_abs(FUSED),
            "unfused_max_abs_diff_vs_torch": self.accuracy.max_abs(FUSED_FROM),
            "padding_max_abs_diff_vs_torch": self.accuracy.max_abs(FUSED, [PADDING]),
            "cosine_min": self.accuracy.cosine_min[FUSED],
            "rankings_equal": self.accuracy.rankings_equal[FUSED],
            "speedup_vs_ort": speedup,
            "bars": self.accuracy_bars() | self.speed_bars(),
            "fusion": self.fusion.to_json(),
            "accuracy": asdict(self.accuracy),
            "seconds": [
                {
                    "batch": batch,
                    "length": length,
                    "best_original": self.best_original((batch, length)),
                    "rounds": times,
                }
                for shape, times in self.times.items()
            ],
            "peak_memory_bytes": {"batch": self.memory_batch, "by_length": self.memory},
            "notes": self.notes,
            "gpu": self.gpu.to_dict() if self.gpu is not None else None,
        }

    def save_json(self, path: str | Path) -> None:
        """Writes `to_dict()`; the file is whole or absent."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Writes a self-contained page with tables and plots."""
        from flashonnx.demo.page import render

        write_text(path, render(self))
