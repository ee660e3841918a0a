"""Image and audio models of `transformers` and timm, small and with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.language import build, first_tensor, spec, without_cache
from tests.zoo.spec import BATCH, Dynamic, Inputs, Spec, image, same_for_all, token_ids, with_random_weights

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_IMAGE = {"inputs": image(32), "dynamic": same_for_all(BATCH)}


def _audio(batch: int, length: int) -> Inputs:
    """Raw samples, 20 for each frame of the model; the last four frames are padding."""
    generator = torch.Generator().manual_seed(length)
    mask = torch.ones(batch, 20 * length, dtype=torch.int64)
    mask[:, -80:] = 0
    return {"input_values": torch.randn(batch, 20 * length, generator=generator), "attention_mask": mask}


def _speech(batch: int, length: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, 8, 32, generator=generator)
    return {"input_features": features, "decoder_input_ids": token_ids(batch, length - 4)}


def _speech_dims(name: str) -> Dynamic:
    return BATCH if name == "input_features" else {0: "batch", 1: "decoder_length"}


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


class _Timm(nn.Module):
    def __init__(self, name: str, **arguments: Any):
        super().__init__()
        import timm

        self.model = timm.create_model(name, pretrained=False, img_size=32, num_classes=5, **arguments)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values)


def _timm(name: str, model: str, **arguments: Any) -> Spec:
    def make(implementation: str) -> nn.Module:
        torch.manual_seed(0)
        return with_random_weights(_Timm(model, **arguments))

    return Spec(name, make, implementations=("torch",), **_IMAGE)


_TIMM_SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}

VISION = [
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
    _timm("timm_vit", "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=4),
    _timm("timm_swin", "swin_tiny_patch4_window7_224", **_TIMM_SWIN),
    _timm("timm_swinv2", "swinv2_tiny_window8_256", **_TIMM_SWIN),
]

AUDIO = [
    spec(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 50,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
        },
        inputs=_speech,
        dynamic=_speech_dims,
        call=without_cache,
    ),
    spec(
        "wav2vec2",
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "conv_dim": (16, 16),
            "conv_stride": (5, 4),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 4,
            "num_feat_extract_layers": 2,
            "feat_extract_norm": "layer",
            "vocab_size": 40,
        },
        inputs=_audio,
    ),
]
