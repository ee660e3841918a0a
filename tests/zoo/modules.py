"""Attention as plain PyTorch has it: nn.MultiheadAttention, nn.Transformer and the ways people write it by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.spec import Inputs, Spec, with_random_weights

_WIDTH, _HEADS = 32, 4


class MultiHead(nn.Module):
    """nn.MultiheadAttention of x on itself."""

    def __init__(self, *, causal: bool = False, padded: bool = False, need_weights: bool = False):
        super().__init__()
        self.attention = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.causal, self.padded, self.need_weights = causal, padded, need_weights

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y, weights = self.attention(
            x,
            x,
            x,
            key_padding_mask=padding if self.padded else None,
            attn_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None,
            need_weights=self.need_weights,
        )
        return (y, weights) if self.need_weights else y


class Encoder(nn.Module):
    """nn.TransformerEncoder of two layers."""

    def __init__(self, *, causal: bool = False, padded: bool = False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 48, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.causal, self.padded = causal, padded

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        if self.causal:
            return self.encoder(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True)
        return self.encoder(x, src_key_padding_mask=padding if self.padded else None)


class EncoderDecoder(nn.Module):
    """nn.Transformer, causal on four targets, with padded sources."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(_WIDTH, _HEADS, 1, 1, 48, batch_first=True, dropout=0.0)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(4)
        return self.transformer(
            x, x[:, :4], src_key_padding_mask=padding, memory_key_padding_mask=padding, tgt_mask=mask
        )


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


def _allowed(padding: torch.Tensor) -> torch.Tensor:
    return ~padding[:, None, None, :]


def _causal(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _grouped(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _bool_mask(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(padding))


def _scale(q, k, v, padding):
    return functional.scaled_dot_product_attention(q, k, v, scale=0.2)


def _alibi(q, k, v, padding):
    position = torch.arange(q.shape[2])
    bias = -(position[:, None] - position[None]).abs().float()
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


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


def _bmm(q, k, v, padding):
    batch, heads, length, size = q.shape
    q, k, v = (tensor.reshape(batch * heads, length, size) for tensor in (q, k, v))
    zeros = torch.zeros(batch * heads, length, length)
    return torch.bmm(torch.baddbmm(zeros, q, k.transpose(1, 2), beta=0, alpha=size**-0.5).softmax(-1), v)


def _inputs(batch: int, length: int) -> Inputs:
    generator = torch.Generator().manual_seed(100 * batch + length)
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[:, -3:] = True
    return {"x": torch.randn(batch, length, _WIDTH, generator=generator), "padding": padding}


def _spec(name: str, make: Callable[[], nn.Module]) -> Spec:
    def build(implementation: str) -> nn.Module:
        # The fused kernel of nn.MultiheadAttention's fast path does not export.
        torch.backends.mha.set_fastpath_enabled(False)
        torch.manual_seed(0)
        return with_random_weights(make())

    return Spec(name, build, _inputs, implementations=("torch",))


MODULES = [
    _spec("torch_mha", MultiHead),
    _spec("torch_mha_causal", lambda: MultiHead(causal=True)),
    _spec("torch_mha_padded", lambda: MultiHead(padded=True)),
    _spec("torch_mha_causal_padded", lambda: MultiHead(causal=True, padded=True)),
    _spec("torch_mha_weights", lambda: MultiHead(need_weights=True)),
    _spec("torch_encoder", Encoder),
    _spec("torch_encoder_causal", lambda: Encoder(causal=True)),
    _spec("torch_encoder_padded", lambda: Encoder(padded=True)),
    _spec("torch_transformer", EncoderDecoder),
    _spec("torch_sdpa_causal", lambda: Handwritten(_causal)),
    _spec("torch_sdpa_grouped", lambda: Handwritten(_grouped, kv_heads=2)),
    _spec("torch_sdpa_bool_mask", lambda: Handwritten(_bool_mask)),
    _spec("torch_sdpa_scale", lambda: Handwritten(_scale)),
    _spec("torch_sdpa_alibi", lambda: Handwritten(_alibi)),
    _spec("torch_einsum", lambda: Handwritten(_einsum)),
    _spec("torch_tril", lambda: Handwritten(_tril)),
    _spec("torch_bmm", lambda: Handwritten(_bmm)),
]
