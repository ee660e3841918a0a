"""What a validation found, as data: for the caller, the JSON file and the HTML page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashonnx.files import write_text
from flashonnx.validation.compare import Difference, Verdict, worst


@dataclass(frozen=True)
class Measurement:
    """One value under one input set. The two errors are distances from the float64 oracle, where there is one."""

    input_set: str
    shape: tuple[int, ...]
    distance: Difference  # the model from the reference
    error: Difference | None = None  # the model from the oracle
    reference_error: Difference | None = None  # the reference from the oracle


@dataclass(frozen=True)
class Comparison:
    """One output or attention site over all input sets."""

    name: str
    dtype: str
    measurements: tuple[Measurement, ...]
    verdict: Verdict

    @property
    def distance(self) -> Difference:
        return worst([m.distance for m in self.measurements])


@dataclass
class ValidationResult:
    """Outcome of `flashonnx.validate`.

    `failures` are what kept a value from being compared at all: a run that failed, an output that is missing, shapes
    or dtypes that differ. `notes` are worth reading but no failure, such as why there was no oracle.
    """

    reference: str
    model: str
    outputs: list[Comparison] = field(default_factory=list)
    sites: list[Comparison] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if every output and site passed, nothing failed, and something was compared."""
        comparisons = [*self.outputs, *self.sites]
        return bool(comparisons) and not self.failures and all(c.verdict.passed for c in comparisons)

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's types."""
        data = asdict(self)
        data["passed"] = self.passed
        return data

    def save_json(self, path: str | Path) -> None:
        """Writes `to_dict()`; the file is whole or absent."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Writes a self-contained page with a table of the values and their error histograms."""
        from flashonnx.validation.page import render

        write_text(path, render(self))
