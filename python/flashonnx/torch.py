"""torch.ops.flashonnx.flash_attention: the op in PyTorch, by the same library; registered by importing this module.

    flash_attention(q, k, v, attn_mask=None, *, is_causal=False, scale=None, softcap=0.0,
                    left_window_size=-1, right_window_size=-1) -> y

q is (B, Hq, S, D), k is (B, Hkv, T, D), v is (B, Hkv, T, Dv), y is (B, Hq, S, Dv); Hkv divides Hq, and query head h
reads KV head h // (Hq // Hkv). attn_mask, bool (True may attend) or of q's dtype (added to the scores), broadcasts to
(B, Hq, S, T). Semantics are those of ONNX Attention, opset 25: the causal mask lets query i see keys 0..i; a query
that may see no key gives 0. float32, float16, bfloat16 and float64: on the CPU by as many threads as
torch.get_num_threads() says, on a GPU on torch's current stream. Tensors may be strided in any way. Forward only:
backward() raises.

Raises ValueError, which names the input, what it was and what is allowed. Inside torch.compile and torch.onnx.export
the op stays one node (`flashonnx.exporter.translation_table`).
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto

from flashonnx import contract, native

_ELEMENT_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.bool: TensorProto.BOOL,
    torch.int64: TensorProto.INT64,
}
_DEFAULTS = {attribute.name: attribute.default for attribute in contract.ATTRIBUTES}

torch.library.define(
    f"{contract.DOMAIN}::flash_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor? attn_mask=None, *, bool is_causal=False, float? scale=None, "
    f"float softcap={_DEFAULTS['softcap']}, int left_window_size={_DEFAULTS['left_window_size']}, "
    f"int right_window_size={_DEFAULTS['right_window_size']}) -> Tensor",
)


@torch.library.impl(f"{contract.DOMAIN}::flash_attention", ["CPU", "CUDA"])
def _flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    **attributes: Any,
) -> torch.Tensor:
    _check_devices(q, k, v, attn_mask)
    if q.dim() != 4 or v.dim() != 4:  # elsewhere the op also takes rank 3, with numbers of heads as attributes
        raise ValueError(f"q and v must be (B, H, S, D), of rank 4; they are of rank {q.dim()} and {v.dim()}")
    tensors = {"Q": _unit_stride(q), "K": _unit_stride(k), "V": _unit_stride(v)}
    if attn_mask is not None:
        tensors["attn_mask"] = attn_mask if _has_unit_or_zero_stride(attn_mask) else attn_mask.contiguous()
    inputs = {name: _native(tensor) for name, tensor in tensors.items()}
    y = q.new_empty((q.shape[0], q.shape[1], q.shape[2], v.shape[3]))
    native.run(inputs, {"Y": _native(y)}, attributes, num_threads=torch.get_num_threads(), cuda=_cuda(q))
    return y


def _cuda(q: torch.Tensor) -> native.Cuda | None:
    if not q.is_cuda:
        return None
    return native.Cuda(q.device.index, torch.cuda.current_stream(q.device).cuda_stream)


@torch.library.register_fake(f"{contract.DOMAIN}::flash_attention")
def _flash_attention_shape(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, **attributes: Any
) -> torch.Tensor:
    _check_devices(q, k, v, attn_mask)
    torch._check(q.dim() == 4 and k.dim() == 4 and v.dim() == 4, lambda: "q, k and v must be of rank 4, (B, H, S, D)")
    return q.new_empty((q.shape[0], q.shape[1], q.shape[2], v.shape[3]))


def _check_devices(q: torch.Tensor, *others: torch.Tensor | None) -> None:
    """A pointer says nothing of the device that it belongs to."""
    devices = [tensor.device for tensor in others if tensor is not None]
    if any(device != q.device for device in devices):
        raise ValueError(f"q is on {q.device}, other inputs are on {', '.join(map(str, devices))}; allowed: one device")


def _backward(context: Any, *gradients: Any) -> Any:
    raise NotImplementedError("flashonnx.flash_attention has no backward pass; call it under torch.no_grad()")


torch.library.register_autograd(f"{contract.DOMAIN}::flash_attention", _backward)


def _unit_stride(tensor: torch.Tensor) -> torch.Tensor:
    """The kernels read rows of consecutive elements; every other stride is free."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _has_unit_or_zero_stride(mask: torch.Tensor) -> bool:
    return mask.dim() > 0 and mask.stride(-1) in (0, 1)


def _native(tensor: torch.Tensor) -> native.NativeTensor:
    if tensor.dtype not in _ELEMENT_TYPES:
        raise ValueError(f"a tensor of {tensor.dtype} is no input of the op")
    return native.NativeTensor(tensor.data_ptr(), _ELEMENT_TYPES[tensor.dtype], tensor.shape, tensor.stride())
