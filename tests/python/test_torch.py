"""torch.ops.flashonnx.flash_attention against PyTorch's own attention in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flashonnx.torch  # noqa: F401  registers the op
from flashonnx.validation.compare import ERROR_RATIO

flash_attention = torch.ops.flashonnx.flash_attention
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random_qkv(batch=2, heads=4, kv_heads=2, rows=9, keys=13, size=16, v_size=24, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        tensor(batch, heads, rows, size),
        tensor(batch, kv_heads, keys, size),
        tensor(batch, kv_heads, keys, v_size),
    )


def definition(q, k, v, mask=None, *, is_causal=False, scale=None, softcap=0.0, left=-1, right=-1):
    """Attention as written, in float64: scores, softcap, limits, mask, softmax with 0 for a row without a key."""
    q, k, v = (tensor.double() for tensor in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    i = torch.arange(q.shape[2])[:, None]
    j = torch.arange(k.shape[2])
    allowed = torch.ones(i.shape[0], j.shape[0], dtype=torch.bool)
    if is_causal:
        allowed &= j <= i
    if left >= 0:
        allowed &= j >= i - left
    if right >= 0:
        allowed &= j <= i + right
    scores = scores.masked_fill(~allowed, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.double()
    return torch.softmax(scores, dim=-1).nan_to_num(0.0) @ v


def assert_exact(actual, expected, rounded):
    """Within 1.5 times the error of `rounded`, what PyTorch computes in the same dtype, and an ulp of the largest."""
    error = (actual.double() - expected).abs().max().item()
    reference_error = (rounded.double() - expected).abs().max().item()
    largest = expected.abs().max().item()
    ulp = torch.finfo(actual.dtype).eps * 2 ** math.floor(math.log2(largest)) if largest else 0.0
    assert error <= ERROR_RATIO * reference_error + ulp


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_agrees_with_scaled_dot_product_attention(dtype, is_causal, kv_heads):
    q, k, v = random_qkv(kv_heads=kv_heads, dtype=dtype)
    y = flash_attention(q, k, v, is_causal=is_causal)
    rounded = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
    assert y.dtype == dtype
    assert y.shape == (2, 4, 9, 24)
    assert_exact(y, definition(q, k, v, is_causal=is_causal), rounded)


def test_float64():
    q, k, v = random_qkv(dtype=torch.float64)
    y = flash_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(y, definition(q, k, v, is_causal=True), atol=1e-14, rtol=0)


@pytest.mark.parametrize("shape", [(9, 13), (1, 13), (4, 9, 13), (2, 1, 9, 13), (2, 1, 1, 13), (2, 4, 9, 1)])
@pytest.mark.parametrize("is_bool", [True, False])
def test_masks_broadcast(shape, is_bool):
    q, k, v = random_qkv()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mask = noise > -0.5 if is_bool else noise
    torch.testing.assert_close(flash_attention(q, k, v, mask).double(), definition(q, k, v, mask), atol=2e-6, rtol=0)


def test_a_row_without_a_key_is_zero():
    q, k, v = random_qkv()
    mask = torch.ones(9, 13, dtype=torch.bool)
    mask[4] = False
    y = flash_attention(q, k, v, mask)
    assert (y[:, :, 4] == 0).all()
    assert y[:, :, 5].abs().min() > 0


@given(
    is_causal=st.booleans(),
    scale=st.none() | st.floats(0.01, 2),
    softcap=st.sampled_from([0.0, 2.0, 30.0]),
    left=st.integers(-1, 15),
    right=st.integers(-1, 15),
    rows=st.integers(1, 20),
    keys=st.integers(1, 20),
    kv_heads=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=100, deadline=None)
def test_every_attribute(is_causal, scale, softcap, left, right, rows, keys, kv_heads):
    q, k, v = random_qkv(kv_heads=kv_heads, rows=rows, keys=keys)
    options = {"is_causal": is_causal, "scale": scale, "softcap": softcap}
    y = flash_attention(q, k, v, **options, left_window_size=left, right_window_size=right)
    expected = definition(q, k, v, **options, left=left, right=right)
    torch.testing.assert_close(y.double(), expected, atol=4e-6, rtol=0)


def test_strided_tensors_are_read_in_place():
    packed = torch.randn(2, 9, 3, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, S, q k v, H, D)
    q, k, v = (tensor.transpose(1, 2) for tensor in packed.unbind(2))
    assert not q.is_contiguous()
    expected = flash_attention(q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(flash_attention(q, k, v), expected)
    feature_major = q.transpose(2, 3).contiguous().transpose(2, 3)
    assert feature_major.stride(-1) != 1
    assert torch.equal(flash_attention(feature_major, k, v), expected)
    mask = torch.rand(13, 9) > 0.3
    mask = mask.t()[:, :9]
    assert torch.equal(flash_attention(q, k, v, mask), flash_attention(q, k, v, mask.contiguous()))


def test_bits_do_not_depend_on_the_number_of_threads():
    q, k, v = random_qkv(rows=130, keys=200)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(flash_attention(q, k, v, is_causal=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_opcheck():
    q, k, v = random_qkv()
    mask = torch.rand(9, 13) > 0.2
    torch.library.opcheck(flash_attention.default, (q, k, v), {})
    torch.library.opcheck(flash_attention.default, (q, k, v, mask), {"scale": 0.3})
    torch.library.opcheck(flash_attention.default, (q, k, v), {"is_causal": True, "left_window_size": 4})


def test_compiles():
    q, k, v = random_qkv()

    def function(q, k, v):
        return flash_attention(q * 2, k, v, is_causal=True) + 1

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), function(q, k, v))


def test_meta_shape():
    q, k, v = (tensor.to("meta") for tensor in random_qkv())
    assert flash_attention(q, k, v).shape == (2, 4, 9, 24)


def test_backward_is_refused():
    q, k, v = random_qkv()
    q.requires_grad_()
    y = flash_attention(q, k, v)
    with pytest.raises(NotImplementedError, match="no backward pass"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), "rank 3 and 4"),
        (lambda q, k, v: (q, k[..., :8], v), "input 'K' has shape"),
        (lambda q, k, v: (q[:, :3], k, v), "q_num_heads"),
        (lambda q, k, v: (q, k.double(), v), "input 'K'"),
        (lambda q, k, v: (q.to(torch.complex64), k, v), "complex64"),
        (lambda q, k, v: (q, k, v, torch.ones(5, 13, dtype=torch.bool)), "input 'attn_mask'"),
        (lambda q, k, v: (q, k, v, torch.ones(9, 13, dtype=torch.int32)), "int32"),
        (lambda q, k, v: (q, k.to("meta"), v), "q is on cpu, other inputs are on meta, cpu; allowed: one device"),
    ],
)
def test_inputs_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        flash_attention(*change(*random_qkv()))


def test_attributes_that_are_refused():
    with pytest.raises(ValueError, match="left_window_size"):
        flash_attention(*random_qkv(), left_window_size=-2)
    with pytest.raises(ValueError, match="softcap"):
        flash_attention(*random_qkv(), softcap=-1.0)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 128, 64), (1, 4, 512, 64), (1, 2, 2048, 64), (1, 2, 2048, 128)])
def test_no_less_accurate_than_torch_over_many_keys(shape, is_causal):
    """The tolerance rule of docs/semantics.md; sums over thousands of keys must not drift."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    exact = sdpa(q.double(), k.double(), v.double(), is_causal=is_causal)

    def error(y):
        return (y.double() - exact).abs().max().item()

    allowed = ERROR_RATIO * error(sdpa(q, k, v, is_causal=is_causal))
    ulp = torch.finfo(torch.float32).eps * exact.abs().max().item()
    assert error(flash_attention(q, k, v, is_causal=is_causal)) <= allowed + ulp
