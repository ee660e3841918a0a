"""The HTML page of a validation."""

from __future__ import annotations

from flashonnx.report import error_histogram, render_page
from flashonnx.validation.compare import HISTOGRAM_EDGES, worst
from flashonnx.validation.result import Comparison, ValidationResult


def render(result: ValidationResult) -> str:
    """The page's text."""
    floating = [output for output in result.outputs if output.distance.histogram]
    figures = [_histogram(output) for output in floating]
    return render_page("validation.html.j2", result=result, figures=figures)


def _histogram(comparison: Comparison) -> str:
    """How errors spread: against float64 where there is an oracle, else the model's difference from the reference."""
    measurements = comparison.measurements
    errors = worst([m.error for m in measurements if m.error])
    reference_errors = worst([m.reference_error for m in measurements if m.reference_error])
    if errors.histogram and reference_errors.histogram:
        counts = [errors.histogram, reference_errors.histogram]
        labels = ["model, against float64", "reference, against float64"]
    else:
        counts, labels = [comparison.distance.histogram], ["model, against the reference"]
    return error_histogram(comparison.name, HISTOGRAM_EDGES, counts, labels)
