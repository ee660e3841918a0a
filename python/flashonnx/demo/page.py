"""The demo's HTML page."""

from __future__ import annotations

from flashonnx.demo.models import FUSED, FUSED_FROM, ORIGINALS, TORCH
from flashonnx.demo.result import DemoResult
from flashonnx.report import Series, error_histogram, line_plot, render_page
from flashonnx.validation.compare import HISTOGRAM_EDGES

NAMES = (FUSED, *ORIGINALS, TORCH)


def render(result: DemoResult) -> str:
    """The page's text."""
    return render_page(
        "demo.html.j2",
        result=result,
        bars=result.accuracy_bars() | result.speed_bars(),
        names=NAMES,
        fused=FUSED,
        unfused=FUSED_FROM,
        torch=TORCH,
        figures=[*_time_figures(result), *_memory_figure(result), *_histograms(result)],
    )


def _time_figures(result: DemoResult) -> list[str]:
    """One for each batch that was timed at more than one length."""
    figures = []
    for batch in dict.fromkeys(batch for batch, _ in result.times):
        shapes = [shape for shape in result.times if shape[0] == batch]
        if len(shapes) > 1:
            lengths = [length for _, length in shapes]
            series = [Series(name, lengths, [result.median(shape, name) * 1e3 for shape in shapes]) for name in NAMES]
            figures.append(line_plot(f"Time, batch {batch}", series, x_label="sequence length", y_label="milliseconds"))
    return figures


def _memory_figure(result: DemoResult) -> list[str]:
    if not result.memory:
        return []
    series = [
        Series(name, list(peaks), [peak / 2**20 for peak in peaks.values()]) for name, peaks in result.memory.items()
    ]
    title = f"Peak memory above the loaded model, batch {result.memory_batch}"
    return [line_plot(title, series, x_label="sequence length", y_label="MiB")]


def _histograms(result: DemoResult) -> list[str]:
    """How the differences from PyTorch spread, fused and unfused, one figure an output."""
    differences = result.accuracy.versus_torch
    return [
        error_histogram(
            f"{output}: difference from PyTorch",
            HISTOGRAM_EDGES,
            [differences[name][output].histogram for name in (FUSED, FUSED_FROM)],
            [FUSED, FUSED_FROM],
        )
        for output in differences[FUSED]
    ]
