"""The HTML page and the plots of a benchmark."""

from __future__ import annotations

from flashonnx.bench.cases import SCALING_CASE, Case
from flashonnx.bench.result import BenchResult, Timing
from flashonnx.report import Series, line_plot, render_page


def render(result: BenchResult) -> str:
    """The page's text."""
    figures = list(plots(result).values())
    shares = list(dict.fromkeys(name for timing in result.timings for name in timing.shares()))
    return render_page("bench.html.j2", result=result, figures=figures, columns=columns(result.timings), shares=shares)


def columns(timings: list[Timing]) -> list[str]:
    """Every contestant that took part in some case, in their order."""
    return list(dict.fromkeys(name for timing in timings for name in timing.seconds))


def plots(result: BenchResult, *, standalone: bool = False) -> dict[str, str]:
    """SVG by file stem, for what was measured."""
    figures = {}
    for is_causal, kind in ((False, "full"), (True, "causal")):
        timings = [timing for timing in result.scaling if timing.case.is_causal == is_causal]
        if timings:
            figures[f"time_{kind}"] = line_plot(
                f"Time of one attention, {kind} ({_shape(timings[0].case)}; {result.where})",
                [_over_length(timings, name) for name in columns(timings)],
                x_label="sequence length N",
                y_label="milliseconds",
                standalone=standalone,
            )
    if result.memory:
        figures["memory"] = line_plot(
            f"Peak memory above inputs and output ({_shape(result.memory[0].case)})",
            _memory_series(result),
            x_label="sequence length N",
            y_label="MiB",
            standalone=standalone,
        )
    if result.traffic:
        lengths = [point.length for point in result.traffic]
        figures["traffic"] = line_plot(
            f"Computed traffic, one head, D{SCALING_CASE.head_size}, {result.traffic_cache_bytes >> 10} KiB LRU cache",
            [
                Series("FlashAttention", lengths, [point.flash / 2**20 for point in result.traffic]),
                Series("standard attention", lengths, [point.standard / 2**20 for point in result.traffic]),
            ],
            x_label="sequence length N",
            y_label="MiB moved",
            standalone=standalone,
        )
    if result.dram:
        figures["dram"] = line_plot(
            f"DRAM traffic of one attention ({_shape(result.dram[0].case)}; {result.where})",
            _dram_series(result),
            x_label="sequence length N",
            y_label="MiB moved",
            standalone=standalone,
        )
    return figures


def _shape(case: Case) -> str:
    return f"B{case.batch_size} H{case.q_num_heads} D{case.head_size}, {case.dtype}"


def _dram_series(result: BenchResult) -> list[Series]:
    """What was measured, and dashed what the formulas say."""
    series = []
    for name in dict.fromkeys(name for point in result.dram for name in point.measured):
        points = [point for point in result.dram if name in point.measured]
        lengths = [point.case.q_sequence_length for point in points]
        series.append(Series(name, lengths, [point.measured[name] / 2**20 for point in points]))
    lengths = [point.case.q_sequence_length for point in result.dram]
    flash, standard = ([getattr(point, kind) / 2**20 for point in result.dram] for kind in ("flash", "standard"))
    series.append(Series("Q, K, V and output once", lengths, flash, dashed=True))
    series.append(Series("and the scores four times", lengths, standard, dashed=True))
    return series


def _over_length(timings: list[Timing], name: str) -> Series:
    taken = [timing for timing in timings if name in timing.seconds]
    lengths = [timing.case.q_sequence_length for timing in taken]
    return Series(name, lengths, [timing.median(name) * 1e3 for timing in taken])


def _memory_series(result: BenchResult) -> list[Series]:
    names = dict.fromkeys(name for memory in result.memory for name in memory.peak_bytes)
    series = []
    for name in names:
        measured = [memory for memory in result.memory if name in memory.peak_bytes]
        lengths = [memory.case.q_sequence_length for memory in measured]
        # A logarithmic axis has no zero: under a page counts as a page.
        series.append(Series(name, lengths, [max(memory.peak_bytes[name], 4096) / 2**20 for memory in measured]))
    return series
