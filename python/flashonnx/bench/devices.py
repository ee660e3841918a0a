"""What can be benchmarked where: contestants, problems and clocks of the CPU and of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashonnx.bench import cuda, timing
from flashonnx.bench.cases import (
    CUDA_SCALING_CASE,
    SCALING_CASE,
    SPEED_CASES,
    Case,
    cpu_decode_cases,
    decode_cases,
    grouped_cases,
    masked_cases,
    prefill_cases,
    with_options,
)
from flashonnx.bench.contestants import CPU, OURS, Contestant


@dataclass(frozen=True)
class Device:
    """Where contestants run, and what is asked of them there.

    `suites` are the cases of topic "speed" by name, for a dtype; each name is a topic too. `topics` are the others.
    `why_not()` says why the device cannot be used here, or nothing.
    """

    dtype: str
    contestants: tuple[Contestant, ...]
    suites: dict[str, Callable[[str], list[Case]]]
    topics: tuple[str, ...]
    scaling_case: Case
    max_score_bytes: int
    interleave: Callable[..., timing.Times]
    why_not: Callable[[], str]
    has_limits: bool = False  # speed is measured against the machine's own, by limits.py

    def find_contestants(self, names: list[str] | None = None) -> list[Contestant]:
        """All contestants, or of these only the named ones and ours.

        Raises:
            ValueError: a name is not among them.
        """
        unknown = set(names or ()) - {contestant.name for contestant in self.contestants}
        if unknown:
            listed = ", ".join(repr(contestant.name) for contestant in self.contestants)
            raise ValueError(f"no contestant {', '.join(map(repr, sorted(unknown)))}; there are {listed}")
        return [c for c in self.contestants if names is None or c.name in names or c.name == OURS]


DEVICES = {
    "cpu": Device(
        dtype="float32",
        contestants=CPU,
        suites={"common": lambda dtype: with_options(SPEED_CASES, dtype=dtype), "decode": cpu_decode_cases},
        topics=("speed", "scaling", "memory", "exactness", "traffic"),
        scaling_case=SCALING_CASE,
        max_score_bytes=2 << 30,
        interleave=timing.interleave,
        why_not=lambda: "",
        has_limits=True,
    ),
    "cuda": Device(
        dtype="bfloat16",
        contestants=cuda.CUDA,
        suites={"prefill": prefill_cases, "decode": decode_cases, "grouped": grouped_cases, "masks": masked_cases},
        topics=("speed", "scaling", "exactness", "profile"),
        scaling_case=CUDA_SCALING_CASE,
        max_score_bytes=16 << 30,
        interleave=cuda.interleave,
        why_not=cuda.why_not,
    ),
}


def find_device(name: str) -> Device:
    """The device of a name, usable here.

    Raises:
        ValueError: there is none, or it cannot be used here.
    """
    if name not in DEVICES:
        raise ValueError(f"no device {name!r}; there is {', '.join(DEVICES)}")
    reason = DEVICES[name].why_not()
    if reason:
        raise ValueError(f"--device {name} {reason}")
    return DEVICES[name]
