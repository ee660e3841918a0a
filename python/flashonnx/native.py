"""The library's C interface (op/capi/flashonnx.h) from Python: run, check and ask about one FlashAttention node.

Tensors and attributes go by their names in the contract. `run_arrays` takes NumPy arrays; `run` takes bare pointers
with strides, for frameworks that own their memory.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from flashonnx import contract
from flashonnx.runtime import get_library_path

_OK, _INVALID_ARGUMENT = 0, 1
_CPU, _CUDA = 1, 2
_MAX_RANK = 4
_UNKNOWN_RANK = -1
_TEXT_SIZE = 4096

# A dimension that is not known; every number below it is a symbol: equal numbers, equal sizes (op/core/sizes.h).
UNKNOWN_DIM = -1


class UnavailableError(RuntimeError):
    """This machine or build cannot do what was asked."""


@dataclass(frozen=True)
class NativeTensor:
    """A tensor in memory that someone else keeps alive.

    `data` is an address, 0 where only the shape matters. `dtype` is an ONNX element type (onnx.TensorProto.FLOAT...).
    `shape` is None where not even the rank is known. `strides` count elements; None means contiguous.
    """

    data: int
    dtype: int
    shape: Sequence[int] | None
    strides: Sequence[int] | None = None


@dataclass(frozen=True)
class Cuda:
    """A GPU and one of its streams (a cudaStream_t's address; 0: the default stream).

    `compute_capability`, 90 for 9.0, is for `plan` alone: of the largest GPU that has it, which need not be here.
    """

    index: int = 0
    stream: int = 0
    compute_capability: int = 0


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )


class _Attribute(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


class _Node(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.POINTER(ctypes.POINTER(_Tensor))),
        ("outputs", ctypes.POINTER(ctypes.POINTER(_Tensor))),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_inputs", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("num_attributes", ctypes.c_int32),
    )


class _Device(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("compute_capability", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    )


def parse_compute_capability(text: str) -> int:
    """90 for '9.0', as `Cuda.compute_capability` has it; ValueError for anything else."""
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and len(minor) == 1):
        raise ValueError(f"{text!r} is no compute capability such as 9.0")
    return 10 * int(major) + int(minor)


def check(
    inputs: Mapping[str, NativeTensor], attributes: Mapping[str, float] | None = None, outputs: Iterable[str] = ("Y",)
) -> None:
    """Raises ValueError, with a message that says what is wrong and what is allowed, unless the op takes this node."""
    _call("flashonnx_check", _node(inputs, _placeholders(outputs), attributes))


def plan(
    inputs: Mapping[str, NativeTensor],
    attributes: Mapping[str, float] | None = None,
    outputs: Iterable[str] = ("Y",),
    *,
    cuda: Cuda | None = None,
) -> str:
    """Which kernel would run this node, on the CPU or on a GPU, and why.

    Raises:
        ValueError: the op does not take this node.
        UnavailableError: no kernel takes it, there is no such GPU, or none of the compute capability is known.
    """
    return _call("flashonnx_plan", _node(inputs, _placeholders(outputs), attributes), ctypes.byref(_device(cuda)))


def run(
    inputs: Mapping[str, NativeTensor],
    outputs: Mapping[str, NativeTensor],
    attributes: Mapping[str, float] | None = None,
    *,
    num_threads: int = 0,
    cuda: Cuda | None = None,
) -> None:
    """Computes `outputs`, which must have the shapes that `output_shape` gives.

    On `num_threads` threads of the CPU (0: all), or on a GPU: then every tensor is in its memory, and the work is
    queued on its stream when this returns.

    Raises:
        ValueError: the op does not take this node.
        UnavailableError: no kernel of this build can run it here.
    """
    device = _device(cuda, num_threads)
    _call("flashonnx_run", _node(inputs, outputs, attributes), ctypes.byref(device))


def run_arrays(
    inputs: Mapping[str, np.ndarray],
    attributes: Mapping[str, float] | None = None,
    outputs: Iterable[str] = ("Y",),
    *,
    num_threads: int = 0,
) -> dict[str, np.ndarray]:
    """As `run`, on NumPy arrays (bfloat16 by ml_dtypes), and allocates the outputs asked for by name."""
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    tensors = {name: from_array(array) for name, array in arrays.items()}
    names = list(outputs)
    results = {}
    for name in names:
        shape = output_shape(tensors, name, attributes, names)
        dtype = np.float32 if contract.OUTPUTS[contract.OUTPUT_INDEX[name]].type == "F" else arrays["Q"].dtype
        results[name] = np.empty(shape, dtype)
    run(tensors, {name: from_array(array) for name, array in results.items()}, attributes, num_threads=num_threads)
    return results


def output_shape(
    inputs: Mapping[str, NativeTensor],
    output: str,
    attributes: Mapping[str, float] | None = None,
    outputs: Iterable[str] = ("Y",),
) -> tuple[int, ...]:
    """The shape of one output, as far as the inputs' shapes tell it.

    Dimensions may be UNKNOWN_DIM or symbols, in the inputs and so in the answer. Raises ValueError as `check` does.
    """
    dims = (ctypes.c_int64 * _MAX_RANK)()
    rank = ctypes.c_int32()
    node = _node(inputs, _placeholders(outputs), attributes)
    _call("flashonnx_output_shape", node, contract.OUTPUT_INDEX[output], dims, ctypes.byref(rank))
    return tuple(dims[: rank.value])


def multiply_add(flops: int, *, num_threads: int = 0) -> int:
    """Does at least `flops` floating-point operations, two a multiply-add, on floats that stay in registers.

    On `num_threads` threads of the CPU (0: all). Returns how many it did. Timed, it tells the most that a kernel of
    float32 could reach on this machine. Raises ValueError if `flops` is negative.
    """
    done = ctypes.c_int64()
    _call("flashonnx_multiply_add", ctypes.c_int64(flops), num_threads, ctypes.byref(done))
    return done.value


def build_info() -> dict[str, Any]:
    """What the library was built with and what of it this machine can run."""
    info: dict[str, Any] = json.loads(_call("flashonnx_build_info"))
    return info


def from_array(array: np.ndarray) -> NativeTensor:
    """A contiguous array as a NativeTensor, which does not keep it alive."""
    return NativeTensor(array.ctypes.data, element_type(array.dtype), array.shape)


def element_type(dtype: np.dtype) -> int:
    """The ONNX element type of a NumPy dtype; ValueError if it has none."""
    if dtype == ml_dtypes.bfloat16:
        return onnx.TensorProto.BFLOAT16
    try:
        return onnx.helper.np_dtype_to_tensor_dtype(dtype)
    except (KeyError, ValueError):
        raise ValueError(f"arrays of {dtype} are no ONNX tensors") from None


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(get_library_path())


def _call(function: str, *arguments: Any) -> str:
    text = ctypes.create_string_buffer(_TEXT_SIZE)
    references = [ctypes.byref(a) if isinstance(a, _Node) else a for a in arguments]
    code = getattr(_library(), function)(*references, text, ctypes.c_size_t(_TEXT_SIZE))
    message = text.value.decode("utf-8", errors="replace")
    if code == _OK:
        return message
    raise ValueError(message) if code == _INVALID_ARGUMENT else UnavailableError(message)


def _device(cuda: Cuda | None, num_threads: int = 0) -> _Device:
    if cuda is None:
        return _Device(_CPU, 0, num_threads)
    return _Device(_CUDA, cuda.index, 0, cuda.compute_capability, cuda.stream)


def _placeholders(names: Iterable[str]) -> dict[str, NativeTensor]:
    """Outputs that are asked for, without memory or shape."""
    return {name: NativeTensor(0, onnx.TensorProto.UNDEFINED, None) for name in names}


def _node(
    inputs: Mapping[str, NativeTensor],
    outputs: Mapping[str, NativeTensor],
    attributes: Mapping[str, float] | None,
) -> _Node:
    given = tuple((name, float(value)) for name, value in (attributes or {}).items() if value is not None)
    return _Node(
        inputs=_tensor_pointers(inputs, contract.INPUT_INDEX, "input"),
        outputs=_tensor_pointers(outputs, contract.OUTPUT_INDEX, "output"),
        attributes=_attributes(given),
        num_inputs=len(contract.INPUTS),
        num_outputs=len(contract.OUTPUTS),
        num_attributes=len(given),
    )


def _tensor_pointers(tensors: Mapping[str, NativeTensor], index_of: Mapping[str, int], kind: str) -> Any:
    pointers = (ctypes.POINTER(_Tensor) * len(index_of))()
    for name, tensor in tensors.items():
        if name not in index_of:
            raise ValueError(f"the op has no {kind} '{name}'; allowed: {', '.join(index_of)}")
        pointers[index_of[name]] = ctypes.pointer(_tensor(tensor))
    return pointers


def _tensor(tensor: NativeTensor) -> _Tensor:
    shape = tensor.shape
    if tensor.strides is not None and len(tensor.strides) != len(shape or ()):
        raise ValueError(f"strides {tuple(tensor.strides)} do not go with shape {shape}; allowed: one a dimension")
    return _Tensor(
        data=tensor.data,
        dtype=tensor.dtype,
        rank=_UNKNOWN_RANK if shape is None else len(shape),
        dims=_int64s(tuple(shape or ())),
        strides=None if tensor.strides is None else _int64s(tuple(tensor.strides)),
    )


# The library reads these arrays only; calls of one signature, on any thread, share them.
@lru_cache(maxsize=1024)
def _int64s(values: tuple[int, ...]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


@lru_cache(maxsize=1024)
def _attributes(given: tuple[tuple[str, float], ...]) -> Any:
    return (_Attribute * len(given))(*(_Attribute(name.encode(), value) for name, value in given))
