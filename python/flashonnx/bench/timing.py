"""Timing of contestants against each other on a machine whose speed drifts.

All run in one process with the same number of threads, in rounds: each round times every contestant once, in another
order, so that none always runs after the same one. Ratios are taken within a round, where the machine was in one
state, and their median is reported.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

# PyTorch's idle threads spin for a moment after a call; they shall not slow the next contestant down.
SETTLE_SECONDS = 0.01

Times = dict[str, list[float]]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """For every contestant in ONNX Runtime. Threads that spin after a run would take a core from whoever comes next."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def interleave(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    min_seconds: float = 0.05,
    max_seconds: float | None = None,
) -> Times:
    """Seconds of one call, one figure a round, for each function.

    Args:
        functions: what to call, by name.
        rounds: how many times each function is measured.
        min_seconds: how long one measurement lasts at least; short functions are called repeatedly and averaged.
        max_seconds: stop after this much time in all, but not before three rounds.
    """
    started = time.perf_counter()
    names = list(functions)
    repeats = {name: _repeats(functions[name], min_seconds) for name in names}
    times: Times = {name: [] for name in names}
    for index in range(rounds):
        if max_seconds is not None and index >= 3 and time.perf_counter() - started > max_seconds:
            break
        for name in random.Random(index).sample(names, len(names)):
            times[name].append(_measure(functions[name], repeats[name]))
    return times


def median_ratio(times: Times, slower: str, faster: str) -> float:
    """Median over rounds of time(slower) / time(faster): above 1 if the names are right."""
    return statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True))


def _repeats(function: Callable[[], object], min_seconds: float) -> int:
    """Calls that fill `min_seconds`. The first call also warms up: allocations, thread pools, compiled code."""
    seconds = _measure(function, 1)
    if seconds < min_seconds:
        seconds = _measure(function, 1)
    return max(1, round(min_seconds / max(seconds, 1e-7)))


def _measure(function: Callable[[], object], repeats: int) -> float:
    time.sleep(SETTLE_SECONDS)
    if repeats > 1:
        function()  # caches and threads as they are in a run of calls
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats
