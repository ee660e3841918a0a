"""The zoo as ONNX files, exported once and kept under build/zoo."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import timm
import torch
import transformers

from flashonnx.files import replacing, write_text
from tests.zoo import (
    audio,
    cached,
    decoders,
    encoders,
    exporters,
    handwritten,
    modules,
    pretrained,
    seq2seq,
    spec,
    timm_models,
    vision,
)
from tests.zoo.exporters import EXPORTERS
from tests.zoo.spec import Spec

FOLDER = Path(__file__).parents[2] / "build" / "zoo"

_HOMES: tuple[ModuleType, ...] = (
    encoders,
    decoders,
    seq2seq,
    cached,
    vision,
    timm_models,
    audio,
    modules,
    handwritten,
)
_HOME_OF: dict[str, ModuleType] = {model.name: home for home in _HOMES for model in home.SPECS}
SPECS: dict[str, Spec] = {model.name: model for home in _HOMES for model in home.SPECS}

# One or more of every form of attention, for what float16 changes: casts, fill values, tolerances.
_HALF_PRECISION = {
    "bert",
    "deberta_v2",
    "modernbert",
    "gpt2",
    "bloom",
    "llama",
    "mistral",
    "gemma2",
    "falcon",
    "gpt_oss",
    "deepseek_v3",
    "t5",
    "bart",
    "llama_cache",
    "vit",
    "swin",
    "timm_swinv2",
    "torch_mha",
    "torch_mha_causal_padded",
    "torch_encoder_padded",
    "torch_sdpa_grouped",
    "torch_sdpa_bool_square",
    "torch_sdpa_float_mask",
    "torch_einsum",
    "torch_softcap",
    "torch_float_softmax",
    "torch_bmm",
}


class ExportError(Exception):
    """PyTorch's exporter does not take this model."""


@dataclass(frozen=True)
class Variant:
    """One file of the zoo: a model, its attention implementation, an exporter and a dtype."""

    name: str
    implementation: str
    exporter: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name}-{self.implementation}-{self.exporter}-{self.dtype}"

    @property
    def spec(self) -> Spec:
        return SPECS[self.name]

    @property
    def path(self) -> Path:
        """Where its file is kept; changes with the libraries and with what the spec is made of."""
        return FOLDER / _key(_HOME_OF[self.name]) / f"{self}.onnx"

    def feeds(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """The spec's own inputs as arrays."""
        tensors = exporters.inputs(self.spec, batch, length, self.dtype)
        return {name: tensor.numpy() for name, tensor in tensors.items()}


def variants() -> Iterator[Variant]:
    """The whole zoo: every model in float32, then some of every form in float16."""
    for dtype in exporters.DTYPES:
        for model in SPECS.values():
            if dtype == "float32" or model.name in _HALF_PRECISION:
                for implementation in model.implementations:
                    for exporter in EXPORTERS:
                        yield Variant(model.name, implementation, exporter, dtype)


def exported(variant: Variant) -> Path:
    """The variant's file, made if it is not there. Raises ExportError, from a kept note if it failed before."""
    path, note = variant.path, failure_note(variant)
    if note.exists():
        raise ExportError(note.read_text())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as temporary:
                exporters.export(variant.spec, variant.implementation, variant.exporter, variant.dtype, temporary)
        except Exception as error:  # the exporters raise all kinds
            write_text(note, _root_cause(error))
            raise ExportError(note.read_text()) from error
    return path


def failure_note(variant: Variant) -> Path:
    """The file that says why the variant does not export."""
    return variant.path.with_suffix(".failed")


@cache
def _key(home: ModuleType) -> str:
    # Once a run, so that editing the zoo meanwhile changes nothing.
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (spec, pretrained, exporters, home))
    versions = f"torch{torch.__version__}-transformers{transformers.__version__}-timm{timm.__version__}"
    return f"{versions}-{hashlib.sha256(sources).hexdigest()[:8]}"


def _root_cause(error: BaseException) -> str:
    """One line: the exporters wrap what went wrong in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
