"""The command `flashonnx`. Each subcommand is a file here, imported when it is asked for.

Exit codes: 0 all is well and what was to be written is; 1 the answer is no (a validation failed, `--require-all` is
not met); 2 bad usage, or a file that cannot be read or written; 3 a fault of flashonnx itself.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
import typer.core
import typer.main

COMMANDS = ("export", "fuse", "explain", "validate", "engine", "run", "serve-repo", "bench", "info")


class LazyCommands(typer.core.TyperGroup):
    """Finds a subcommand in the module of its name, as that module's `app`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(importlib.import_module(f"flashonnx.cli.{cmd_name.replace('-', '_')}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyCommands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def flashonnx(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """FlashAttention for PyTorch and ONNX models: export, fuse, validate and benchmark."""
    if version:
        import flashonnx as package

        typer.echo(package.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    app()
