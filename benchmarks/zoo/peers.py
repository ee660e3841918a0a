"""What others' optimizers fuse: onnxscript's for ONNX Runtime, and ONNX Runtime's own for transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir
from onnxruntime.transformers import optimizer
from onnxscript.rewriter.ort_fusions import optimize_for_ort

# ONNX Runtime's model_type for the zoo's families; "bert" is its default, for all others too.
_MODEL_TYPES = {
    "bart": "bart",
    "mbart": "bart",
    "marian": "bart",
    "whisper": "bart",
    "clip_text": "clip",
    "clip_vision": "clip",
    "gpt2": "gpt2",
    "gpt_neo": "gpt2",
    "gpt_bigcode": "gpt2",
    "gptj": "gpt2",
    "llama": "gpt2",
    "llama_cache": "gpt2",
    "mistral": "gpt2",
    "qwen2": "gpt2",
    "gpt_neox": "gpt_neox",
    "phi": "phi",
    "qwen3": "qwen3",
    "qwen3_cache": "qwen3",
    "sam_vision": "sam2",
    "timm_samvit": "sam2",
    "t5": "t5",
    "wav2vec2": "conformer",
    **dict.fromkeys(("swin", "swinv2", "timm_swin", "timm_swinv2"), "swin"),
    **dict.fromkeys(("vit", "deit", "beit", "dinov2", "dinov3", "siglip_vision", "timm_vit", "timm_deit3"), "vit"),
}
# Most of the zoo's models have these; elsewhere the optimizer finds out, or keeps to its own.
_HEADS, _WIDTH = 4, 32
_ATTENTION = {
    "Attention",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "SparseAttention",
}


def model_type(model: str) -> str:
    """ONNX Runtime's name for the architecture of that model of the zoo."""
    return _MODEL_TYPES.get(model, "bert")


def _onnxscript(path: Path, model: str) -> onnx.ModelProto:
    optimized, _ = optimize_for_ort(onnx_ir.load(path))
    return onnx_ir.to_proto(optimized)


def _ort_fitting(path: Path, model: str) -> onnx.ModelProto:
    return _ort(path, model_type(model))


def _ort_default(path: Path, model: str) -> onnx.ModelProto:
    return _ort(path, "bert")


def _ort(path: Path, type_name: str) -> onnx.ModelProto:
    return optimizer.optimize_model(str(path), model_type=type_name, num_heads=_HEADS, hidden_size=_WIDTH).model


# Each takes the file and the model's name in the zoo, and returns the model that the peer makes of it.
PEERS: dict[str, Callable[[Path, str], onnx.ModelProto]] = {
    "onnxscript": _onnxscript,
    "ort": _ort_fitting,
    "ort_default": _ort_default,
}


def attention_nodes(model: onnx.ModelProto) -> int:
    """Attention operators of the standard and of ONNX Runtime, in functions and subgraphs too."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return sum(map(_count, bodies))


def _count(nodes: list[onnx.NodeProto]) -> int:
    found = sum(node.op_type in _ATTENTION for node in nodes)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    return found + sum(_count(attribute.g.node) for attribute in attributes if attribute.HasField("g"))
