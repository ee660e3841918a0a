"""Real models at real sizes, with random weights, as the files that this folder times against each other."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn

from flashonnx.exporter import export_unfused
from flashonnx.fusion import fuse

OPSETS = (18, 23)
ORIGINALS = {f"ORT, opset {opset}": opset for opset in OPSETS}
FUSED = {f"flashonnx, opset {opset}": opset for opset in OPSETS}
OPTIMIZER = "ORT optimizer"

Inputs = dict[str, torch.Tensor]
Dims = dict[int, str]
Shape = tuple[int, int]  # batch, length

_BATCH_AND_LENGTH: Dims = {0: "batch", 1: "length"}


@dataclass(frozen=True)
class Model:
    """One model.

    build(): the module, which takes its inputs by position. inputs(batch, length): tensors by name, no padding.
    shapes: what is timed, (batch, length); gpu_shapes: likewise, on a GPU, where engines are tuned for the first.
    heads, hidden, kind: what onnxruntime.transformers.optimizer wants to be told; kind None where it has nothing for
    the model.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    shapes: tuple[Shape, ...]
    gpu_shapes: tuple[Shape, ...]
    heads: int
    hidden: int
    dims: Dims | None = None
    kind: str | None = None


class FirstOutput(nn.Module):
    """A model of transformers that takes its inputs by position and returns its hidden states or logits."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], **options: object):
        super().__init__()
        self.model, self.names, self.options = model, names, options

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)[0]


def _text(batch: int, length: int) -> Inputs:
    ids = torch.randint(5, 1000, (batch, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _image(batch: int, length: int) -> Inputs:
    side = length
    return {"pixel_values": torch.randn((batch, 3, side, side), generator=torch.Generator().manual_seed(0))}


def _speech(batch: int, length: int) -> Inputs:
    """30 seconds of audio, and `length` tokens written so far."""
    generator = torch.Generator().manual_seed(0)
    return {
        "input_features": torch.randn((batch, 80, 3000), generator=generator),
        "decoder_input_ids": torch.randint(5, 1000, (batch, length), generator=generator),
    }


def _transformers(
    model: str, config: object, names: tuple[str, ...], attention: str = "sdpa", **options: object
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        module = getattr(transformers, model)._from_config(config, attn_implementation=attention)
        return FirstOutput(module, names, **options).eval()

    return build


_TEXT = ("input_ids", "attention_mask")
_MINILM = transformers.BertConfig(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    max_position_embeddings=1024,
)
# The blocks of Qwen3-0.6B, 4 of its 28, and a small vocabulary: what is timed is the block.
_QWEN3 = transformers.Qwen3Config(
    vocab_size=2048,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=4,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
)
_T5 = transformers.T5Config(feed_forward_proj="relu")
_MINILM_SHAPES = tuple(
    (batch, length) for batch in (1, 8, 32) for length in (16, 64, 256, 1024) if batch < 32 or length < 1024
)

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "bert-base",
            _transformers("BertModel", transformers.BertConfig(), _TEXT),
            _text,
            ((1, 128), (8, 128), (1, 512)),
            ((8, 512), (1, 128), (1, 512), (8, 128), (32, 128)),
            12,
            768,
            _BATCH_AND_LENGTH,
            "bert",
        ),
        Model(
            "gpt2",
            _transformers("GPT2Model", transformers.GPT2Config(), _TEXT, use_cache=False),
            _text,
            ((1, 128), (1, 1024), (4, 256)),
            ((4, 1024), (1, 128), (1, 1024), (4, 256)),
            12,
            768,
            _BATCH_AND_LENGTH,
            "gpt2",
        ),
        Model(
            "vit-base",
            _transformers("ViTModel", transformers.ViTConfig(), ("pixel_values",)),
            _image,
            ((1, 224), (4, 224)),
            ((8, 224), (1, 224), (32, 224)),
            12,
            768,
            {0: "batch"},
            "vit",
        ),
        Model(
            "t5-small-encoder",
            _transformers("T5EncoderModel", _T5, _TEXT, attention="eager"),  # torch.export stumbles over sdpa here
            _text,
            ((1, 128), (8, 128), (1, 512)),
            ((8, 512), (1, 128), (1, 512), (32, 128)),
            8,
            512,
            _BATCH_AND_LENGTH,
            "t5",
        ),
        Model(
            "whisper-tiny",
            _transformers(
                "WhisperModel", transformers.WhisperConfig(), ("input_features", "decoder_input_ids"), use_cache=False
            ),
            _speech,
            ((1, 4), (1, 64)),
            ((8, 64), (1, 64)),
            6,
            384,
            None,
            "bart",
        ),
        Model(
            "qwen3-0.6b-blocks",
            _transformers("Qwen3Model", _QWEN3, _TEXT, use_cache=False),
            _text,
            ((1, 128), (1, 512), (1, 2048)),
            ((1, 2048), (1, 512), (4, 2048)),
            16,
            1024,
            _BATCH_AND_LENGTH,
            None,
        ),
        Model(
            "minilm",
            _transformers("BertModel", _MINILM, _TEXT),
            _text,
            _MINILM_SHAPES,
            ((8, 256), (1, 64), (32, 128), (32, 512)),
            12,
            384,
            _BATCH_AND_LENGTH,
            "bert",
        ),
    )
}


@dataclass(frozen=True)
class Files:
    """The model's files by contestant, and why one is missing."""

    paths: dict[str, Path]
    notes: dict[str, str]


