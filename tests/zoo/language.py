"""Language models of `transformers`, small and with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.spec import BATCH_AND_LENGTH, Dynamic, Inputs, Positional, Spec, text, token_ids, with_random_weights

_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
_GROUPED = {**_ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_HEAD_8 = {**_GROUPED, "head_dim": 8}
_SEQ2SEQ = {
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
_SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
# Mixture-of-experts layers whose loops over experts do not export otherwise.
_BATCHED_EXPERTS = {"experts_implementation": "batched_mm"}


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


def _perceiver_inputs(batch: int, length: int) -> Inputs:
    return {"inputs": torch.randn(batch, length, 24), "attention_mask": text(batch, length)["attention_mask"]}


ENCODERS = [
    spec("bert", "BertModel", "BertConfig", _ENCODER),
    spec("roberta", "RobertaModel", "RobertaConfig", _ENCODER),
    spec("albert", "AlbertModel", "AlbertConfig", {**_ENCODER, "embedding_size": 16}),
    spec("electra", "ElectraModel", "ElectraConfig", {**_ENCODER, "embedding_size": 32}),
    spec("mpnet", "MPNetModel", "MPNetConfig", _ENCODER),
    spec("layoutlm", "LayoutLMModel", "LayoutLMConfig", _ENCODER),
    spec(
        "distilbert",
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50, "max_position_embeddings": 64},
    ),
    spec(
        "deberta_v2",
        "DebertaV2Model",
        "DebertaV2Config",
        {
            **_ENCODER,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "max_relative_positions": -1,
        },
        implementations=("eager",),
    ),
    spec(
        "modernbert",
        "ModernBertModel",
        "ModernBertConfig",
        {**_ENCODER, **_SPECIAL_TOKENS, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    spec(
        "longformer",
        "LongformerModel",
        "LongformerConfig",
        {**_ENCODER, "attention_window": [8, 8]},
        implementations=("eager",),
        lengths=(16, 24),
    ),
    spec(
        "bigbird",
        "BigBirdModel",
        "BigBirdConfig",
        {
            **_ENCODER,
            "attention_type": "block_sparse",
            "block_size": 4,
            "num_random_blocks": 1,
            "max_position_embeddings": 128,
        },
        implementations=("eager",),
        lengths=(64, 72),
    ),
    spec(
        "perceiver",
        "PerceiverModel",
        "PerceiverConfig",
        {
            "num_latents": 6,
            "d_latents": 32,
            "d_model": 24,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
        },
        inputs=_perceiver_inputs,
    ),
    spec(
        "clip_text",
        "CLIPTextModel",
        "CLIPTextConfig",
        {**_ENCODER, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1},
    ),
]

DECODERS = [
    spec(name, f"{family}ForCausalLM", f"{family}Config", arguments, call=without_cache, **rest)
    for name, family, arguments, rest in [
        ("gpt_neox", "GPTNeoX", _ENCODER, {}),
        ("gptj", "GPTJ", {**_GPT, "rotary_dim": 4}, {"implementations": ("eager",)}),
        (
            "opt",
            "OPT",
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "ffn_dim": 48,
                "vocab_size": 50,
                "max_position_embeddings": 64,
                "word_embed_proj_dim": 32,
            },
            {},
        ),
        (
            "bloom",
            "Bloom",
            {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50},
            {"implementations": ("eager",)},
        ),
        ("llama", "Llama", _GROUPED, {}),
        ("mistral", "Mistral", {**_HEAD_8, "sliding_window": 4}, {}),
        ("qwen2", "Qwen2", _GROUPED, {}),
        ("qwen3", "Qwen3", _HEAD_8, {}),
        ("gemma2", "Gemma2", {**_HEAD_8, "sliding_window": 4, "query_pre_attn_scalar": 8}, {}),
        ("phi3", "Phi3", _GROUPED, {}),
        (
            "falcon",
            "Falcon",
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 50,
                "multi_query": True,
                "parallel_attn": True,
                "alibi": False,
            },
            {},
        ),
        (
            "falcon_alibi",
            "Falcon",
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 50,
                "multi_query": False,
                "parallel_attn": False,
                "alibi": True,
            },
            {},
        ),
        (
            "mpt",
            "Mpt",
            {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 50, "max_seq_len": 64},
            {"implementations": ("eager",)},
        ),
        (
            "mixtral",
            "Mixtral",
            {**_GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1},
            {"options": _BATCHED_EXPERTS},
        ),
        (
            "gpt_oss",
            "GptOss",
            {
                **_HEAD_8,
                "sliding_window": 4,
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            {"options": _BATCHED_EXPERTS, "implementations": ("eager",)},
        ),
        (
            "deepseek_v3",
            "DeepseekV3",
            {
                **_GROUPED,
                "num_key_value_heads": 4,
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "head_dim": 4,
                "n_routed_experts": 4,
                "n_group": 2,
                "topk_group": 1,
                "num_experts_per_tok": 1,
                "moe_intermediate_size": 16,
                "first_k_dense_replace": 2,
            },
            {"options": _BATCHED_EXPERTS},
        ),
    ]
] + [
    spec("gpt2", "GPT2LMHeadModel", "GPT2Config", _GPT, call=without_cache),
    spec(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**_HEAD_8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        call=without_cache,
    ),
]


def _pair(batch: int, length: int) -> Inputs:
    return {**text(batch, length), "decoder_input_ids": token_ids(batch, length - 4)}


def _pair_dims(name: str) -> Dynamic:
    return {0: "batch", 1: "decoder_length"} if name.startswith("decoder") else BATCH_AND_LENGTH


SEQ2SEQ = [
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
        ("bart", "BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
        ("mbart", "MBartForConditionalGeneration", "MBartConfig", _SEQ2SEQ),
        ("marian", "MarianMTModel", "MarianConfig", _SEQ2SEQ),
    ]
]

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


CACHED = [
    spec(
        "llama_cache",
        "LlamaForCausalLM",
        "LlamaConfig",
        _GROUPED,
        inputs=_cached_inputs,
        dynamic=_cached_dims,
        call=_with_cache,
    ),
    spec(
        "qwen3_cache",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        _HEAD_8,
        inputs=_cached_inputs,
        dynamic=_cached_dims,
        call=_with_cache,
    ),
]

LANGUAGE = [*ENCODERS, *DECODERS, *SEQ2SEQ, *CACHED]
