"""Attention as torch.nn has it: MultiheadAttention, TransformerEncoder, TransformerDecoder, with each kind of mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.zoo.spec import Inputs, Spec, with_random_weights

_WIDTH, _HEADS = 32, 4


def _causal_mask(length: int) -> torch.Tensor:
    return nn.Transformer.generate_square_subsequent_mask(length)


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
            attn_mask=_causal_mask(x.shape[1]) if self.causal else None,
            need_weights=self.need_weights,
        )
        return (y, weights) if self.need_weights else y


class MaskedMultiHead(nn.Module):
    """nn.MultiheadAttention with a mask of all queries and keys that is made in the model, bool or float."""

    def __init__(self, mask: Callable[[int], torch.Tensor], *, batch_first: bool = True):
        super().__init__()
        self.attention = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=batch_first)
        self.mask, self.batch_first = mask, batch_first

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        x = x if self.batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, x, x, attn_mask=self.mask(length), need_weights=False)
        return y if self.batch_first else y.transpose(0, 1)


class CrossMultiHead(nn.Module):
    """nn.MultiheadAttention of the first five rows on all, whose keys and values have widths of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(_WIDTH, _HEADS, kdim=24, vdim=16, batch_first=True)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.attention(x[:, :5], x[..., :24], x[..., :16], key_padding_mask=padding, need_weights=False)[0]


class Encoder(nn.Module):
    """nn.TransformerEncoder of two layers."""

    def __init__(self, *, causal: bool = False, padded: bool = False, norm_first: bool = False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 48, batch_first=True, dropout=0.0, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.causal, self.padded = causal, padded

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        pad = padding if self.padded else None
        if self.causal:
            return self.encoder(x, mask=_causal_mask(x.shape[1]), src_key_padding_mask=pad, is_causal=True)
        return self.encoder(x, src_key_padding_mask=pad)


class Decoder(nn.Module):
    """nn.TransformerDecoder of two layers: the first five rows, causal, on all rows, padded."""

    def __init__(self, *, causal: bool = True, padded: bool = True):
        super().__init__()
        layer = nn.TransformerDecoderLayer(_WIDTH, _HEADS, 48, batch_first=True, dropout=0.0)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.causal, self.padded = causal, padded

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.decoder(
            x[:, :5],
            x,
            tgt_mask=_causal_mask(5) if self.causal else None,
            tgt_is_causal=self.causal,
            memory_key_padding_mask=padding if self.padded else None,
        )


class EncoderDecoder(nn.Module):
    """nn.Transformer, causal on four targets, with padded sources."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(_WIDTH, _HEADS, 1, 1, 48, batch_first=True, dropout=0.0)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.transformer(
            x, x[:, :4], src_key_padding_mask=padding, memory_key_padding_mask=padding, tgt_mask=_causal_mask(4)
        )


def _window(length: int) -> torch.Tensor:
    """True where a query may not see a key, as nn.MultiheadAttention has it: three rows back, one ahead."""
    position = torch.arange(length)
    distance = position[:, None] - position[None]
    return (distance > 3) | (distance < -1)


def _distance(length: int) -> torch.Tensor:
    position = torch.arange(length)
    return -0.3 * (position[:, None] - position[None]).abs().float()


def batch(size: int, length: int) -> Inputs:
    """Rows, and a padding mask that is True at the last three of them."""
    generator = torch.Generator().manual_seed(100 * size + length)
    padding = torch.zeros(size, length, dtype=torch.bool)
    padding[:, -3:] = True
    return {"x": torch.randn(size, length, _WIDTH, generator=generator), "padding": padding}


def plain(name: str, make: Callable[[], nn.Module], *, unfusable: str = "") -> Spec:
    """A module of (x, padding)."""

    def build(implementation: str) -> nn.Module:
        # The fused kernel of nn.MultiheadAttention's fast path does not export.
        torch.backends.mha.set_fastpath_enabled(False)
        torch.manual_seed(0)
        return with_random_weights(make())

    return Spec(name, build, batch, implementations=("torch",), unfusable=unfusable)


SPECS = [
    plain("torch_mha", MultiHead),
    plain("torch_mha_causal", lambda: MultiHead(causal=True)),
    plain("torch_mha_padded", lambda: MultiHead(padded=True)),
    plain("torch_mha_causal_padded", lambda: MultiHead(causal=True, padded=True)),
    plain(
        "torch_mha_weights", lambda: MultiHead(need_weights=True), unfusable="the probabilities are an output as well"
    ),
    plain("torch_mha_window", lambda: MaskedMultiHead(_window)),
    plain("torch_mha_bias", lambda: MaskedMultiHead(_distance)),
    plain("torch_mha_rows_first", lambda: MaskedMultiHead(_causal_mask, batch_first=False)),
    plain("torch_mha_cross", CrossMultiHead),
    plain("torch_encoder", Encoder),
    plain("torch_encoder_causal", lambda: Encoder(causal=True)),
    plain("torch_encoder_padded", lambda: Encoder(padded=True)),
    plain("torch_encoder_norm_first", lambda: Encoder(causal=True, padded=True, norm_first=True)),
    plain("torch_decoder", Decoder),
    plain("torch_decoder_plain", lambda: Decoder(causal=False, padded=False)),
    plain("torch_transformer", EncoderDecoder),
]
