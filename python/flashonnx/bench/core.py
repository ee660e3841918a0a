"""`flashonnx bench`: the op against its peers, and the claims of the FlashAttention paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from flashonnx.bench import traffic
from flashonnx.bench.cases import SCALING_CASE, SCALING_LENGTHS, SPEED_CASES, Case, random_inputs, with_options
from flashonnx.bench.contestants import CONTESTANTS, Arrays, Contestant, Prepared, find_contestants
from flashonnx.bench.exactness import float64_attention
from flashonnx.bench.memory import ChildError, in_child, is_supported
from flashonnx.bench.result import BenchResult, Exactness, Memory, Timing
from flashonnx.bench.timing import interleave
from flashonnx.environment import cpu_count, describe
from flashonnx.validation.compare import difference

TOPICS = ("speed", "scaling", "memory", "exactness", "traffic")
# Contestants that build the N x N scores are left out where one such matrix would take more.
MAX_SCORE_BYTES = 2 << 30
# Per case; three rounds are always run.
MAX_SECONDS = 30.0
# Longer problems are not checked against float64, which takes minutes there.
MAX_EXACTNESS_LENGTH = 4096

_BUILDS_SCORES = {"ORT Attention", "ORT GQA", "ORT unfused"}

Progress = Callable[[str], None]


def bench(
    topics: Sequence[str] = ("speed",),
    *,
    cases: Sequence[Case] | None = None,
    lengths: Sequence[int] = SCALING_LENGTHS,
    contestants: list[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 7,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures flashonnx and its peers on one machine, in one process, with the same number of threads.

    Args:
        topics: any of TOPICS. "speed": time of each case. "scaling": time over `lengths`. "memory": peak memory over
            `lengths`, each call in a process of its own. "exactness": largest error of each case against float64.
            "traffic": bytes moved over `lengths`, computed by a cache simulation.
        cases: attention problems for speed and exactness; SPEED_CASES in float32, full and causal, if None.
        lengths: sequence lengths for scaling, memory and traffic, at batch 1, 8 heads, head size 64.
        contestants: names of peers; all of the device's if None.
        device: a key of CONTESTANTS.
        threads: for every contestant; the CPUs of this process if None.
        rounds: measurements of each contestant a case, fewer (but three at least) once a case takes MAX_SECONDS.
        progress: called with a line before each step.

    Raises:
        ValueError: an unknown topic, contestant or device.
    """
    unknown = set(topics) - set(TOPICS)
    if unknown:
        raise ValueError(f"no topic {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}")
    if device not in CONTESTANTS:
        raise ValueError(f"no device {device!r}; there is {', '.join(CONTESTANTS)}")
    say = progress or (lambda line: None)
    threads = threads or cpu_count()
    cases = with_options(SPEED_CASES) if cases is None else cases
    field = find_contestants(device, contestants)
    result = BenchResult(describe(), device, threads, ours={c.name for c in field if c.is_ours})

    if "speed" in topics:
        result.timings = [_time(case, field, threads, rounds, say) for case in cases]
    if "scaling" in topics:
        result.scaling = [_time(case, field, threads, rounds, say) for case in _over(lengths)]
    if "memory" in topics:
        _measure_memory(lengths, field, result, say)
    if "exactness" in topics:
        short = [case for case in cases if case.kv_sequence_length <= MAX_EXACTNESS_LENGTH]
        result.exactness = [_measure_error(case, field, threads, say) for case in short]
    if "traffic" in topics:
        say("traffic: simulating")
        result.traffic_cache_bytes = traffic.l2_cache_bytes()
        result.traffic = [traffic.simulate(length, SCALING_CASE.head_size) for length in lengths]
    return result


def _over(lengths: Sequence[int]) -> list[Case]:
    cases = [SCALING_CASE.with_length(length) for length in lengths]
    return cases + [replace(case, is_causal=True) for case in cases]


def _time(case: Case, field: Sequence[Contestant], threads: int, rounds: int, say: Progress) -> Timing:
    say(f"time: {case}")
    prepared, refused = _prepare(case, field, random_inputs(case), threads)
    functions = {name: contestant.run for name, contestant in prepared.items()}
    return Timing(case, interleave(functions, rounds=rounds, max_seconds=MAX_SECONDS), refused)


def _measure_error(case: Case, field: Sequence[Contestant], threads: int, say: Progress) -> Exactness:
    say(f"error: {case}")
    inputs = random_inputs(case)
    truth = float64_attention(case, *inputs)
    prepared, _ = _prepare(case, field, inputs, threads)
    errors = {}
    for name, contestant in prepared.items():
        contestant.run()
        errors[name] = difference(np.asarray(contestant.output(), np.float64), truth).max_abs
    return Exactness(case, errors)


def _prepare(
    case: Case, field: Sequence[Contestant], inputs: Arrays, threads: int
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Those that can compute the case, ready to run; and why the others cannot."""
    prepared, refused = {}, {}
    for contestant in field:
        reason = _refusal(contestant, case)
        if reason:
            refused[contestant.name] = reason
        else:
            prepared[contestant.name] = contestant.prepare(case, inputs, threads)
    return prepared, refused


def _refusal(contestant: Contestant, case: Case) -> str:
    score_bytes = 4 * case.batch_size * case.q_num_heads * case.q_sequence_length * case.kv_sequence_length
    if contestant.name in _BUILDS_SCORES and score_bytes > MAX_SCORE_BYTES:
        return f"its scores alone take {score_bytes / (1 << 30):.1f} GiB"
    return contestant.refuses(case)


def _measure_memory(lengths: Sequence[int], field: Sequence[Contestant], result: BenchResult, say: Progress) -> None:
    if not is_supported():
        result.notes.append("peak memory is not measured: it needs Linux's /proc")
        return
    for length in lengths:
        case = SCALING_CASE.with_length(length)
        peaks, refused = {}, {}
        for contestant in field:
            say(f"memory: {case}, {contestant.name}")
            reason = _refusal(contestant, case)
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
