"""Attention as people write it by hand, on scaled_dot_product_attention or on products and a softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.modules import plain

_WIDTH, _HEADS = 32, 4

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Handwritten(nn.Module):
    """Projections around an attention function of (q, k, v, padding), each of q, k, v (batch, head, row, feature)."""

    def __init__(self, attend: Attend, kv_heads: int = _HEADS):
        super().__init__()
        size = _WIDTH // _HEADS
        self.q = nn.Linear(_WIDTH, _WIDTH)
        self.k, self.v = nn.Linear(_WIDTH, kv_heads * size), nn.Linear(_WIDTH, kv_heads * size)
        self.attend, self.size = attend, size

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            linear(x).view(x.shape[0], x.shape[1], -1, self.size).transpose(1, 2) for linear in (self.q, self.k, self.v)
        )
        return self.attend(q, k, v, padding)


class Packed(nn.Module):
    """One projection to queries, keys and values, cut by `cut`, and one back, as GPT-2 and timm have it."""

    def __init__(self, cut: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
        super().__init__()
        self.qkv, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.cut = cut

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        q, k, v = self.cut(self.qkv(x))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def _split(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, length, _ = packed.shape
    q, k, v = (part.view(batch, length, _HEADS, -1).transpose(1, 2) for part in packed.split(_WIDTH, dim=-1))
    return q, k, v


def _unbind(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, length, _ = packed.shape
    q, k, v = packed.view(batch, length, 3, _HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _allowed(padding: torch.Tensor) -> torch.Tensor:
    return ~padding[:, None, None, :]


def _below_diagonal(length: int) -> torch.Tensor:
    return torch.tril(torch.ones(length, length, dtype=torch.bool))


def _distance(length: int) -> torch.Tensor:
    position = torch.arange(length)
    return position[:, None] - position[None]


def _causal(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _grouped(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _repeated(q, k, v, padding):
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _one_kv_head(q, k, v, padding):
    """Products that broadcast the one head of keys and values."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill(~_allowed(padding), float("-inf")).softmax(-1) @ v


def _bool_mask(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(padding))


def _bool_square(q, k, v, padding):
    mask = _allowed(padding) & _below_diagonal(q.shape[2])
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _float_mask(q, k, v, padding):
    mask = torch.zeros(padding.shape, dtype=q.dtype).masked_fill(padding, torch.finfo(q.dtype).min)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])


def _window(q, k, v, padding):
    distance = _distance(q.shape[2])
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < 4))


def _scale(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, scale=0.2)


def _alibi(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=-_distance(q.shape[2]).abs().to(q.dtype))


def _einsum(q, k, v, padding):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~_allowed(padding), float("-inf"))
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def _tril(q, k, v, padding):
    """As nanoGPT has it."""
    length = q.shape[2]
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(torch.tril(torch.ones(length, length)) == 0, float("-inf"))
    return functional.softmax(scores, -1) @ v


def _softcap(q, k, v, padding):
    scores = 5.0 * torch.tanh(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 / 5.0)
    return scores.masked_fill(~_below_diagonal(q.shape[2]), float("-inf")).softmax(-1) @ v


def _normalised(q, k, v, padding):
    """Cosine similarities, as SwinV2 and ViT-22B have them."""
    q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
    return (q @ k.transpose(-2, -1) * 10.0).softmax(-1) @ v


def _bmm(q, k, v, padding):
    batch, heads, length, size = q.shape
    q, k, v = (tensor.reshape(batch * heads, length, size) for tensor in (q, k, v))
    zeros = torch.zeros(batch * heads, length, length, dtype=q.dtype)
    return torch.bmm(torch.baddbmm(zeros, q, k.transpose(1, 2), beta=0, alpha=size**-0.5).softmax(-1), v)


def _float_softmax(q, k, v, padding):
    """Softmax in float32 whatever the inputs are."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = scores + torch.zeros(padding.shape, dtype=q.dtype).masked_fill(padding, -1e4)[:, None, None, :]
    return functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


SPECS = [
    plain("torch_sdpa_causal", lambda: Handwritten(_causal)),
    plain("torch_sdpa_grouped", lambda: Handwritten(_grouped, kv_heads=2)),
    plain("torch_sdpa_repeated", lambda: Handwritten(_repeated, kv_heads=2)),
    plain("torch_sdpa_bool_mask", lambda: Handwritten(_bool_mask)),
    plain("torch_sdpa_bool_square", lambda: Handwritten(_bool_square)),
    plain("torch_sdpa_float_mask", lambda: Handwritten(_float_mask)),
    plain("torch_sdpa_window", lambda: Handwritten(_window)),
    plain("torch_sdpa_scale", lambda: Handwritten(_scale)),
    plain("torch_sdpa_alibi", lambda: Handwritten(_alibi)),
    plain("torch_packed_split", lambda: Packed(_split)),
    plain("torch_packed_unbind", lambda: Packed(_unbind)),
    plain("torch_one_kv_head", lambda: Handwritten(_one_kv_head, kv_heads=1)),
    plain("torch_einsum", lambda: Handwritten(_einsum)),
    plain("torch_tril", lambda: Handwritten(_tril)),
    plain("torch_softcap", lambda: Handwritten(_softcap)),
    plain("torch_normalised", lambda: Handwritten(_normalised)),
    plain("torch_float_softmax", lambda: Handwritten(_float_softmax)),
    plain("torch_bmm", lambda: Handwritten(_bmm)),
]
