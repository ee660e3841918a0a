"""flashonnx run"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import check_outputs, exit_codes, progress

app = typer.Typer(add_completion=False)


@app.command()
def run(
    model: Annotated[Path, typer.Argument(help="ONNX file, or TensorRT engine (.engine, .plan, .trt).")],
    source: Annotated[Path, typer.Argument(metavar="IN.npz", help="One array per input, by name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Outputs to write, by name.")],
    device: Annotated[str, typer.Option(help="Where an ONNX file runs: cpu or cuda.")] = "cpu",
) -> None:
    """Run a model once, on arrays from a file.

    NumPy has no bfloat16: such outputs are two bytes a value, and may be inputs again.
    """
    check_outputs(target)
    with exit_codes():
        import numpy as np

        from flashonnx.files import replacing
        from flashonnx.validation.core import open_model
        from flashonnx.validation.inputs import load_npz

        with progress(f"running {model.name}"):
            runner, specs, _ = open_model(model, device)
            outputs = runner.run(load_npz(source, specs).arrays)
        with replacing(target) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        for name, array in outputs.items():
            typer.echo(f"{name}: {array.dtype.name}[{'x'.join(map(str, array.shape))}]")
        typer.echo(f"wrote {target}")
