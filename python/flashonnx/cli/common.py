"""What the subcommands share: errors to exit codes, progress on stderr, JSON to a file or to stdout."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

ANSWER_IS_NO = 1
BAD_USAGE = 2
INTERNAL_ERROR = 3

STDOUT = "-"

# Help texts of options that several subcommands have.
CASE_HELP = "Batch x heads x length x head size, as 1x12x512x64; 8x32/8x1/4096x128 is a decoding step."
DTYPE_HELP = "float32, float16 or bfloat16."
HTML_HELP = "Write the result as a self-contained page."
JSON_HELP = "Write the result as JSON; - is stdout."
TARGET_HELP = "MODULE:CALLABLE or FILE.py:CALLABLE, where CALLABLE() returns (module, args) or (module, args, options)"


def fail(message: str, code: int = BAD_USAGE) -> NoReturn:
    """Ends the command with a message on stderr."""
    typer.echo(f"flashonnx: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns what a user can cause into one line and exit code 2, and anything else into a traceback and 3."""
    try:
        yield
    except (typer.Exit, typer.Abort, KeyboardInterrupt, typer.BadParameter):
        raise
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except _user_errors() as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"{error}; is the extra installed? pip install 'flashonnx[cpu,torch]'")
    except Exception:
        traceback.print_exc()
        fail("this is a fault of flashonnx; please report it with the lines above", INTERNAL_ERROR)


@contextmanager
def progress(description: str, *, is_long: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows a spinner and the last step on stderr while the block runs; yields what takes the steps.

    Where stderr is no terminal, a command that takes minutes (`is_long`) writes a line a step, others nothing.
    """
    from rich.console import Console

    stderr = Console(stderr=True)
    if not stderr.is_terminal:
        yield lambda step: typer.echo(f"{description}: {step}", err=True) if is_long else None
        return
    with stderr.status(description) as status:
        yield lambda step: status.update(f"{description}: {step}")


def console() -> Any:
    """For tables on stdout; wide if nobody's terminal limits it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def write_json(data: Any, path: str) -> None:
    """To a file, whole or not at all, or to stdout if the path is '-'."""
    text = json.dumps(data, indent=2)
    if path == STDOUT:
        typer.echo(text)
        return
    from flashonnx.files import write_text

    write_text(path, text + "\n")


def is_shown(json_path: str | None) -> bool:
    """Whether a table for people may go to stdout: not if JSON does."""
    return json_path != STDOUT


def check_outputs(*paths: str | Path | None) -> None:
    """Fails before any work is done if a file could not be written at the end, or one would take another's place."""
    named = [Path(path) for path in paths if path is not None and str(path) != STDOUT]
    check_folder(*named)
    for index, path in enumerate(named):
        if path.is_dir():
            fail(f"{path}: cannot be written: it is a folder")
        if path.absolute() in [other.absolute() for other in named[:index]]:
            fail(f"{path}: two outputs cannot be one file")


def check_folder(*paths: str | Path | None) -> None:
    """Fails if the folder that something is to be written to does not exist."""
    for path in paths:
        if path is not None and str(path) != STDOUT and not Path(path).absolute().parent.is_dir():
            fail(f"{path}: no such folder: {Path(path).parent}")


def _user_errors() -> tuple[type[Exception], ...]:
    """The classes of modules that have been imported; an error of one that has not been cannot have been raised."""
    named = [
        ("flashonnx.fusion.model_io", "ModelError"),
        ("flashonnx.validation.runners", "RunError"),
        ("flashonnx.validation.inputs", "InputError"),
        ("flashonnx.cli.target", "TargetError"),
        ("torch.onnx", "OnnxExporterError"),
    ]
    return tuple(getattr(sys.modules[module], name) for module, name in named if module in sys.modules)
