"""What holds for launches whatever they compute: dispatch, determinism, graphs, streams, memory, errors."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from flashonnx import native  # noqa: E402
from tests.gpu import problems  # noqa: E402
from tests.gpu.problems import Problem  # noqa: E402


def _plain(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, head_size: int, **attributes: float
) -> Problem:
    def tensor(heads: int, rows: int) -> torch.Tensor:
        return torch.randn(batch, heads, rows, head_size, device="cuda", dtype=torch.bfloat16)

    return Problem({"Q": tensor(heads, queries), "K": tensor(kv_heads, keys), "V": tensor(kv_heads, keys)}, attributes)


PROBLEMS = {
    "sm90": lambda: _plain(2, 4, 4, 1000, 1000, 128, is_causal=1),
    "sm80": lambda: _plain(2, 4, 4, 1000, 1000, 128, is_causal=1),
    "split": lambda: _plain(1, 8, 2, 1, 4000, 128),
    "naive": lambda: _plain(1, 2, 1, 50, 80, 128),
}


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Problem:
    if request.param == "sm90" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0")
    torch.manual_seed(0)
    monkeypatch.setenv(problems.KERNEL_VARIABLE, request.param)
    return PROBLEMS[request.param]()


def test_hundred_runs_give_the_same_bits(problem: Problem) -> None:
    first = problems.run(problem)["Y"]
    results = {"Y": torch.empty_like(first)}
    for _ in range(100):
        results["Y"].fill_(float("nan"))
        problems.launch(problem, results)
        assert torch.equal(results["Y"], first)


def test_graph_capture_and_replay(problem: Problem) -> None:
    wanted = problems.run(problem)["Y"]
    results = {"Y": torch.zeros_like(wanted)}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        problems.launch(problem, results)
    for _ in range(3):
        results["Y"].zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(results["Y"], wanted)


def test_streams_do_not_disturb_each_other(problem: Problem) -> None:
    wanted = problems.run(problem)["Y"]
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = [torch.empty_like(wanted) for _ in streams]
    torch.cuda.synchronize()
    for _ in range(10):
        for stream, result in zip(streams, results, strict=True):
            with torch.cuda.stream(stream):
                problems.launch(problem, {"Y": result})
    torch.cuda.synchronize()
    assert all(torch.equal(result, wanted) for result in results)


@pytest.mark.parametrize("batch", [1, 5, 10, 16, 40])
def test_decoding_fills_the_gpu_with_blocks_of_any_shape(batch: int) -> None:
    torch.manual_seed(0)
    problem = _plain(batch, 32, 8, 1, 2100, 128)
    assert problems.plan(problem).startswith("split")
    problems.assert_close(problems.run(problem)["Y"], problems.expected(problem))


def test_dispatch_says_why() -> None:
    assert problems.plan(_plain(1, 8, 2, 1, 4000, 128)).startswith("split")
    prefill = _plain(2, 4, 4, 1000, 1000, 128)
    if torch.cuda.get_device_capability() == (9, 0):
        assert problems.plan(prefill).startswith("sm90, 128 x 128 tiles")
        prefill.inputs["K"] = torch.randn(2, 4, 1000, 129, device="cuda", dtype=torch.bfloat16)[..., :128]
        text = problems.plan(prefill)
        assert text.startswith("sm80")
        assert "not sm90: rows of Q, K, V or Y do not all start at multiples of 16 bytes" in text
    assert problems.plan(prefill, ("Y", "qk_matmul_output")).startswith("naive")


def test_forced_kernel_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _plain(2, 4, 4, 1000, 1000, 128)
    monkeypatch.setenv(problems.KERNEL_VARIABLE, "split")
    with pytest.raises(native.UnavailableError, match="1000 query rows per key/value head"):
        problems.run(problem)
    monkeypatch.setenv(problems.KERNEL_VARIABLE, "fast")
    with pytest.raises(native.UnavailableError, match="'fast'; it may be"):
        problems.run(problem)
    monkeypatch.delenv(problems.KERNEL_VARIABLE)
    problems.assert_close(problems.run(problem)["Y"], problems.expected(problem))


def test_long_sequence_takes_no_more_memory_than_its_tensors() -> None:
    rows = 131072
    problem = _plain(1, 1, 1, rows, rows, 64, is_causal=1)
    results = {"Y": torch.empty(1, 1, rows, 64, device="cuda", dtype=torch.bfloat16)}
    torch.cuda.synchronize()
    free_before, _ = torch.cuda.mem_get_info()
    problems.launch(problem, results)
    torch.cuda.synchronize()
    free_after, _ = torch.cuda.mem_get_info()
    assert free_before - free_after < 64 << 20  # the scores would take 32 GiB
    first = Problem({name: tensor[:, :, :500] for name, tensor in problem.inputs.items()}, problem.attributes)
    problems.assert_close(results["Y"][:, :, :500], problems.expected(first))


def test_blocks_that_draw_several_tiles_without_keys() -> None:
    problem = _plain(2, 256, 256, 256, 256, 64)
    problem.inputs["nonpad_kv_seqlen"] = torch.tensor([256, 0], device="cuda")
    problems.assert_close(problems.run(problem)["Y"], problems.expected(problem))


def test_batch_stride_beyond_32_bits() -> None:
    storage = torch.empty(2**31 + 2**20, device="cuda", dtype=torch.bfloat16)
    views = {}
    for i, name in enumerate("QKV"):
        view = torch.as_strided(storage, (2, 2, 300, 64), (2**31, 300 * 64, 64, 1), i * 64 * 1000)
        view.copy_(torch.randn(2, 2, 300, 64, device="cuda"))
        views[name] = view
    problem = Problem(views, {"is_causal": 1})
    problems.assert_close(problems.run(problem)["Y"], problems.expected(problem))


def test_no_worse_than_torch() -> None:
    from torch.nn.functional import scaled_dot_product_attention

    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        for head_size in (64, 128, 256):
            problem = _plain(2, 4, 4, 1000, 1000, head_size)
            problem.inputs = {name: tensor.to(dtype) for name, tensor in problem.inputs.items()}
            reference = problems.expected(problem).Y
            theirs = scaled_dot_product_attention(*problem.inputs.values())
            ours = problems.run(problem)["Y"]
            allowed = 1.5 * problems.difference(theirs, reference)
            allowed += problems.unit_in_last_place(problems.largest(reference), dtype)
            assert problems.difference(ours, reference) <= allowed


def test_torch_op() -> None:
    import flashonnx.torch  # noqa: F401

    problem = _plain(2, 4, 2, 100, 200, 64)
    y = torch.ops.flashonnx.flash_attention(problem.Q, problem.K, problem.V, is_causal=True)
    problem.attributes["is_causal"] = 1
    assert torch.equal(y, problems.run(problem)["Y"])
