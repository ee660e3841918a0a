"""flashonnx serve-repo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashonnx.cli.common import exit_codes, fail

app = typer.Typer(add_completion=False)


@app.command()
def serve_repo(
    source: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Fused model.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model repository; made if need be.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; the file's if not given.")] = None,
    engine: Annotated[Path | None, typer.Option(help="Serve this engine by TensorRT too.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=0, help="Most requests in a batch; 0: no batching.")] = 8,
    mount: Annotated[str | None, typer.Option(help="Path of DIR where the server runs; the same if not given.")] = None,
) -> None:
    """Write a model repository for Triton Inference Server: models, configuration and libraries."""
    with exit_codes():
        from flashonnx.engine.triton import write_repository

        try:
            repository = write_repository(
                source, folder, name=name, engine=engine, max_batch_size=max_batch_size, mount=mount
            )
        except ValueError as error:
            fail(str(error))
        typer.echo(f"wrote {', '.join(repository.models)} to {repository.folder}; serve with")
        typer.echo(repository.command)
