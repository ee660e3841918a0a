"""Speech models of `transformers`."""

from __future__ import annotations

import torch

from tests.zoo.pretrained import spec, without_cache
from tests.zoo.spec import BATCH, Dynamic, Inputs, token_ids


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


SPECS = [
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
