"""NumPy arrays to and from ONNX Runtime and PyTorch, bfloat16 included, which neither gives to NumPy itself."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

if TYPE_CHECKING:
    import torch

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def to_ort(array: np.ndarray) -> onnxruntime.OrtValue:
    """An OrtValue on the CPU; it shares the array's memory where the array is contiguous."""
    if array.dtype == BFLOAT16:
        bits = np.asarray(array, order="C").view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))


def from_ort(value: onnxruntime.OrtValue) -> np.ndarray:
    """The array of an OrtValue on the CPU."""
    if value.element_type() != onnx.TensorProto.BFLOAT16:
        return value.numpy()
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, BFLOAT16).reshape(value.shape())


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A tensor with its own copy of the array."""
    import torch

    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values on the CPU."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()
