"""`flashonnx bench --device cuda` where it can run: contestants agree, times are taken, ncu's bytes are plausible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashonnx.bench import core, cuda, dram
from flashonnx.bench.cases import MASKS, Case, parse_case, random_inputs
from flashonnx.bench.contestants import RefusedError
from flashonnx.bench.exactness import float64_attention

CASES = [
    *(replace(parse_case("2x4x300x64"), dtype="float16", mask=mask) for mask in MASKS),
    replace(parse_case("2x8/2x200x128"), dtype="bfloat16", is_causal=True),
    replace(parse_case("2x8/2x1/3000x128"), dtype="bfloat16"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contestants_compute_the_same(case: Case) -> None:
    inputs = random_inputs(case)
    expected = float64_attention(case, *inputs)
    ran = []
    for contestant in cuda.CUDA:
        if contestant.refuses(case):
            continue
        try:
            prepared = contestant.prepare(case, inputs, 1)
        except RefusedError:
            continue
        prepared.run()
        actual = np.asarray(prepared.output(), np.float64)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03, err_msg=contestant.name)
        ran.append(contestant.name)
    assert {"flashonnx", "torch MATH"} <= set(ran), ran


def test_a_case_is_timed() -> None:
    case = replace(parse_case("4x16x1024x128"), dtype="bfloat16")
    (timing,) = core.bench(cases=[case], device="cuda", rounds=3).timings
    assert len(timing.seconds["flashonnx"]) == 3
    assert 1e-6 < timing.median("flashonnx") < 1e-2


def test_profile_is_near_the_formula() -> None:
    if dram.why_not():
        pytest.skip(dram.why_not())
    case = replace(parse_case("1x16x8192x128"), dtype="bfloat16")
    try:
        moved = dram.measure(case, "flashonnx")
    except dram.ProfileError as error:
        if "ERR_NVGPUCTRPERM" in str(error):
            pytest.skip(str(error))
        raise
    assert moved < dram.standard_bytes(case) / 10
