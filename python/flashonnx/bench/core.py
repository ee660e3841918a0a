"""`flashonnx bench`: the op against its peers, and the claims of the FlashAttention paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from flashonnx.bench import cuda, dram, limits, traffic
from flashonnx.bench.cases import SCALING_LENGTHS, Case, random_inputs
from flashonnx.bench.contestants import Arrays, Contestant, Prepared, RefusedError
from flashonnx.bench.devices import Device, find_device
from flashonnx.bench.exactness import float64_attention
from flashonnx.bench.memory import ChildError, in_child, is_supported
from flashonnx.bench.result import BenchResult, Exactness, Memory, Timing
from flashonnx.environment import cpu_count, describe
from flashonnx.validation.compare import difference

# Per case; three rounds are always run.
MAX_SECONDS = 30.0
# Longer problems are not checked against float64, which takes minutes there.
MAX_EXACTNESS_LENGTH = 4096

_READ, _MULTIPLY = "read", "multiply"  # among the contestants of a round

Progress = Callable[[str], None]


def bench(
    topics: Sequence[str] = ("speed",),
    *,
    cases: Sequence[Case] | None = None,
    lengths: Sequence[int] = SCALING_LENGTHS,
    contestants: list[str] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    causal: bool | None = None,
    threads: int | None = None,
    rounds: int = 7,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures flashonnx and its peers on one machine, in one process, in interleaved rounds.

    Args:
        topics: any of the device's topics and suites. "speed": time of each case. "scaling": time over `lengths`.
            "exactness": largest error of each case against float64. On the CPU, "memory": peak memory over `lengths`,
            each call in a process of its own; "traffic": bytes moved over `lengths`, computed by a cache simulation.
            On a GPU, "profile": DRAM bytes over `lengths`, measured by ncu.
        cases: attention problems for speed and exactness; the named suites' in `dtype`, or all suites', if None.
        lengths: sequence lengths for scaling, memory, traffic and profile, of the device's scaling case.
        contestants: names of peers; all of the device's if None.
        device: a key of DEVICES.
        dtype: of the suites; the device's own if None.
        causal: of the suites, only causal or only full cases; both if None.
        threads: for every contestant on the CPU; the CPUs of this process if None.
        rounds: measurements of each contestant a case, fewer (but three at least) once a case takes MAX_SECONDS.
        progress: called with a line before each step.

    Raises:
        ValueError: an unknown topic, contestant or device, or one that cannot be used here.
    """
    where = find_device(device)
    known = {*where.topics, *where.suites}
    unknown = set(topics) - known
    if unknown:
        raise ValueError(f"no topic {', '.join(sorted(unknown))} on {device}; there are {', '.join(sorted(known))}")
    if "profile" in topics and dram.why_not():
        raise ValueError(dram.why_not())
    field = where.find_contestants(contestants)
    cases = _suites(where, topics, dtype or where.dtype, causal) if cases is None else cases
    if device == "cpu" and any(case.mask != "none" for case in cases):
        raise ValueError("masks are timed on GPUs only")
    run = _Run(where, field, threads or cpu_count(), rounds, progress or (lambda line: None))
    environment = describe() | (cuda.describe() if device == "cuda" else {})
    result = BenchResult(environment, device, run.threads, ours={c.name for c in field if c.is_ours})

    if "speed" in topics or set(topics) & set(where.suites):
        result.timings = [run.time(case) for case in cases]
    if "scaling" in topics:
        result.scaling = [run.time(case) for case in _over(where.scaling_case, lengths)]
    if "memory" in topics:
        _measure_memory(lengths, run, result)
    if "exactness" in topics:
        short = [case for case in cases if case.kv_sequence_length <= MAX_EXACTNESS_LENGTH]
        result.exactness = [run.measure_error(case) for case in short]
    if "traffic" in topics:
        run.say("traffic: simulating")
        result.traffic_cache_bytes = traffic.l2_cache_bytes()
        result.traffic = [traffic.simulate(length, where.scaling_case.head_size) for length in lengths]
    if "profile" in topics:
        result.dram = [run.profile(where.scaling_case.with_length(length)) for length in lengths]
    return result


def _suites(device: Device, topics: Sequence[str], dtype: str, causal: bool | None) -> list[Case]:
    """The cases of the suites that are named, or of all."""
    named = [name for name in device.suites if name in topics] or list(device.suites)
    cases = [case for name in named for case in device.suites[name](dtype)]
    return [case for case in cases if causal is None or case.is_causal == causal]


