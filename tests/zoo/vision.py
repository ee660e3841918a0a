"""Image models of `transformers`."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

from tests.zoo.pretrained import build, first_tensor, spec
from tests.zoo.spec import BATCH, Spec, image, same_for_all

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_IMAGE = {"inputs": image(32), "dynamic": same_for_all(BATCH)}


def _detr(implementation: str) -> nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=5,
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
    )
    chosen: Any = {"": implementation, "backbone_config": "eager"}
    return build("DetrModel", config, ["pixel_values"], first_tensor, {}, chosen)


SPECS = [
    spec("vit", "ViTModel", "ViTConfig", _VIT, **_IMAGE),
    spec("deit", "DeiTModel", "DeiTConfig", _VIT, **_IMAGE),
    spec("beit", "BeitModel", "BeitConfig", {**_VIT, "use_relative_position_bias": True}, **_IMAGE),
    spec(
        "dinov2",
        "Dinov2Model",
        "Dinov2Config",
        {k: v for k, v in {**_VIT, "mlp_ratio": 2}.items() if k != "intermediate_size"},
        **_IMAGE,
    ),
    spec("dinov3", "DINOv3ViTModel", "DINOv3ViTConfig", _VIT, **_IMAGE),
    spec("clip_vision", "CLIPVisionModel", "CLIPVisionConfig", _VIT, **_IMAGE),
    spec("siglip_vision", "SiglipVisionModel", "SiglipVisionConfig", _VIT, **_IMAGE),
    spec(
        "swin",
        "SwinModel",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        **_IMAGE,
    ),
    spec(
        "swinv2",
        "Swinv2Model",
        "Swinv2Config",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        implementations=("eager",),
        **_IMAGE,
    ),
    spec(
        "sam_vision",
        "SamVisionModel",
        "SamVisionConfig",
        {**_VIT, "image_size": 64, "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 48},
        inputs=image(64),
        dynamic=same_for_all(BATCH),
    ),
    spec(
        "segformer",
        "SegformerModel",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "num_encoder_blocks": 2,
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
        },
        implementations=("eager",),
        **_IMAGE,
    ),
    Spec("detr", _detr, image(64), dynamic=same_for_all(BATCH)),
]
