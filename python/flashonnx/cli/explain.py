"""flashonnx explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashonnx.cli.common import (
    HTML_HELP,
    JSON_HELP,
    check_outputs,
    console,
    exit_codes,
    fail,
    is_shown,
    progress,
    write_json,
)
from flashonnx.cli.fusing import show_sites, show_step

if TYPE_CHECKING:
    from flashonnx.fusion import Explanation
    from flashonnx.native import Cuda

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Model to look at; it is not changed.")],
    shape: Annotated[
        list[str] | None, typer.Option(help="Of an input, to tell the kernels: input_ids=8x256; repeatable.")
    ] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Of a free dimension: sequence=256; repeatable.")] = None,
    device: Annotated[
        str, typer.Option(help="That kernels are for: cpu, cuda, or the compute capability of a GPU, such as 9.0.")
    ] = "cpu",
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
    html: Annotated[Path | None, typer.Option(help=f"{HTML_HELP[:-1]}, with drawings of every site.")] = None,
) -> None:
    """Say for each softmax and attention node what it is, what its mask means, what the fused op would absorb and which
    kernel would run, or which node stops it from being fused.
    """
    check_outputs(json, html)
    with exit_codes():
        from flashonnx.fusion import explain as run
        from flashonnx.validation.inputs import parse_dim, parse_shape

        cuda = _gpu(device)
        with progress(f"reading {source.name}") as say:
            explanation = run(
                source,
                shapes=dict(map(parse_shape, shape or ())),
                dims=dict(map(parse_dim, dim or ())),
                cuda=cuda,
                progress=show_step(say),
            )
        if json is not None:
            write_json(explanation.to_json(), json)
        if html is not None:
            _write_page(explanation, source, ", ".join([*(shape or ()), *(dim or ())]), device, html)
        if is_shown(json):
            _show(explanation)


def _gpu(device: str) -> Cuda | None:
    from flashonnx.native import Cuda, parse_compute_capability

    if device in ("cpu", "cuda"):
        return Cuda() if device == "cuda" else None
    try:
        return Cuda(compute_capability=parse_compute_capability(device))
    except ValueError:
        fail(f"no device {device!r}; allowed: cpu, cuda, or a compute capability such as 9.0")


def _write_page(explanation: Explanation, source: Path, sizes: str, device: str, path: Path) -> None:
    from flashonnx.files import write_text
    from flashonnx.report.explanation import render

    write_text(path, render(explanation, source.name, f"{sizes} on {device}" if sizes else ""))


def _show(explanation: Explanation) -> None:
    show_sites(explanation)
    for words, names in _alike(explanation).items():
        sites = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        console().print(f"{sites}:", markup=False, highlight=False)
        for line in words:
            console().print(f"  {line}", markup=False, highlight=False)
    typer.echo(f"{explanation.fused} of {explanation.total} attention sites can be fused")
    if explanation.fused and not any(site.kernel for site in explanation.sites):
        free = ", ".join(explanation.free_dimensions)
        typer.echo(f"which kernel would run depends on sizes; give them by --shape, or by --dim of {free}")


def _alike(explanation: Explanation) -> dict[tuple[str, ...], list[str]]:
    """What the table has no room for, with the sites of which it is true: mostly those of all layers."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for site in explanation.sites:
        absorbed = ", ".join(f"{count} {op}" if count > 1 else op for op, count in site.absorbed.items())
        words = [f"{name} {text}" for name, text in (("absorbs", absorbed), ("runs on", site.kernel)) if text]
        if words:
            groups.setdefault(tuple(words), []).append(site.name)
    return groups
