"""Exports, fuses and compares every model of the zoo: `python -m benchmarks.zoo`, or `make zoo`.

Everything is kept under build/zoo: a run that was stopped goes on where it was, and a later one redoes what changed.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from benchmarks.zoo import isolated, judge, table
from benchmarks.zoo.run import Row, kept_row, row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flashonnx.files import write_text
from tests.zoo.exporting import FOLDER, Variant, variants

_LIBRARIES = ("flashonnx", "torch", "transformers", "timm", "onnx", "onnxscript", "onnxruntime")
_DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"


def main(
    only: Annotated[list[str] | None, typer.Option(help="Files to take, as patterns such as 'bert*float32'.")] = None,
    jobs: Annotated[int, typer.Option(help="Files worked on at a time.")] = 1,
    peers: Annotated[bool, typer.Option(help="Run others' optimizers on the same files.")] = True,
    kept: Annotated[
        bool, typer.Option(help="Do nothing new: write what earlier runs found, and how many files they missed.")
    ] = False,
    json_path: Annotated[Path, typer.Option("--json", help="Where everything that was found is written.")] = FOLDER
    / "zoo.json",
    document: Annotated[
        Path | None, typer.Option(help="Where the table is written; docs/zoo.md for a run over the whole zoo.")
    ] = None,
) -> None:
    """Exits with 1 if a fused model's outputs differ or it does not run."""
    chosen = [variant for variant in variants() if not only or any(fnmatch(str(variant), pattern) for pattern in only)]
    if not chosen:
        raise typer.BadParameter(f"no file of the zoo is called {' or '.join(only or [])}")
    rows = [found for variant in chosen if (found := kept_row(variant))] if kept else _rows(chosen, jobs, peers)
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    result = {"versions": versions, "missing": len(chosen) - len(rows), "rows": rows}
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(json_path, json.dumps(result, indent=1))
    if document is None and not only and peers:
        document = _DOCUMENT
    if document is not None:
        write_text(document, table.page(result))
    summary = judge.summary(rows)
    typer.echo(table.headline(summary))
    raise typer.Exit(1 if summary.wrong else 0)


def _rows(chosen: list[Variant], jobs: int, peers: bool) -> list[Row]:
    """In the zoo's order, whatever order they are done in; what is noteworthy is printed at once."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    isolated.preload("benchmarks.zoo.warm")
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows: dict[Variant, Row] = {}
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("zoo", total=len(chosen))
        quickest_first = sorted(chosen, key=lambda variant: not variant.path.exists())
        pending = {pool.submit(row, variant, with_peers=peers): variant for variant in quickest_first}
        for done in as_completed(pending):
            variant = pending[done]
            rows[variant] = done.result()
            progress.update(task, advance=1, description=str(variant))
            if remark := judge.remark(rows[variant]):
                console.print(f"{variant}: {remark}", markup=False, highlight=False, soft_wrap=True)
    return [rows[variant] for variant in chosen]


if __name__ == "__main__":
    typer.run(main)