def _over(case: Case, lengths: Sequence[int]) -> list[Case]:
    cases = [case.with_length(length) for length in lengths]
    return cases + [replace(case, is_causal=True) for case in cases]


@dataclass(frozen=True)
class _Run:
    """One benchmark: who takes part, and how."""

    device: Device
    field: list[Contestant]
    threads: int
    rounds: int
    say: Progress

    def time(self, case: Case) -> Timing:
        self.say(f"time: {case}")
        from_memory = case.is_decoding and self.device.has_limits
        copies = limits.copies_of(case.input_bytes) if from_memory else 1
        inputs = [random_inputs(case, seed) for seed in range(copies)]
        prepared, refused = zip(*(self._prepare(case, arrays) for arrays in inputs), strict=True)
        functions = {name: limits.in_turns([copy[name].run for copy in prepared]) for name in prepared[0]}
        if from_memory:
            functions[_READ] = limits.in_turns([limits.reader(arrays[1:], self.threads) for arrays in inputs])
        flops = 0
        if self.device.has_limits:
            functions[_MULTIPLY], flops = limits.multiplier(self.threads)
        times = self.device.interleave(functions, rounds=self.rounds, max_seconds=MAX_SECONDS)
        return Timing(
            case,
            times,
            refused[0],
            read_seconds=times.pop(_READ, []),
            peak_gflops=[flops / seconds / 1e9 for seconds in times.pop(_MULTIPLY, [])],
        )

    def measure_error(self, case: Case) -> Exactness:
        self.say(f"error: {case}")
        inputs = random_inputs(case)
        truth = float64_attention(case, *inputs)
        prepared, _ = self._prepare(case, inputs)
        errors = {}
        for name, contestant in prepared.items():
            contestant.run()
            errors[name] = difference(np.asarray(contestant.output(), np.float64), truth).max_abs
        return Exactness(case, errors)

    def profile(self, case: Case) -> dram.DramTraffic:
        measured, refused = {}, {}
        for contestant in self.field:
            self.say(f"profile: {case}, {contestant.name}")
            reason = self.refusal(contestant, case)
            if not reason:
                try:
                    measured[contestant.name] = dram.measure(case, contestant.name)
                except dram.ProfileError as error:
                    reason = str(error)
            if reason:
                refused[contestant.name] = reason
        return dram.DramTraffic(case, dram.least_bytes(case), dram.standard_bytes(case), measured, refused)

    def refusal(self, contestant: Contestant, case: Case) -> str:
        """Why a contestant is not even prepared for a case; empty: it is."""
        score_bytes = 4 * case.batch_size * case.q_num_heads * case.q_sequence_length * case.kv_sequence_length
        if contestant.builds_scores and score_bytes > self.device.max_score_bytes:
            return f"its scores alone take {score_bytes / (1 << 30):.1f} GiB"
        return contestant.refuses(case)

    def _prepare(self, case: Case, inputs: Arrays) -> tuple[dict[str, Prepared], dict[str, str]]:
        """Those that can compute the case, ready to run; and why the others cannot."""
        prepared, refused = {}, {}
        for contestant in self.field:
            reason = self.refusal(contestant, case)
            if not reason:
                try:
                    prepared[contestant.name] = contestant.prepare(case, inputs, self.threads)
                except RefusedError as error:
                    reason = str(error)
            if reason:
                refused[contestant.name] = reason
        return prepared, refused


def _measure_memory(lengths: Sequence[int], run: _Run, result: BenchResult) -> None:
    if not is_supported():
        result.notes.append("peak memory is not measured: it needs Linux's /proc")
        return
    for length in lengths:
        case = run.device.scaling_case.with_length(length)
        peaks, refused = {}, {}
        for contestant in run.field:
            run.say(f"memory: {case}, {contestant.name}")
            reason = run.refusal(contestant, case)
            if not reason:
                request = {
                    "case": asdict(case),
                    "contestant": contestant.name,
                    "device": result.device,
                    "threads": result.threads,
                }
                try:
                    peaks[contestant.name] = in_child("flashonnx.bench.memory_child", request)
                except ChildError as error:
                    reason = str(error)
            if reason:
                refused[contestant.name] = reason
        result.memory.append(Memory(case, peaks, refused))
