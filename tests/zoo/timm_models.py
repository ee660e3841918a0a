"""Image models of timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.zoo.spec import BATCH, Spec, image, same_for_all, with_random_weights


class _Timm(nn.Module):
    def __init__(self, name: str, **arguments: Any):
        super().__init__()
        import timm

        self.model = timm.create_model(name, pretrained=False, num_classes=5, **arguments)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values)


def _timm(name: str, model: str, size: int = 32, unfusable: str = "", **arguments: Any) -> Spec:
    """The model for square images of that size; 224 is what every timm model takes without being told."""

    def make(implementation: str) -> nn.Module:
        torch.manual_seed(0)
        sized = arguments if size == 224 else {"img_size": size, **arguments}
        return with_random_weights(_Timm(model, **sized))

    return Spec(name, make, image(size), dynamic=same_for_all(BATCH), implementations=("torch",), unfusable=unfusable)


_SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
_WINDOWS = {"patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}

SPECS = [
    _timm("timm_vit", "vit_tiny_patch16_224", **_SMALL),
    _timm("timm_vit_relpos", "vit_relpos_small_patch16_224", **_SMALL),
    _timm("timm_vit_rope", "vit_small_patch16_rope_224", **_SMALL),
    _timm("timm_naflexvit", "naflexvit_base_patch16_gap", **{**_SMALL, "patch_size": 16}),
    _timm("timm_deit3", "deit3_small_patch16_224", **_SMALL),
    _timm("timm_beit", "beit_base_patch16_224", **_SMALL),
    _timm("timm_eva02", "eva02_tiny_patch14_224", **_SMALL),
    _timm(
        "timm_cait",
        "cait_xxs24_224",
        **_SMALL,
        unfusable="talking heads: products across heads on both sides of the softmax",
    ),
    _timm("timm_xcit", "xcit_nano_12_p16_224", **_SMALL),
    _timm("timm_samvit", "samvit_base_patch16", **_SMALL, global_attn_indexes=(1,), window_size=2),
    _timm("timm_pit", "pit_ti_224", patch_size=4, stride=4, base_dims=[16, 16], depth=[1, 1], heads=[2, 4]),
    _timm(
        "timm_tnt",
        "tnt_s_patch16_224",
        patch_size=16,
        embed_dim=32,
        inner_dim=16,
        depth=2,
        num_heads_inner=2,
        num_heads_outer=4,
    ),
    _timm("timm_swin", "swin_tiny_patch4_window7_224", **_WINDOWS),
    _timm("timm_swinv2", "swinv2_tiny_window8_256", **_WINDOWS),
    _timm(
        "timm_twins",
        "twins_svt_small",
        size=64,
        embed_dims=(16, 32, 32, 32),
        num_heads=(1, 2, 2, 2),
        depths=(1, 1, 1, 1),
    ),
    _timm("timm_levit", "levit_128s", size=224, embed_dim=(32, 32), num_heads=(2, 4), depth=(1, 1), key_dim=8),
]
