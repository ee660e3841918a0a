"""The benchmark: its cases, its timing, its memory and traffic figures, and the contestants' agreement."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flashonnx.bench import contestants, core, limits, traffic
from flashonnx.bench.cases import parse_case, random_inputs, with_options
from flashonnx.bench.exactness import float64_attention
from flashonnx.bench.memory import ChildError, in_child, is_supported, peak_above_now
from flashonnx.bench.timing import interleave, median_ratio

needs_proc = pytest.mark.skipif(not is_supported(), reason="peak memory is read from Linux's /proc")


def test_parsed_cases():
    case = parse_case("8x32/8x1/4096x128")
    assert case.sizes == (8, 32, 8, 1, 4096, 128)
    assert str(case) == "B8 H32/8 N1/4096 D128 full float32"
    assert parse_case("1x12x512x64").sizes == (1, 12, 12, 512, 512, 64)


@pytest.mark.parametrize("text", ["", "1x2x3", "1x2x3x0", "1x2x3x4x5", "axbxcxd", "1x8/3x4x4", "1x2x-3x4"])
def test_cases_that_are_none(text):
    with pytest.raises(ValueError, match="is not a case such as"):
        parse_case(text)


def test_unknown_dtype():
    with pytest.raises(ValueError, match="no dtype 'int8'"):
        with_options(["1x1x1x1"], dtype="int8")


def test_useful_flops_of_a_causal_case_are_those_of_the_triangle():
    full, causal = with_options(["2x3x10x16"])
    assert full.flops == 4 * 2 * 3 * 100 * 16
    assert causal.flops == 4 * 2 * 3 * 55 * 16
    (decode,) = with_options(["1x1x4/2x8"], causal=True)
    assert decode.flops == 4 * (1 + 2 + 2 + 2) * 8


def test_bytes():
    case = parse_case("2x8/4x16x32")
    q, k, v = random_inputs(case)
    assert case.input_bytes == q.nbytes + k.nbytes + v.nbytes
    assert case.output_bytes == q.nbytes


def test_inputs_in_turns_are_more_than_a_cache_holds():
    assert limits.copies_of(32 << 20) == 8
    assert limits.copies_of(1 << 30) == 1
    assert limits.copies_of(1) == limits.MAX_COPIES
    calls = []
    function = limits.in_turns([lambda: calls.append("a"), lambda: calls.append("b")])
    for _ in range(3):
        function()
    assert calls == ["a", "b", "a"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoding_is_measured_against_reading(dtype):
    (case,) = with_options(["1x4/2x2/1024x32"], causal=False, dtype=dtype)
    (timing,) = core.bench(["speed"], cases=[case], contestants=["torch SDPA"], threads=1, rounds=3).timings
    assert set(timing.seconds) == {"flashonnx", "torch SDPA"}
    assert len(timing.read_seconds) == 3
    shares = [read / ours for read, ours in zip(timing.read_seconds, timing.seconds["flashonnx"], strict=True)]
    assert timing.read_share() == sorted(shares)[1]


def test_multiply_adds_in_registers_are_counted():
    multiply, flops = limits.multiplier(2)
    assert multiply() == flops
    assert 2 * limits.FMA_FLOPS_PER_THREAD <= flops < 2.2 * limits.FMA_FLOPS_PER_THREAD


def test_rounds_take_everyone_in_changing_order():
    calls = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=6, min_seconds=0.0)
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6, "c": 6}
    rounds = ["".join(calls[-18:][start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 3


def test_a_slower_function_has_a_ratio_above_one():
    times = interleave({"fast": lambda: None, "slow": lambda: time.sleep(0.01)}, rounds=3, min_seconds=0.001)
    assert median_ratio(times, "slow", "fast") > 1
    assert median_ratio(times, "fast", "slow") < 1


def test_the_time_limit_leaves_three_rounds():
    times = interleave({"a": lambda: None}, rounds=50, min_seconds=0.0, max_seconds=0.0)
    assert len(times["a"]) == 3


@needs_proc
def test_peak_memory_is_seen_though_freed():
    size = 64 << 20
    peak = peak_above_now(lambda: np.ones(size, np.uint8).sum())
    assert 0.95 * size < peak < 1.5 * size  # the kernel counts pages in batches
    assert peak_above_now(lambda: None) < size / 8


def test_a_child_that_fails_says_why():
    with pytest.raises(ChildError, match=r"memory_child: .*(KeyError|TypeError)"):
        in_child("flashonnx.bench.memory_child", {"case": {}})


def test_float64_attention_is_the_definition():
    (case,) = with_options(["2x4/2x300x8"], causal=True)
    q, k, v = random_inputs(case)
    scores = np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, axis=1)).astype(np.float64) / np.sqrt(8)
    weights = np.exp(scores) * np.tri(300)
    expected = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(v, 2, axis=1)
    np.testing.assert_allclose(float64_attention(case, q, k, v), expected, atol=1e-6)


@pytest.mark.parametrize("case", with_options(["2x4x40x16", "1x8/2x40x32"]), ids=str)
def test_contestants_compute_the_same(case):
    inputs = random_inputs(case)
    expected = float64_attention(case, *inputs)
    ran = 0
    for contestant in contestants.CPU:
        if contestant.refuses(case):
            continue
        prepared = contestant.prepare(case, inputs, 1)
        prepared.run()
        np.testing.assert_allclose(prepared.output(), expected, atol=5e-6, err_msg=contestant.name)
        ran += 1
    assert ran >= 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_contestants(dtype):
    (case,) = with_options(["1x2x20x16"], causal=True, dtype=dtype)
    inputs = random_inputs(case)
    expected = float64_attention(case, *inputs)
    names = set()
    for contestant in contestants.CPU:
        if not contestant.refuses(case):
            prepared = contestant.prepare(case, inputs, 1)
            prepared.run()
            np.testing.assert_allclose(prepared.output().astype(np.float64), expected, atol=0.03)
            names.add(contestant.name)
    assert {"flashonnx", "flashonnx torch", "torch SDPA"} <= names


def test_refusals_have_reasons():
    (grouped,) = with_options(["1x8/2x40x32"], causal=False)
    reasons = {contestant.name: contestant.refuses(grouped) for contestant in contestants.CPU}
    assert reasons["ORT MHA"] == "takes as many key as query heads"
    assert reasons["ORT GQA"] == "always causal"
    assert reasons["flashonnx"] == ""


def test_unknown_names():
    with pytest.raises(ValueError, match="no contestant 'nobody'; there are 'flashonnx'"):
        core.bench(contestants=["nobody"])
    with pytest.raises(ValueError, match="no topic luck"):
        core.bench(["luck"])
    with pytest.raises(ValueError, match="no device 'tpu'"):
        core.bench(device="tpu")


def test_traffic_of_a_cache_that_holds_everything_is_each_tensor_once():
    case_bytes = 256 * 64 * 4
    found = traffic.simulate(256, 64, cache_bytes=1 << 30)
    assert found.flash == 4 * case_bytes  # Q, K, V in, O out
    assert found.standard == 4 * case_bytes + 256 * 256 * 4  # and the scores, written back at the end


def test_traffic_of_a_small_cache_by_hand():
    """With room for one block of queries, K and V are streamed once for each block; scores cross six times."""
    length, size, itemsize = 1024, 64, 4
    tile = 64 * size * itemsize
    found = traffic.simulate(length, size, cache_bytes=8 * tile)
    tensor = length * size * itemsize
    blocks = length // (2 * 64)  # 8 tiles / 4
    assert found.flash == 2 * tensor + blocks * 2 * tensor
    scores = length * length * itemsize
    assert 4 * scores <= found.standard <= 6 * scores + 20 * tensor


def test_flash_traffic_falls_with_the_cache_and_stays_below_standard():
    found = [traffic.simulate(2048, 64, cache_bytes=size << 10) for size in (128, 256, 512, 1024)]
    flash = [point.flash for point in found]
    assert flash == sorted(flash, reverse=True)
    assert flash[0] > 2 * flash[-1]
    assert all(point.flash < point.standard / 2 for point in found)


@pytest.fixture(scope="module")
def result():
    return core.bench(
        ["speed", "scaling", "exactness", "traffic"],
        cases=with_options(["1x2x32x16"]),
        lengths=(64, 128),
        contestants=["torch SDPA", "ORT MHA"],
        threads=1,
        rounds=3,
    )


def test_result_holds_every_topic(result):
    assert [str(timing.case) for timing in result.timings] == [
        "B1 H2 N32 D16 full float32",
        "B1 H2 N32 D16 causal float32",
    ]
    assert set(result.timings[0].seconds) == {"flashonnx", "torch SDPA", "ORT MHA"}
    assert [(t.case.q_sequence_length, t.case.is_causal) for t in result.scaling] == [
        (64, False),
        (128, False),
        (64, True),
        (128, True),
    ]
    assert all(error < 2e-6 for row in result.exactness for error in row.max_abs_error.values())
    assert [point.length for point in result.traffic] == [64, 128]


def test_result_as_json(result, tmp_path):
    result.save_json(tmp_path / "bench.json")
    data = json.loads((tmp_path / "bench.json").read_text())
    timing = data["timings"][0]
    assert timing["time_over_ours"]["flashonnx"] == 1.0
    assert timing["fastest_peer"] in ("torch SDPA", "ORT MHA")
    assert timing["gflops"]["flashonnx"] == pytest.approx(
        result.timings[0].case.flops / timing["median_seconds"]["flashonnx"] / 1e9
    )
    assert len(timing["peak_gflops"]) == 3
    shares = [
        result.timings[0].case.flops / seconds / 1e9 / peak
        for seconds, peak in zip(timing["seconds"]["flashonnx"], timing["peak_gflops"], strict=True)
    ]
    assert timing["fma_share"] == pytest.approx(sorted(shares)[1])
    assert timing["read_share"] is None


def test_plots_and_page(result, tmp_path):
    paths = result.save_plots(tmp_path / "plots")
    assert [path.name for path in paths] == ["time_full.svg", "time_causal.svg", "traffic.svg"]
    assert all(path.read_text().startswith("<?xml") for path in paths)
    result.save_html(tmp_path / "bench.html")
    page = (tmp_path / "bench.html").read_text()
    assert page.count("<svg") == 3
    assert "B1 H2 N32 D16 causal float32" in page
    assert "of FMA peak" in page
    assert f'<td class="n">{result.timings[0].fma_share():.2f}</td>' in page


@needs_proc
def test_memory_is_measured_in_children():
    measured = core.bench(["memory"], lengths=(256,), contestants=["ORT unfused"], threads=1).memory[0]
    scores = 8 * 256 * 256 * 4
    assert measured.peak_bytes["ORT unfused"] >= scores
    assert measured.peak_bytes["flashonnx"] < scores


def test_markdown_table(result, tmp_path):
    result.save_json(tmp_path / "bench.json")
    script = Path(__file__).parents[2] / "benchmarks" / "table.py"
    done = subprocess.run([sys.executable, script, tmp_path / "bench.json"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[2] == "| case | torch SDPA | ORT MHA | GFLOP/s |"
    assert lines[4].startswith("| B1 H2 N32 D16 full float32 |")
    assert len(lines) == 6
    (tmp_path / "bad.json").write_text("{}")
    done = subprocess.run([sys.executable, script, tmp_path / "bad.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bad.json: not a result" in done.stderr
