"""`python -m flashonnx.demo`: runs the demo, prints its tables and writes report.html and report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import ANSWER_IS_NO, console, exit_codes, progress
from flashonnx.demo.gpu import GpuResult
from flashonnx.demo.result import DemoResult


def main(
    folder: Annotated[Path, typer.Option("--output", help="Folder for report.html and report.json.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A few small shapes only, in place of minutes.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="For every runtime. [default: all CPUs]")] = None,
) -> None:
    """Export, fuse, compare and time all-MiniLM-L6-v2 in PyTorch and ONNX Runtime; on a GPU in TensorRT too.

    Exits with 1 if a bar of accuracy is not met; bars of speed are reported, and depend on what else the machine does.
    """
    with exit_codes():
        folder.mkdir(parents=True, exist_ok=True)
        from flashonnx.demo.core import FULL, QUICK, run

        with progress("demo", is_long=True) as say:
            result = run(QUICK if quick else FULL, threads=threads, progress=say)
        result.save_json(folder / "report.json")
        result.save_html(folder / "report.html")
        _print(result)
        typer.echo(f"wrote {folder / 'report.html'} and {folder / 'report.json'}")
    if not all(result.accuracy_bars().values()):
        raise typer.Exit(ANSWER_IS_NO)


def _print(result: DemoResult) -> None:
    from rich.table import Table

    from flashonnx.demo.models import FUSED
    from flashonnx.demo.page import NAMES

    out = console()
    table = Table("output", *result.accuracy.versus_torch, title="largest absolute difference from PyTorch, float32")
    for output in result.accuracy.versus_torch[FUSED]:
        found = (by_output[output] for by_output in result.accuracy.versus_torch.values())
        table.add_row(output, *(f"{difference.max_abs:.2e} (rel. {difference.max_rel:.1e})" for difference in found))
    out.print(table)
    table = Table("batch x length", *NAMES, "speedup over ORT's best", title=f"milliseconds, {result.threads} threads")
    for shape in result.times:
        cells = (f"{result.median(shape, name) * 1e3:.1f}" for name in NAMES)
        table.add_row(f"{shape[0]} x {shape[1]}", *cells, f"{result.speedup(shape):.2f}")
    out.print(table)
    if result.memory:
        lengths = list(next(iter(result.memory.values())))
        title = f"peak memory above the loaded model, batch {result.memory_batch}, MiB"
        table = Table("length", *result.memory, title=title)
        for length in lengths:
            table.add_row(str(length), *(f"{peaks[length] / 2**20:.0f}" for peaks in result.memory.values()))
        out.print(table)
    if result.gpu is not None:
        _print_gpu(result.gpu)
    for bar, holds in (result.accuracy_bars() | result.speed_bars()).items():
        out.print(f"[green]yes[/] {bar}" if holds else f"[red]NO[/] {bar}", highlight=False)
    for note in result.notes:
        out.print(f"note: {note}", highlight=False)


def _print_gpu(gpu: GpuResult) -> None:
    from rich.table import Table

    out = console()
    table = Table("batch x length", *gpu.names, title=f"milliseconds, {gpu.environment['gpu']}")
    for shape in gpu.times:
        table.add_row(f"{shape[0]} x {shape[1]}", *(f"{gpu.median(shape, name) * 1e3:.3f}" for name in gpu.names))
    table.add_row("off by", *(f"{found.max_abs:.1e}" for found in gpu.accuracy.values()))
    out.print(table)
    for note in gpu.notes:
        out.print(f"note: {note}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
