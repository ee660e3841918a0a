"""Models of `transformers` with an encoder and a decoder."""

from __future__ import annotations

from tests.zoo.pretrained import SEQ2SEQ, spec, without_cache
from tests.zoo.spec import BATCH_AND_LENGTH, Dynamic, Inputs, text, token_ids


def _pair(batch: int, length: int) -> Inputs:
    return {**text(batch, length), "decoder_input_ids": token_ids(batch, length - 4)}


def _pair_dims(name: str) -> Dynamic:
    return {0: "batch", 1: "decoder_length"} if name.startswith("decoder") else BATCH_AND_LENGTH


SPECS = [
    spec(name, model, config, arguments, inputs=_pair, dynamic=_pair_dims, call=without_cache)
    for name, model, config, arguments in [
        (
            "t5",
            "T5ForConditionalGeneration",
            "T5Config",
            {
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 1,
                "num_decoder_layers": 1,
                "num_heads": 4,
                "vocab_size": 50,
                "decoder_start_token_id": 0,
            },
        ),
        ("bart", "BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
        ("mbart", "MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ),
        ("marian", "MarianMTModel", "MarianConfig", SEQ2SEQ),
    ]
]