def make_files(model: Model, folder: Path, say: Callable[[str], None]) -> Files:
    """Makes what is not there yet."""
    files: dict[str, Path] = {}
    notes: dict[str, str] = {}
    for name, opset in ORIGINALS.items():
        files[name] = make_original(model, folder, opset, say)
    for name, opset in FUSED.items():
        files[name] = _fused(model, folder, opset)
        if not files[name].exists():
            say(f"{model.name}: fusing, opset {opset}")
            fuse(folder / f"{model.name}-opset{opset}.onnx", files[name], require_all=True)
    if model.kind is not None:
        files[OPTIMIZER] = folder / f"{model.name}-optimizer.onnx"
        if not files[OPTIMIZER].exists():
            say(f"{model.name}: ONNX Runtime's transformers optimizer")
            try:
                _optimize(model, files["ORT, opset 18"], files[OPTIMIZER])
            except Exception as error:  # whatever its fusions stumble over
                notes[OPTIMIZER] = f"fails: {type(error).__name__}: {error}"
                del files[OPTIMIZER]
    return Files(files, notes)


def make_original(model: Model, folder: Path, opset: int, say: Callable[[str], None]) -> Path:
    """The exported file, made if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.name}-opset{opset}.onnx"
    if not path.exists():
        say(f"{model.name}: exporting, opset {opset}")
        _export(model, opset, path)
    return path


def remove_fused(model: Model, folder: Path) -> None:
    """For another version of the pass."""
    for opset in OPSETS:
        _fused(model, folder, opset).unlink(missing_ok=True)


def _fused(model: Model, folder: Path, opset: int) -> Path:
    return folder / f"{model.name}-opset{opset}-fused.onnx"


def _export(model: Model, opset: int, path: Path) -> None:
    batch, length = model.shapes[0]
    inputs = model.inputs(max(batch, 2), length)
    dims = {name: _dims(model, name) for name in inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own internals
        export_unfused(
            model.build(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["output"],
            opset_version=opset,
            dynamic_shapes=(tuple(dims.values()),),
        )


def _dims(model: Model, name: str) -> Dims:
    if model.dims is not None:
        return model.dims
    return {0: "batch"} if name == "input_features" else _BATCH_AND_LENGTH


def _optimize(model: Model, source: Path, target: Path) -> None:
    from onnxruntime.transformers import optimizer

    optimized = optimizer.optimize_model(
        str(source), model_type=model.kind, num_heads=model.heads, hidden_size=model.hidden, opt_level=0
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        optimized.save_model_to_file(str(Path(folder) / target.name))
        os.replace(Path(folder) / target.name, target)
