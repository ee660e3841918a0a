"""flashonnx bench"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashonnx.cli.common import (
    CASE_HELP,
    DTYPE_HELP,
    HTML_HELP,
    JSON_HELP,
    check_folder,
    check_outputs,
    console,
    exit_codes,
    fail,
    is_shown,
    progress,
    write_json,
)

if TYPE_CHECKING:
    from flashonnx.bench.dram import DramTraffic
    from flashonnx.bench.result import BenchResult, Timing

app = typer.Typer(add_completion=False)

TOPICS_HELP = (
    "speed, scaling, exactness, or all; on the CPU also memory and traffic; also parts of speed: on the CPU "
    "common and decode; on CUDA prefill, decode, grouped, masks. [default: speed]"
)


@app.command()
def bench(
    topics: Annotated[list[str] | None, typer.Argument(help=TOPICS_HELP)] = None,
    case: Annotated[list[str] | None, typer.Option(help=CASE_HELP)] = None,
    causal: Annotated[bool | None, typer.Option("--causal/--full", help="Only causal, or only full attention.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help=DTYPE_HELP + " [default: float32 on the CPU, bfloat16 on CUDA]")
    ] = None,
    length: Annotated[list[int] | None, typer.Option(help="Of all topics over length; repeatable.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="A peer, repeatable. [default: all]")] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
    profile: Annotated[
        bool, typer.Option("--profile", help="On CUDA: measure DRAM bytes over length with Nsight Compute's ncu.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every contestant. [default: all CPUs]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 7,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
    html: Annotated[Path | None, typer.Option(help=HTML_HELP)] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the plots as SVG files into this folder.")] = None,
) -> None:
    """Time the op against PyTorch's and ONNX Runtime's attention; measure memory and error."""
    check_outputs(json, html)
    check_folder(plots)
    with exit_codes():
        from flashonnx.bench.cases import SCALING_LENGTHS, with_options
        from flashonnx.bench.core import bench as run
        from flashonnx.bench.devices import find_device

        try:
            where = find_device(device)
            chosen = [*(topics or ([] if profile else ["speed"])), *(["profile"] if profile else [])]
            measured_here = [topic for topic in where.topics if topic != "profile" or profile]
            with progress("benchmarking", is_long=True) as say:
                result = run(
                    measured_here if "all" in chosen else chosen,
                    cases=with_options(case, causal=causal, dtype=dtype or where.dtype) if case else None,
                    lengths=sorted(length or SCALING_LENGTHS),
                    contestants=against,
                    device=device,
                    dtype=dtype,
                    causal=causal,
                    threads=threads,
                    rounds=rounds,
                    progress=say,
                )
        except ValueError as error:
            fail(str(error))
        if json is not None:
            write_json(result.to_dict(), json)
        if html is not None:
            result.save_html(html)
        if plots is not None:
            result.save_plots(plots)
        if is_shown(json):
            _print(result)


def _print(result: BenchResult) -> None:
    out = console()
    out.print(result.where, highlight=False)
    for title, timings in (("time", result.timings), ("time over length", result.scaling)):
        if timings:
            out.print(_time_table(f"{title}: milliseconds, and in brackets time over ours", timings))
    for name, summary in result.summary().items():
        out.print(
            f"{name}: time over ours {summary.geometric_mean:.2f} (geometric mean), {summary.least:.2f} (least), "
            f"{summary.cases} cases",
            highlight=False,
        )
    if result.memory:
        peaks = {str(memory.case): memory.peak_bytes for memory in result.memory}
        out.print(_table("peak memory above inputs and output, MiB", peaks, lambda peak: f"{peak / 2**20:.1f}"))
    if result.exactness:
        errors = {str(row.case): row.max_abs_error for row in result.exactness}
        out.print(_table("largest absolute error against float64", errors, lambda error: f"{error:.2e}"))
    if result.traffic:
        title = f"computed traffic of one head, MiB through an LRU cache of {result.traffic_cache_bytes >> 10} KiB"
        moved = {
            f"N{point.length}": {"FlashAttention": point.flash, "standard attention": point.standard}
            for point in result.traffic
        }
        out.print(_table(title, moved, lambda size: f"{size / 2**20:.1f}"))
    if result.dram:
        bytes_moved = {str(point.case): point.measured | _formulas(point) for point in result.dram}
        out.print(_table("DRAM traffic, MiB, by ncu", bytes_moved, lambda size: f"{size / 2**20:.1f}"))
    for note in result.notes:
        out.print(f"note: {note}", highlight=False)


def _formulas(point: DramTraffic) -> dict[str, int]:
    return {"Q, K, V and output once": point.flash, "and the scores four times": point.standard}


def _time_table(title: str, timings: list[Timing]) -> Any:
    rows = {}
    for timing in timings:
        cells = {name: f"{timing.median(name) * 1e3:.4g} ({timing.ratio(name):.2f})" for name in timing.seconds}
        cells["our GFLOP/s"] = f"{timing.gflops():.0f}"
        if timing.case.is_decoding:
            cells["our GB/s"] = f"{timing.gbytes():.0f}"
        cells |= {name: f"{share:.2f}" for name, share in timing.shares().items()}
        rows[str(timing.case)] = cells
    return _table(title, rows, str)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], text: Callable[[Any], str]) -> Any:
    """Rows and columns by name; a column for every name that some row has."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("case", no_wrap=True)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name in names:
        table.add_column(name, justify="right")
    for label, row in rows.items():
        table.add_row(label, *(text(row[name]) if name in row else "" for name in names))
    return table
