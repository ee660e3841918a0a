"""Models of `transformers`, small and with random weights: how they are built, and sizes that many share."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.spec import Inputs, Positional, Spec, text, with_random_weights

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
GROUPED = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEAD_8 = {**GROUPED, "head_dim": 8}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
# Mixture-of-experts layers whose loops over experts do not export otherwise.
BATCHED_EXPERTS = {"experts_implementation": "batched_mm"}


def first_tensor(model: nn.Module, inputs: Inputs, **arguments: Any) -> torch.Tensor:
    """The logits, or the last hidden state, or whatever comes first."""
    output = model(**inputs, **arguments)
    for name in ("logits", "last_hidden_state", "image_embeds"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return output[0]


def without_cache(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    return first_tensor(model, inputs, use_cache=False)


def build(
    model: str, config: Any, names: list[str], call: Any, options: dict[str, Any], implementation: str
) -> nn.Module:
    torch.manual_seed(0)
    module = getattr(transformers, model)._from_config(config, attn_implementation=implementation, **options).eval()
    return with_random_weights(Positional(module, names, call))


def spec(
    name: str,
    model: str,
    config: str,
    arguments: dict[str, Any],
    *,
    inputs: Any = text,
    call: Any = first_tensor,
    options: dict[str, Any] | None = None,
    **rest: Any,
) -> Spec:
    def make(implementation: str) -> nn.Module:
        names = list(inputs(2, rest.get("lengths", (12, 9))[0]))
        return build(model, getattr(transformers, config)(**arguments), names, call, options or {}, implementation)

    return Spec(name, make, inputs, **rest)
