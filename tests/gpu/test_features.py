"""Every feature of the contract on every kernel that takes it, against float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from flashonnx import native  # noqa: E402
from tests.gpu import problems  # noqa: E402
from tests.gpu.problems import Problem  # noqa: E402

KERNELS = ["sm90", "sm80", "split", "naive"]
TENSOR_CORE_TYPES = [torch.bfloat16, torch.float16, torch.float32]  # of the last, not sm90

# (name, attributes, makers of extra inputs); past: rows of the cache.
FEATURES = [
    ("plain", {}, ()),
    ("causal", {"is_causal": 1}, ()),
    ("left_window", {"left_window_size": 17}, ()),
    ("both_windows", {"left_window_size": 5, "right_window_size": 9}, ()),
    ("causal_window", {"is_causal": 1, "left_window_size": 100}, ()),
    ("softcap", {"softcap": 7.0}, ()),
    ("causal_softcap", {"is_causal": 1, "softcap": 30.0}, ()),
    ("negative_scale", {"scale": -0.2}, ()),
    ("zero_scale", {"scale": 0.0}, ()),
    ("bool_mask", {}, ("bool_mask",)),
    ("causal_bool_mask", {"is_causal": 1}, ("bool_mask",)),
    ("key_mask", {}, ("key_mask",)),
    ("float_mask", {}, ("float_mask",)),
    ("short_mask", {}, ("short_mask",)),
    ("column_mask", {}, ("column_mask",)),
    ("sliced_mask", {}, ("sliced_mask",)),
    ("huge_mask", {}, ("huge_mask",)),
    ("negative_scale_mask", {"scale": -0.2}, ("float_mask",)),
    ("softcap_bool_mask", {"softcap": 7.0}, ("bool_mask",)),
    ("sinks", {}, ("sinks",)),
    ("sinks_window", {"is_causal": 1, "left_window_size": 20}, ("sinks",)),
    ("alibi", {}, ("slopes",)),
    ("causal_alibi_by_batch", {"is_causal": 1}, ("slopes_by_batch",)),
    ("padding", {}, ("padding",)),
    ("padding_softcap", {"softcap": 7.0}, ("padding",)),
    ("causal_padding", {"is_causal": 1}, ("padding",)),
    ("padding_window", {"is_causal": 1, "left_window_size": 30}, ("padding",)),
    ("mean_of_left_padding", {"is_causal": 1, "mean_without_keys": 1}, ("left_mask",)),
    ("mean_of_padding", {"is_causal": 1, "left_window_size": 30, "mean_without_keys": 1}, ("padding",)),
    ("mean_of_past", {"mean_without_keys": 1}, ("past", "left_mask")),
    ("past", {}, ("past",)),
    ("causal_past", {"is_causal": 1}, ("past",)),
    ("everything", {"left_window_size": 90, "softcap": 5.0}, ("past", "float_mask", "sinks", "slopes")),
]
# (q_num_heads, kv_num_heads, q_sequence_length, kv_sequence_length)
# The last one's masks have rows of whole 16 bytes, which a copy engine reads; of two before it keys are split often.
SIZES = [
    *[(6, 2, 130, 257), (8, 2, 1, 300), (4, 4, 7, 500), (3, 1, 300, 140)],
    *[(8, 2, 1, 4409), (16, 1, 3, 2999)],
    (4, 2, 200, 320),
]
HEAD_SIZES = [(64, 64), (128, 128), (256, 256), (192, 128), (80, 40)]


def _random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def _add_mask(kind: str, problem: Problem) -> None:
    batch, heads, queries = problem.Q.shape[:3]
    total, dtype = problem.total, problem.Q.dtype
    shapes = {
        "bool_mask": (batch, heads, queries, total),
        "key_mask": (batch, 1, 1, total),
        "left_mask": (batch, 1, 1, total),
        "float_mask": (1, 1, queries, total),
        "short_mask": (queries, total - 5),
        "column_mask": (batch, 1, queries, 1),
        "sliced_mask": (heads, queries, total + 1),
        "huge_mask": (queries, total),
    }
    if kind in ("bool_mask", "key_mask"):
        mask = torch.rand(shapes[kind], device="cuda") > 0.3
    elif kind == "left_mask":  # of the second batch entry, no key at all
        mask = torch.arange(total, device="cuda") >= torch.tensor([total // 3, total], device="cuda").view(-1, 1, 1, 1)
    elif kind == "huge_mask":  # finite: no key is disallowed; float16's least would leave the scores some digits
        least = -1000.0 if dtype == torch.float16 else torch.finfo(dtype).min
        mask = torch.full(shapes[kind], least, dtype=dtype, device="cuda")
    else:
        mask = _random(*shapes[kind], dtype=dtype)
        if kind != "column_mask":
            mask[torch.rand(shapes[kind], device="cuda") > 0.8] = -math.inf
        if kind == "sliced_mask":  # rows and address off every boundary
            mask = mask[..., 1:]
    problem.inputs["attn_mask"] = mask


def make(
    dtype: torch.dtype, sizes: tuple[int, int, int, int], head_sizes: tuple[int, int], layout: str, feature: tuple
) -> Problem:
    """A problem with a batch of 2; layout: rank 4 as it is ("bhsd"), a view of rank 3 ("bshd"), or odd rows ("odd")."""
    _, attributes, extras = feature
    heads, kv_heads, queries, keys = sizes
    head_size, v_head_size = head_sizes

    def tensor(heads: int, rows: int, columns: int) -> torch.Tensor:
        if layout == "bshd":
            return _random(2, rows, heads, columns, dtype=dtype).transpose(1, 2)
        if layout == "odd":
            return _random(2, heads, rows, columns + 3, dtype=dtype)[..., :columns]
        return _random(2, heads, rows, columns, dtype=dtype)

    problem = Problem(
        {"Q": tensor(heads, queries, head_size), "K": tensor(kv_heads, keys, head_size)}
        | {"V": tensor(kv_heads, keys, v_head_size)},
        dict(attributes),
    )
    if "past" in extras:
        problem.inputs["past_key"] = _random(2, kv_heads, 37, head_size, dtype=dtype)
        problem.inputs["past_value"] = _random(2, kv_heads, 37, v_head_size, dtype=dtype)
    if "sinks" in extras:
        problem.inputs["sinks"] = 2 * torch.randn(heads, device="cuda")
    if "slopes" in extras:
        problem.inputs["alibi_slopes"] = 0.3 * torch.rand(heads, device="cuda")
    if "slopes_by_batch" in extras:
        problem.inputs["alibi_slopes"] = 0.3 * torch.rand(2, heads, device="cuda")
    if "padding" in extras:
        lengths = torch.tensor([keys - 11, keys // 3], device="cuda")
        padding = torch.arange(keys, device="cuda").view(-1, 1) >= lengths.view(-1, 1, 1, 1)
        problem.inputs["nonpad_kv_seqlen"] = lengths
        problem.K.masked_fill_(padding, math.nan)
        problem.V.masked_fill_(padding, math.nan)
    for extra in extras:
        if extra.endswith("mask"):
            _add_mask(extra, problem)
    return problem


def check(problem: Problem, kernel: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs one kernel if it takes the problem; False if it says that it does not."""
    monkeypatch.setenv(problems.KERNEL_VARIABLE, kernel)
    try:
        plan = problems.plan(problem)
    except native.UnavailableError:
        return False
    assert plan.startswith(kernel)
    caches = ("present_key", "present_value") if "past_key" in problem.inputs else ()
    results = problems.run(problem, ("Y", "lse", *caches))
    reference = problems.expected(problem)
    problems.assert_close(results["Y"], reference)
    lse = reference.lse.float().double()  # as which it is returned: a mask of -1e308 is -inf
    assert problems.difference(results["lse"], lse) <= 2e-5 * max(1.0, problems.largest(problem.Q) ** 2)
    for cache, past, new in (("present_key", "past_key", "K"), ("present_value", "past_value", "V")):
        if cache in results:
            assert torch.equal(results[cache], torch.cat([problem.inputs[past], problem.inputs[new]], 2))
    return True


