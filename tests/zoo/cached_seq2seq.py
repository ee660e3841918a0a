"""Decoders of encoder-decoder models while they generate: a growing cache of their own, a still one of the encoder.

The encoder's keys and values come as inputs, as an inference server keeps them; the encoder itself is not in the file.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from tests.zoo.pretrained import SEQ2SEQ, spec
from tests.zoo.spec import Dynamic, Inputs, right_padding, token_ids

_HEADS, _HEAD_SIZE, _NEW, _ENCODED = 4, 8, 3, 10


def _caches(batch: int, length: int) -> Inputs:
    """Three new tokens after length - 3 past ones, beside an encoder's ten."""
    generator = torch.Generator().manual_seed(length)
    rows = {"past": length - _NEW, "cross": _ENCODED}
    return {
        f"{whose}_{kind}": torch.randn(batch, _HEADS, rows[whose], _HEAD_SIZE, generator=generator)
        for whose in rows
        for kind in ("key", "value")
    }


def _inputs(batch: int, length: int) -> Inputs:
    return {"decoder_input_ids": token_ids(batch, _NEW), **_caches(batch, length)}


def _masked_inputs(batch: int, length: int) -> Inputs:
    return {**_inputs(batch, length), "attention_mask": right_padding(batch, _ENCODED)}


def _dims(name: str) -> Dynamic:
    if name.startswith(("past", "cross")):
        return {0: "batch", 2: "past" if name.startswith("past") else "encoded"}
    return {0: "batch", 1: "encoded" if name == "attention_mask" else "length"}


def _with_caches(model: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Logits, then the decoder's own grown keys and values; the encoder's stay as they are."""
    own, cross = ((inputs.pop(f"{whose}_key"), inputs.pop(f"{whose}_value")) for whose in ("past", "cross"))
    batch, _, encoded, _ = cross[0].shape
    hidden = cross[0].new_zeros(batch, encoded, model.config.d_model)  # for its shape; its keys are in the cache
    caches = (transformers.DynamicCache([own]), transformers.DynamicCache([cross]))
    output = model(
        **inputs,
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        past_key_values=transformers.EncoderDecoderCache(*caches),
        use_cache=True,
    )
    layer = output.past_key_values.self_attention_cache.layers[0]
    return output.logits, layer.keys, layer.values


def _spec(name: str, model: str, config: str, arguments: dict[str, Any], inputs: Any = _masked_inputs) -> Any:
    return spec(name, model, config, arguments, inputs=inputs, dynamic=_dims, call=_with_caches)


_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 4,
    "vocab_size": 50,
    "decoder_start_token_id": 0,
}
_WHISPER = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}

SPECS = [
    _spec("t5_cache", "T5ForConditionalGeneration", "T5Config", _T5),
    _spec("bart_cache", "BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    _spec("whisper_cache", "WhisperForConditionalGeneration", "WhisperConfig", _WHISPER, _inputs),
]
