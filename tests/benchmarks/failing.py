"""Calls that go wrong in every way that benchmarks.zoo.isolated has to survive."""

from __future__ import annotations

import os
import signal
import time


def double(number: int) -> int:
    print("doubling", number)
    return 2 * number


def refuse() -> None:
    raise ValueError("not this one\nand a second line")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(3)


def wait() -> None:
    time.sleep(60)


def spin() -> None:
    while True:
        pass
