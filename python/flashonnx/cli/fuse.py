"""flashonnx fuse"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import JSON_HELP, check_outputs, exit_codes, is_shown, progress, write_json
from flashonnx.cli.fusing import PORTABLE_HELP, REQUIRE_ALL_HELP, VERIFY_HELP, reporting, show_sites, show_step

app = typer.Typer(add_completion=False)


@app.command()
def fuse(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Model to fuse.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Fused model to write.")],
    require_all: Annotated[bool, typer.Option("--require-all", help=REQUIRE_ALL_HELP)] = False,
    portable: Annotated[bool, typer.Option(help=PORTABLE_HELP)] = True,
    verify: Annotated[bool, typer.Option(help=VERIFY_HELP)] = True,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
) -> None:
    """Rewrite an ONNX model's attention to FlashAttention and say what became of each site."""
    check_outputs(target, json)
    with exit_codes(), reporting(json):
        from flashonnx.fusion import fuse as run

        with progress(f"fusing {source.name}") as say:
            result = run(
                source, target, verify=verify, portable=portable, require_all=require_all, progress=show_step(say)
            )
        if json is not None:
            write_json(result.report.to_json(), json)
        if is_shown(json):
            show_sites(result.report)
            typer.echo(f"{result.report.fused} of {result.report.total} attention sites fused; wrote {target}")