@pytest.mark.parametrize("feature", FEATURES, ids=[name for name, _, _ in FEATURES])
@pytest.mark.parametrize("kernel", KERNELS)
def test_feature(kernel: str, feature: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ran = 0
    for dtype in TENSOR_CORE_TYPES:
        for sizes in SIZES:
            for head_sizes in HEAD_SIZES:
                for layout in ("bhsd", "bshd", "odd"):
                    ran += check(make(dtype, sizes, head_sizes, layout, feature), kernel, monkeypatch)
    if kernel == "sm90" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0")
    assert ran >= 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("feature", FEATURES, ids=[name for name, _, _ in FEATURES])
def test_feature_in_wide_types(dtype: torch.dtype, feature: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    assert check(make(dtype, (4, 2, 33, 65), (40, 24), "bhsd", feature), "naive", monkeypatch)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(
    ("kernel", "head_size"), [("sm80", 64), ("sm80", 128), ("sm80", 256), ("split", 64), ("split", 128)]
)
def test_float_is_as_exact_as_pytorch(
    kernel: str, head_size: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three products of tf32 against the multiplications and additions of float that PyTorch makes."""
    monkeypatch.setenv(problems.KERNEL_VARIABLE, kernel)
    torch.manual_seed(0)
    queries, heads = (16, 8) if kernel == "split" else (2048, 2)
    shapes = {"Q": queries, "K": 2048, "V": 2048}
    problem = Problem({name: _random(1, heads, rows, head_size, dtype=torch.float32) for name, rows in shapes.items()})
    if causal and kernel == "sm80":
        problem.attributes["is_causal"] = 1
    assert problems.plan(problem).startswith(kernel)
    reference = problems.expected(problem).Y
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION):
        theirs = torch.nn.functional.scaled_dot_product_attention(
            problem.Q, problem.K, problem.V, is_causal="is_causal" in problem.attributes
        )
    ours = problems.difference(problems.run(problem)["Y"], reference)
    unit = problems.unit_in_last_place(problems.largest(reference), torch.float32)
    assert ours <= 1.5 * problems.difference(theirs, reference) + unit


NANS_OF_FLOAT = [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1]  # bits: as computed, and at the ends of the range


@pytest.mark.parametrize("bits", NANS_OF_FLOAT, ids=lambda bits: f"{bits & 0xFFFFFFFF:08x}")
@pytest.mark.parametrize("kernel", ["sm80", "split", "naive"])
def test_nan_in_a_key_of_float(kernel: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken apart into numbers of tf32 it stays one: rows that see the key are NaN, and no others are."""
    monkeypatch.setenv(problems.KERNEL_VARIABLE, kernel)
    torch.manual_seed(0)
    feature = ("", {"is_causal": 1}, ())
    problem = make(torch.float32, (2, 2, 40, 40), (64, 64), "bhsd", feature)
    problem.K[:, :, 20, 3] = torch.tensor(bits, dtype=torch.int32, device="cuda").view(torch.float32)
    assert problems.plan(problem).startswith(kernel)
    is_nan = problems.run(problem)["Y"].isnan()
    assert is_nan[:, :, 20:].all()
    assert not is_nan[:, :, :20].any()


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qk_matmul_output(mode: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    feature = ("", {"softcap": 4.0, "is_causal": 1, "qk_matmul_output_mode": mode}, ("bool_mask", "sinks"))
    problem = make(dtype, (4, 2, 33, 165), (40, 24), "bhsd", feature)
    results = problems.run(problem, ("Y", "qk_matmul_output"))
    reference = problems.expected(problem)
    problems.assert_close(results["Y"], reference)
    stage = reference.qk[mode]
    finite = stage[stage > -math.inf]
    allowed = 2 * problems.unit_in_last_place(problems.largest(finite), dtype) + 2e-6
    assert problems.difference(results["qk_matmul_output"], stage) <= allowed
