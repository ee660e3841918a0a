"""Text encoders of `transformers`."""

from __future__ import annotations

import torch

from tests.zoo.pretrained import ENCODER, SPECIAL_TOKENS, spec
from tests.zoo.spec import Inputs, text

_BLOCK_SPARSE = "block-sparse: products of blocks, not of all queries and keys"


def _with_boxes(batch: int, length: int) -> Inputs:
    generator = torch.Generator().manual_seed(length)
    corner = torch.randint(0, 32, (batch, length, 2), generator=generator)
    extent = torch.randint(0, 32, (batch, length, 2), generator=generator)
    return {**text(batch, length), "bbox": torch.cat([corner, corner + extent], -1)}


def _perceiver_inputs(batch: int, length: int) -> Inputs:
    inputs = torch.randn(batch, length, 24, generator=torch.Generator().manual_seed(length))
    return {"inputs": inputs, "attention_mask": text(batch, length)["attention_mask"]}


SPECS = [
    spec("bert", "BertModel", "BertConfig", ENCODER),
    spec("roberta", "RobertaModel", "RobertaConfig", ENCODER),
    spec("albert", "AlbertModel", "AlbertConfig", {**ENCODER, "embedding_size": 16}),
    spec("electra", "ElectraModel", "ElectraConfig", {**ENCODER, "embedding_size": 32}),
    spec("mpnet", "MPNetModel", "MPNetConfig", ENCODER, implementations=("eager",)),
    spec("layoutlm", "LayoutLMModel", "LayoutLMConfig", ENCODER),
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
            **ENCODER,
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
        {**ENCODER, **SPECIAL_TOKENS, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    spec(
        "longformer",
        "LongformerModel",
        "LongformerConfig",
        {**ENCODER, "attention_window": [8, 8]},
        implementations=("eager",),
        lengths=(16, 24),
        unfusable=_BLOCK_SPARSE,
    ),
    spec(
        "bigbird",
        "BigBirdModel",
        "BigBirdConfig",
        {
            **ENCODER,
            "attention_type": "block_sparse",
            "block_size": 4,
            "num_random_blocks": 1,
            "max_position_embeddings": 128,
        },
        implementations=("eager",),
        lengths=(64, 72),
        unfusable=_BLOCK_SPARSE,
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
        implementations=("eager",),
    ),
    spec(
        "clip_text",
        "CLIPTextModel",
        "CLIPTextConfig",
        {**ENCODER, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1},
    ),
    spec(
        "esm",
        "EsmModel",
        "EsmConfig",
        {**ENCODER, "position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 2},
    ),
    spec(
        "mobilebert",
        "MobileBertModel",
        "MobileBertConfig",
        {**ENCODER, "embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    spec(
        "xlnet",
        "XLNetModel",
        "XLNetConfig",
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 50},
        implementations=("eager",),
    ),
    spec(
        "layoutlmv3",
        "LayoutLMv3Model",
        "LayoutLMv3Config",
        {
            **ENCODER,
            "visual_embed": False,
            "coordinate_size": 6,
            "shape_size": 4,
            "has_relative_attention_bias": True,
            "has_spatial_attention_bias": True,
            "max_2d_position_embeddings": 64,
        },
        inputs=_with_boxes,
        implementations=("eager",),
    ),
]
