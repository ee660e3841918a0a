"""The benchmark on a GPU, as far as it needs none: cases, formulas, ncu's output, and what it says without one."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flashonnx.bench import core, cuda, devices, dram
from flashonnx.bench.cases import (
    MASKS,
    decode_cases,
    grouped_cases,
    masked_cases,
    parse_case,
    prefill_cases,
    random_inputs,
    random_mask,
)
from flashonnx.bench.exactness import float64_attention
from flashonnx.bench.result import BenchResult, Timing
from flashonnx.cli import app

needs_no_gpu = pytest.mark.skipif(not cuda.why_not(), reason="there is a GPU: tests/gpu/test_gpu_bench.py")

# Written by hand after the format that Nsight Compute's documentation gives of --csv and --print-units base: its own
# lines and the program's before the table, a row a kernel and metric, numbers with separators. Not recorded from ncu.
NCU_OUTPUT = """\
==PROF== Connected to process 4711 (/usr/bin/python3.11)
==PROF== Profiling "forward" - 0: 0%....50%....100% - 1 pass
a line of the program's own
==PROF== Disconnected from process 4711
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"Section Name","Metric Name","Metric Unit","Metric Value"
"0","4711","python3.11","127.0.0.1","forward<__half, 128>(Arguments)","1","13","(384, 1, 1)","(132, 1, 1)","0","9.0",\
"Command line profiler metrics","dram__bytes_read.sum","byte","1,048,576"
"0","4711","python3.11","127.0.0.1","forward<__half, 128>(Arguments)","1","13","(384, 1, 1)","(132, 1, 1)","0","9.0",\
"Command line profiler metrics","dram__bytes_write.sum","byte","524,288"
"1","4711","python3.11","127.0.0.1","merge","1","13","(128, 1, 1)","(64, 1, 1)","0","9.0",\
"Command line profiler metrics","dram__bytes_read.sum","byte","96"
"1","4711","python3.11","127.0.0.1","merge","1","13","(128, 1, 1)","(64, 1, 1)","0","9.0",\
"Command line profiler metrics","dram__bytes_write.sum","byte","0"
"""


def test_prefill_cases_have_the_same_work_in_tokens() -> None:
    cases = prefill_cases("bfloat16")
    assert len(cases) == 36
    assert {case.batch_size * case.q_sequence_length for case in cases} == {16384}
    assert {case.q_num_heads * case.head_size for case in cases} == {2048}
    assert {case.dtype for case in cases} == {"bfloat16"}


def test_decoding_asks_one_query_of_every_key() -> None:
    for case in decode_cases("float16"):
        assert (case.q_sequence_length, case.is_causal) == (1, False)
        assert case.q_num_heads == 4 * case.kv_num_heads
    assert all(case.q_num_heads > case.kv_num_heads for case in grouped_cases("float16"))


def test_masked_cases_differ_in_the_mask_alone() -> None:
    cases = masked_cases("float16")
    assert [case.mask for case in cases] == list(MASKS)
    assert {replace(case, mask="none") for case in cases} == {cases[0]}
    assert len({str(case) for case in cases}) == len(cases)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_float64_attention_with_a_mask_is_the_definition(kind: str) -> None:
    case = replace(parse_case("2x4/2x300x8"), mask=kind)
    q, k, v = random_inputs(case)
    mask = random_mask(case)
    assert mask is not None
    assert mask.shape == (1, 1, 300, 300)
    scores = np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, axis=1)).astype(np.float64) / np.sqrt(8)
    weights = np.exp(scores) * mask if kind == "bool" else np.exp(scores + mask)
    expected = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(v, 2, axis=1)
    np.testing.assert_allclose(float64_attention(case, q, k, v), expected, atol=1e-6)


def test_masks_are_not_timed_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="masks are timed on GPUs only"):
        core.bench(cases=masked_cases("float32"))


def test_the_formulas_by_hand() -> None:
    case = replace(parse_case("2x8/4x16/64x32"), dtype="float16")
    tensors = 2 * (2 * 8 * 16 * 32) + 2 * (2 * 4 * 64 * 32)  # Q and output, K and V
    assert dram.least_bytes(case) == 2 * tensors
    assert dram.standard_bytes(case) == 2 * tensors + 4 * 2 * (2 * 8 * 16 * 64)


def test_bytes_of_all_kernels_are_summed() -> None:
    assert dram.total_bytes(NCU_OUTPUT) == 1048576 + 524288 + 96


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("==PROF== No kernels were profiled.\n", "reported no dram__bytes_read.sum, dram__bytes_write.sum"),
        (NCU_OUTPUT.replace("dram__bytes_write", "other"), "reported no dram__bytes_write.sum"),
        (NCU_OUTPUT.replace('"byte","96"', '"Kbyte","0.1"'), "'0.1' 'Kbyte'; expected a number of bytes"),
        (NCU_OUTPUT.replace('"96"', '"n/a"'), "'n/a' 'byte'; expected a number of bytes"),
    ],
)
def test_other_output_is_an_error(output: str, message: str) -> None:
    with pytest.raises(dram.ProfileError, match=message):
        dram.total_bytes(output)


def install_ncu(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program of ncu's name, first on the PATH; it keeps its arguments."""
    program = folder / "ncu"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n{body}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_ncu_is_called_for_one_contestant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_text(NCU_OUTPUT)
    install_ncu(tmp_path, monkeypatch, f"cat {tmp_path}/output")
    case = parse_case("1x2x64x32")
    assert dram.measure(case, "torch MATH") == 1572960
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "dram__bytes_read.sum,dram__bytes_write.sum" in arguments
    request = json.loads(arguments[-1])
    assert request["contestant"] == "torch MATH"
    assert type(case)(**request["case"]) == case


