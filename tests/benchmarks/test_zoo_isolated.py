"""A call in a process of its own: its answer, or what became of it, in one line."""

from __future__ import annotations

import time

import pytest
from benchmarks.zoo import isolated

from tests.benchmarks import failing


def call(tmp_path, function, *arguments, cpu_seconds=20, wall_seconds=30):
    return isolated.call(function, *arguments, log=tmp_path / "log", cpu_seconds=cpu_seconds, wall_seconds=wall_seconds)


def test_answers_and_keeps_what_was_printed(tmp_path):
    assert call(tmp_path, failing.double, 21) == 42
    assert "doubling 21" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing.refuse, "ValueError: not this one"),
        (failing.crash, "killed by SIGSEGV"),
        (failing.leave, "ended with exit code 3"),
    ],
)
def test_failures_are_told(tmp_path, function, message):
    with pytest.raises(isolated.Failed) as caught:
        call(tmp_path, function)
    assert str(caught.value) == message


def test_a_loop_ends_by_processor_time(tmp_path):
    with pytest.raises(isolated.Failed, match="more than 1 s of processor time"):
        call(tmp_path, failing.spin, cpu_seconds=1)


def test_a_hang_ends_by_the_clock(tmp_path):
    begin = time.monotonic()
    with pytest.raises(isolated.Failed, match="took more than 2 s"):
        call(tmp_path, failing.wait, wall_seconds=2)
    assert time.monotonic() - begin < 50
