"""flashonnx export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import JSON_HELP, TARGET_HELP, check_outputs, exit_codes, is_shown, progress, write_json
from flashonnx.cli.fusing import PORTABLE_HELP, REQUIRE_ALL_HELP, VERIFY_HELP, reporting, show_sites

app = typer.Typer(add_completion=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="MODULE:CALLABLE", help=f"{TARGET_HELP}.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Fused model to write.")],
    opset: Annotated[int | None, typer.Option(help="ONNX opset. [default: torch.onnx.export's]")] = None,
    require_all: Annotated[bool, typer.Option("--require-all", help=REQUIRE_ALL_HELP)] = False,
    portable: Annotated[bool, typer.Option(help=PORTABLE_HELP)] = True,
    verify: Annotated[bool, typer.Option(help=VERIFY_HELP)] = True,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
) -> None:
    """Export a PyTorch model with its attention as FlashAttention.

    The options that CALLABLE returns are keyword arguments of flashonnx.export, such as dynamic_shapes.
    """
    check_outputs(target, json)
    with exit_codes(), reporting(json):
        from flashonnx.cli.target import load_target
        from flashonnx.exporter import export as run

        with progress(f"exporting {source}"):
            made = load_target(source)
            options = {"verify": verify, "portable": portable, "require_all": require_all} | made.options
            if opset is not None:
                options["opset_version"] = opset
            result = run(made.module, made.args, target, **options)
        if json is not None:
            write_json(result.report.to_json(), json)
        if is_shown(json):
            show_sites(result.report)
            typer.echo(f"{result.report.fused} of {result.report.total} attention sites fused; wrote {target}")
