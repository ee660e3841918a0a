"""Language models that take a cache of keys and values and return the grown one."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from tests.zoo.pretrained import GROUPED, HEAD_8, spec
from tests.zoo.spec import BATCH_AND_LENGTH, Dynamic, Inputs, token_ids

_CACHE_LAYERS = 2


def _cached_inputs(batch: int, length: int) -> Inputs:
    """Three new tokens after length - 3 past ones, the first two of the last entry being padding."""
    past = length - 3
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, :2] = 0
    inputs = {
        "input_ids": token_ids(batch, 3),
        "attention_mask": mask,
        "position_ids": torch.arange(past, length)[None].repeat(batch, 1),
    }
    generator = torch.Generator().manual_seed(length)
    for layer in range(_CACHE_LAYERS):
        for kind in ("key", "value"):
            inputs[f"past_{kind}_{layer}"] = torch.randn(batch, 2, past, 8, generator=generator)
    return inputs


def _cached_dims(name: str) -> Dynamic:
    if name.startswith("past"):
        return {0: "batch", 2: "past"}
    return {0: "batch", 1: "total"} if name == "attention_mask" else BATCH_AND_LENGTH


def _with_cache(model: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Logits, then the grown keys and values of every layer."""
    past = [(inputs.pop(f"past_key_{layer}"), inputs.pop(f"past_value_{layer}")) for layer in range(_CACHE_LAYERS)]
    output = model(**inputs, past_key_values=transformers.DynamicCache(past), use_cache=True)
    layers = output.past_key_values.layers
    return (output.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


SPECS = [
    spec(
        "llama_cache",
        "LlamaForCausalLM",
        "LlamaConfig",
        GROUPED,
        inputs=_cached_inputs,
        dynamic=_cached_dims,
        call=_with_cache,
    ),
    spec(
        "qwen3_cache",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        HEAD_8,
        inputs=_cached_inputs,
        dynamic=_cached_dims,
        call=_with_cache,
    ),
]
