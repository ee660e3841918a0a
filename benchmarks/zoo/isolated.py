"""Calls in processes of their own: a crash or a hang costs that call, not the run.

The processes are forked from a server that has imported the large libraries once, so one costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")


class Failed(Exception):  # noqa: N818 - says what happened
    """The call raised, crashed or took too long; the message says which, in one line."""


def preload(module: str) -> None:
    """The module that the server imports before the first call."""
    _CONTEXT.set_forkserver_preload([module])


def call(function: Callable[..., Any], *arguments: Any, log: Path, cpu_seconds: int, wall_seconds: int) -> Any:
    """function(*arguments), both of which can be pickled, in a process of its own.

    What it prints is appended to `log`. Two limits: processor time for what loops, and a longer one by the clock
    for what waits, since the machine may be busy with other things. Raises Failed.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(theirs, log, cpu_seconds, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        answered = ours.poll(wall_seconds)
        value, error = ours.recv() if answered else (None, f"took more than {wall_seconds} s")
    except EOFError:
        process.join()
        value, error = None, _describe_exit(process.exitcode, cpu_seconds)
    finally:
        process.kill()
        process.join()
        ours.close()
    if error:
        raise Failed(error)
    return value


def _run(
    answers: Connection, log: Path, cpu_seconds: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        answer = function(*arguments), ""
    except Exception as error:  # to be reported in one line, whatever it is
        lines = str(error).strip().splitlines() or [""]
        answer = None, f"{type(error).__name__}: {lines[0]}"
    answers.send(answer)


def _describe_exit(code: int | None, cpu_seconds: int) -> str:
    if code == -signal.SIGXCPU:
        return f"took more than {cpu_seconds} s of processor time"
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
