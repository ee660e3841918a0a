"""`flashonnx.export`: from a PyTorch module to a fused ONNX file.

torch.onnx.export decomposes scaled_dot_product_attention into a dozen nodes at opset 18 and into ONNX Attention at 23.
The translation table here keeps it one FlashAttention node instead. Attention that the module spells out itself is
found by `flashonnx.fuse` afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from onnx.defs import OpSchema
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
from onnxscript.onnx_opset import opset18
from onnxscript.values import Op, Opset

import flashonnx.torch  # noqa: F401  registers torch.ops.flashonnx.flash_attention
from flashonnx import contract, schema
from flashonnx.files import replacing

if TYPE_CHECKING:
    from flashonnx.fusion import FuseResult


def _with_y_only() -> OpSchema:
    """The op's schema without optional outputs and defaults, of which onnxscript would write all into every node."""
    full = schema.register()
    return OpSchema(
        full.name,
        full.domain,
        full.since_version,
        inputs=full.inputs,
        outputs=full.outputs[:1],
        type_constraints=[(c.type_param_str, c.allowed_type_strs, "") for c in full.type_constraints],
        attributes=[OpSchema.Attribute(a.name, a.type, required=False) for a in full.attributes.values()],
    )


_FlashAttention = Op(Opset(contract.DOMAIN, contract.SINCE_VERSION), contract.OP_TYPE, _with_y_only())


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any],
    path: str | Path,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int | None = None,
    **fuse_options: Any,
) -> FuseResult:
    """Exports a module with attention as FlashAttention nodes and writes the ONNX file.

    Args:
        module: what to export; put it into eval() mode before.
        args, kwargs: example inputs, as the module takes them.
        path: the file to write. It appears whole or not at all; weights over 2 GB go to `<path>.data` beside it.
        dynamic_shapes, input_names, output_names, opset_version: as in torch.onnx.export.
        fuse_options: keyword arguments of `flashonnx.fuse`, such as `portable` and `verify`.

    Returns:
        The fused model and the report of its attention sites.

    Raises:
        torch.onnx.OnnxExporterError: the module cannot be exported.
        OSError: the file cannot be written.
    """
    from flashonnx.fusion import fuse

    target = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        exported = Path(folder) / target.name
        export_unfused(
            module,
            args,
            exported,
            kwargs=kwargs,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            opset_version=opset_version,
            custom_translation_table=translation_table(),
        )
        result = fuse(exported, **fuse_options)
        result.save(target)
    return result


def export_unfused(
    module: torch.nn.Module | torch.export.ExportedProgram, args: Sequence[Any], path: str | Path, **options: Any
) -> None:
    """torch.onnx.export(dynamo=True) with its keyword arguments; no chatter, and the file is whole or absent."""
    options = {name: value for name, value in options.items() if value is not None}
    with replacing(path) as temporary:
        program = torch.onnx.export(module, tuple(args), dynamo=True, verbose=False, **options)
        assert program is not None  # of dynamo=True
        program.save(temporary)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's `custom_translation_table`: attention operators to FlashAttention nodes."""
    return {
        torch.ops.aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
        torch.ops.flashonnx.flash_attention.default: _flash_attention,
    }


def _scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """PyTorch's causal mask lets query i see keys 0..i, as FlashAttention's does without a past.

    Dropout is left out, as torch.onnx.export leaves it: what it writes does nothing outside of training.
    """
    if len(query.shape) not in (3, 4):
        return aten_scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if len(query.shape) == 4:
        return _flash_attention(query, key, value, attn_mask, is_causal, scale)
    # (B, S, D): one head each. A mask of rank 3 has the batch where the op has the heads' axis.
    axis: Any = opset18.Constant(value_ints=[1])
    query, key, value = (opset18.Unsqueeze(tensor, axis) for tensor in (query, key, value))
    if attn_mask is not None and len(attn_mask.shape) == 3:
        attn_mask = opset18.Unsqueeze(attn_mask, axis)
    return opset18.Squeeze(_flash_attention(query, key, value, attn_mask, is_causal, scale), axis)


def _flash_attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    left_window_size: int = -1,
    right_window_size: int = -1,
) -> Any:
    """One node; attributes that have their default value are left out."""
    attributes: dict[str, Any] = {}
    if is_causal:
        attributes["is_causal"] = 1
    if scale is not None:
        attributes["scale"] = float(scale)
    if softcap:
        attributes["softcap"] = float(softcap)
    if left_window_size >= 0:
        attributes["left_window_size"] = left_window_size
    if right_window_size >= 0:
        attributes["right_window_size"] = right_window_size
    inputs = (q, k, v) if attn_mask is None else (q, k, v, attn_mask)
    return _FlashAttention(*inputs, **attributes)
