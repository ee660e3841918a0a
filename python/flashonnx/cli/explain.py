"""flashonnx explain"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import JSON_HELP, check_folder, exit_codes, is_shown, progress, write_json
from flashonnx.cli.fusing import show_sites, show_step

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Model to look at; it is not changed.")],
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
) -> None:
    """Say for each softmax and attention node what it is, or which node stops it from being fused."""
    check_folder(json)
    with exit_codes():
        from flashonnx.fusion import explain as run

        with progress(f"reading {source.name}") as say:
            report = run(source, progress=show_step(say))
        if json is not None:
            write_json(report.to_json(), json)
        if is_shown(json):
            show_sites(report)
            typer.echo(f"{report.fused} of {report.total} attention sites can be fused")
