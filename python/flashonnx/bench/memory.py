"""Peak memory of a call: the process's high-water mark above what it held before, in a process of its own.

Reads VmHWM and VmRSS of /proc/self/status and resets the mark through /proc/self/clear_refs, so it needs Linux.
(getrusage's maximum is of no use here: a child inherits its parent's.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER_MARK = "5"


class ChildError(RuntimeError):
    """The child process failed; the message is its last line."""


def is_supported() -> bool:
    """True where the kernel tells the high-water mark."""
    return _STATUS.exists() and _CLEAR_REFS.exists()


def peak_above_now(function: Callable[[], object]) -> int:
    """Bytes by which resident memory rises at most while `function` runs."""
    _CLEAR_REFS.write_text(_RESET_HIGH_WATER_MARK)
    before = _status("VmRSS")
    function()
    return max(0, _status("VmHWM") - before)


def in_child(module: str, request: dict[str, Any], timeout: float = 600) -> Any:
    """Runs `python -m module` with a JSON request as argument; its standard output's last line is the JSON answer.

    Raises:
        ChildError: it failed or took longer than `timeout` seconds.
    """
    command = [sys.executable, "-m", module, json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"{module}: no answer after {timeout:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChildError(f"{module}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
