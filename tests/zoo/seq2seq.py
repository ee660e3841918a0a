"""Models of `transformers` with an encoder and a decoder: whole, and their decoders while they generate.

While they generate they have a growing cache of their own and a still one of the encoder. The encoder's keys and values
come as inputs then, as an inference server keeps them; the encoder itself is not in the file.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from tests.zoo.pretrained import SEQ2SEQ, spec, without_cache
from tests.zoo.spec import BATCH_AND_LENGTH, Dynamic, Inputs, Spec, right_padding, text, token_ids

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
_HEADS, _HEAD_SIZE, _NEW, _ENCODED = 4, 8, 3, 10


def _pair(batch: int, length: int) -> Inputs:
    return {**text(batch, length), "decoder_input_ids": token_ids(batch, length - 4)}


def _pair_dims(name: str) -> Dynamic:
    return {0: "batch", 1: "decoder_length"} if name.startswith("decoder") else BATCH_AND_LENGTH


def _caches(batch: int, length: int) -> Inputs:
    """Three new tokens after length - 3 past ones, beside an encoder's ten."""
    generator = torch.Generator().manual_seed(length)
    rows = {"past": length - _NEW, "cross": _ENCODED}
    return {
        f"{whose}_{kind}": torch.randn(batch, _HEADS, rows[whose], _HEAD_SIZE, generator=generator)
        for whose in rows
        for kind in ("key", "value")
    }


def _next_tokens(batch: int, length: int) -> Inputs:
    return {"decoder_input_ids": token_ids(batch, _NEW), **_caches(batch, length)}


def _next_tokens_and_mask(batch: int, length: int) -> Inputs:
    return {**_next_tokens(batch, length), "attention_mask": right_padding(batch, _ENCODED)}


def _cache_dims(name: str) -> Dynamic:
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


def _whole(name: str, model: str, config: str, arguments: dict[str, Any]) -> Spec:
    return spec(name, model, config, arguments, inputs=_pair, dynamic=_pair_dims, call=without_cache)


def _generating(
    name: str, model: str, config: str, arguments: dict[str, Any], inputs: Any = _next_tokens_and_mask
) -> Spec:
    return spec(name, model, config, arguments, inputs=inputs, dynamic=_cache_dims, call=_with_caches)


SPECS = [
    _whole("t5", "T5ForConditionalGeneration", "T5Config", _T5),
    _whole("bart", "BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    _whole("mbart", "MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ),
    _whole("marian", "MarianMTModel", "MarianConfig", SEQ2SEQ),
    _generating("t5_cache", "T5ForConditionalGeneration", "T5Config", _T5),
    _generating("bart_cache", "BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    _generating("whisper_cache", "WhisperForConditionalGeneration", "WhisperConfig", _WHISPER, _next_tokens),
]