def test_what_ncu_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_ncu(tmp_path, monkeypatch, "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'")
    with pytest.raises(dram.ProfileError, match="ERR_NVGPUCTRPERM"):
        dram.measure(parse_case("1x2x64x32"), "flashonnx")
    install_ncu(tmp_path, monkeypatch, "echo 'no module named torch' >&2; exit 3")
    with pytest.raises(dram.ProfileError, match="no module named torch"):
        dram.measure(parse_case("1x2x64x32"), "flashonnx")


def test_topics_belong_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no topic prefill on cpu"):
        core.bench(["prefill"])
    monkeypatch.setitem(devices.DEVICES, "cuda", replace(devices.DEVICES["cuda"], why_not=lambda: ""))
    with pytest.raises(ValueError, match="no topic memory on cuda; there are decode, "):
        core.bench(["memory"], device="cuda")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="needs Nsight Compute's ncu on the PATH"):
        core.bench(["profile"], device="cuda")


@needs_no_gpu
def test_without_a_gpu_the_command_says_so() -> None:
    result = CliRunner().invoke(app, ["bench", "--device", "cuda"])
    assert result.exit_code == 2
    assert "--device cuda needs" in result.stderr


@pytest.fixture
def result() -> BenchResult:
    """As measured on a GPU, by made-up figures."""
    made = BenchResult({"gpu": "NVIDIA H200", "cpu": "?", "packages": {}}, "cuda", 1, ours={"flashonnx"})
    for case, peer in zip(prefill_cases("bfloat16")[:2], (2e-3, 4e-3), strict=True):
        made.timings.append(Timing(case, {"flashonnx": [1e-3] * 3, "torch cuDNN": [peer] * 3}, {}))
    for length in (1024, 2048):
        case = parse_case(f"1x16x{length}x128")
        measured = {"flashonnx": dram.least_bytes(case) + 4096, "torch MATH": dram.standard_bytes(case)}
        made.dram.append(dram.DramTraffic(case, dram.least_bytes(case), dram.standard_bytes(case), measured, {}))
    return made


def test_summary_and_rates(result: BenchResult) -> None:
    data = json.loads(json.dumps(result.to_dict()))
    assert data["where"] == "NVIDIA H200"
    summary = data["summary"]["torch cuDNN"]
    assert summary == {"geometric_mean": pytest.approx(8**0.5), "least": 2.0, "cases": 2}
    case = result.timings[0].case
    assert data["timings"][0]["gbytes"]["flashonnx"] == pytest.approx(dram.least_bytes(case) / 1e-3 / 1e9)


def test_measured_traffic_is_drawn_beside_the_formulas(result: BenchResult, tmp_path: Path) -> None:
    (path,) = result.save_plots(tmp_path)
    assert path.name == "dram.svg"
    text = path.read_text()
    for label in ("flashonnx", "torch MATH", "Q, K, V and output once", "and the scores four times"):
        assert label in text
