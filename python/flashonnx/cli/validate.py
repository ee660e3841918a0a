"""flashonnx validate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashonnx.cli.common import (
    ANSWER_IS_NO,
    HTML_HELP,
    JSON_HELP,
    TARGET_HELP,
    check_outputs,
    console,
    exit_codes,
    fail,
    is_shown,
    progress,
    write_json,
)

if TYPE_CHECKING:
    from flashonnx.engine import Engine
    from flashonnx.validation import ValidationResult

app = typer.Typer(add_completion=False)


@app.command()
def validate(
    reference: Annotated[str, typer.Argument(help=f"ONNX file, or PyTorch model as {TARGET_HELP}.")],
    model: Annotated[Path | None, typer.Argument(help="ONNX file to validate.")] = None,
    engine: Annotated[Path | None, typer.Option(help="TensorRT engine to validate, in place of an ONNX file.")] = None,
    inputs: Annotated[list[Path] | None, typer.Option(help="An .npz of arrays by input name; repeatable.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Of a generated input: input_ids=2x128; repeatable.")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Of a dynamic dimension: sequence=128; repeatable.")] = None,
    sites: Annotated[
        bool, typer.Option("--sites", help="Compare attention sites too; with an ONNX reference.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    atol: Annotated[float | None, typer.Option(help="Allowed difference, in place of the float64 rule.")] = None,
    rtol: Annotated[float | None, typer.Option(help="The same, relative to the largest magnitude.")] = None,
    oracle: Annotated[bool, typer.Option(help="Tell rounding from error by a float64 evaluation.")] = True,
    seed: Annotated[int, typer.Option(help="Of generated inputs.")] = 0,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
    html: Annotated[Path | None, typer.Option(help=HTML_HELP)] = None,
) -> None:
    """Compare an ONNX file's or engine's outputs with those of the PyTorch model or ONNX file that it was made from.

    Exits with 1 if an output differs by more than the tolerance.
    """
    if (model is None) == (engine is None):
        fail("name one thing to validate: MODEL or --engine")
    check_outputs(json, html)
    with exit_codes():
        from flashonnx.cli.target import is_target, load_target
        from flashonnx.validation import validate as run
        from flashonnx.validation.inputs import parse_dim, parse_shape

        with progress("validating") as say:
            result = run(
                load_target(reference).module if is_target(reference) else reference,
                model if model is not None else _open_engine(engine),
                inputs=inputs or (),
                shapes=dict(map(parse_shape, shape or ())),
                dims=dict(map(parse_dim, dim or ())),
                sites=sites,
                device=device,
                atol=atol,
                rtol=rtol,
                oracle=oracle,
                seed=seed,
                progress=say,
            )
        if json is not None:
            write_json(result.to_dict(), json)
        if html is not None:
            result.save_html(html)
        if is_shown(json):
            _print(result)
    if not result.passed:
        raise typer.Exit(ANSWER_IS_NO)


def _open_engine(path: Path | None) -> Engine:
    from flashonnx.engine import Engine

    assert path is not None  # there is no model
    return Engine(path)


def _print(result: ValidationResult) -> None:
    out = console()
    out.print(f"{result.model}\nagainst {result.reference}", highlight=False, markup=False)
    if result.outputs:
        out.print(_table("output", result.outputs))
    if result.sites:
        out.print(_table("site", result.sites))
    for note in result.notes:
        out.print(f"note: {note}", highlight=False, markup=False)
    for failure in result.failures:
        out.print(f"failed: {failure}", highlight=False, markup=False, style="red")
    out.print("passed" if result.passed else "FAILED", style="green" if result.passed else "red")


def _table(kind: str, comparisons: list[Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(kind, "type", "max abs", "max rel", "RMS", "cosine", "judged", "limit", "verdict")
    for comparison in comparisons:
        distance, verdict = comparison.distance, comparison.verdict
        table.add_row(
            escape(comparison.name),
            comparison.dtype,
            *(f"{figure:.3g}" for figure in (distance.max_abs, distance.max_rel, distance.rms)),
            f"{distance.cosine:.9f}",
            f"{verdict.error:.3g}",
            f"{verdict.limit:.3g}",
            "[green]passed" if verdict.passed else f"[red]FAILED: {escape(verdict.reason)}",
        )
    return table
