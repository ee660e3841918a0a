"""flashonnx engine"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashonnx.cli.common import (
    ANSWER_IS_NO,
    JSON_HELP,
    check_outputs,
    exit_codes,
    fail,
    is_shown,
    progress,
    write_json,
)

if TYPE_CHECKING:
    from flashonnx.engine import BuildResult

app = typer.Typer(add_completion=False)

_SHAPE = "shape of an input: input_ids=1x128; repeatable."


@app.command()
def engine(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Model; fused first if it is not.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.engine", help="Engine to write; OUT.engine.json beside it.")],
    least: Annotated[list[str] | None, typer.Option("--min", help=f"Least {_SHAPE}")] = None,
    usual: Annotated[list[str] | None, typer.Option("--opt", help=f"Usual {_SHAPE}")] = None,
    largest: Annotated[list[str] | None, typer.Option("--max", help=f"Largest {_SHAPE}")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16; as in the model if not given.")] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Allow TF32 in float32 products.")] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="File of timings to start from and to write back.")] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="Most scratch memory of a layer, in MiB.")] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="GPU to build for: 8.9; this one if none; repeatable; TensorRT-RTX only.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Write the ONNX file that TensorRT gets, for trtexec.")] = None,
    check: Annotated[bool, typer.Option(help="Compare with ONNX Runtime before the engine is written.")] = True,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
) -> None:
    """Build a TensorRT engine with the FlashAttention plugin, and compare it with ONNX Runtime.

    Exits with 1 if the outputs differ; the engine is not written then.
    """
    check_outputs(target, timing_cache, onnx, json)
    with exit_codes():
        from flashonnx.engine import EngineMismatchError, build_engine
        from flashonnx.validation.inputs import parse_shape

        try:
            with progress(f"engine of {source.name}") as say:
                result = build_engine(
                    source,
                    target,
                    min_shapes=dict(map(parse_shape, least or ())),
                    opt_shapes=dict(map(parse_shape, usual or ())),
                    max_shapes=dict(map(parse_shape, largest or ())),
                    precision=precision,
                    tf32=tf32,
                    timing_cache=timing_cache,
                    workspace_mib=workspace,
                    compute_capabilities=compute_capability or (),
                    onnx_path=onnx,
                    check=check,
                    say=say,
                    progress=lambda phase, done, steps: say(f"{phase} {done}/{steps}"),
                )
        except EngineMismatchError as error:
            fail(str(error), ANSWER_IS_NO)
        if json is not None:
            write_json(_to_json(result), json)
        if is_shown(json):
            _print(result)


def _to_json(result: BuildResult) -> dict[str, object]:
    return {
        "engine": str(result.path),
        **asdict(result.description),
        "seconds": result.seconds,
        "notes": result.notes,
        "check": result.check.to_dict() if result.check else None,
    }


def _print(result: BuildResult) -> None:
    made = result.description
    for note in result.notes:
        typer.echo(f"note: {note}")
    for name, shapes in made.profile.items():
        typer.echo(f"{name}: " + " .. ".join("x".join(map(str, shapes[place])) for place in ("min", "opt", "max")))
    for output in result.check.outputs if result.check else []:
        typer.echo(
            f"{output.name}: differs from ONNX Runtime by {output.verdict.error:.3g} of {output.verdict.limit:.3g}"
        )
    where = made.gpu or ", ".join(made.compute_capabilities)
    version = f"{made.runtime} {made.runtime_version}"
    typer.echo(f"wrote {result.path} ({made.precision}, {version}, {where}) in {result.seconds:.1f} s")
