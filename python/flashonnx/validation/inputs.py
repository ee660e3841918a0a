"""Inputs for a model: read from files, made from given shapes, or generated to suit what the graph does with them.

Generated integers stay in range: an input that selects rows of a constant table (token, type and position ids) gets
values below that table's length. Inputs named as masks get ones with zeros where a batch of sequences of different
lengths would be padded: not at all, on the right, on the left; each is an input set of its own.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

from flashonnx.arrays import BFLOAT16

DEFAULT_BATCH = 2
DEFAULT_LENGTH = 24
PADDINGS = ("none", "right", "left")

# Ops that hand an index through to a Gather without changing which values are valid.
_INDEX_PRESERVING = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Flatten", "Slice"}
_LARGEST_UNKNOWN_ID = 2


class InputError(ValueError):
    """An input is missing, unknown, or does not fit what the model declares."""


@dataclass(frozen=True)
class InputSpec:
    """One graph input as the model declares it; an unnamed dynamic dimension is '?'."""

    name: str
    dtype: np.dtype
    dims: tuple[int | str, ...]
    limit: int | None = None  # integers: values must stay below, if the graph tells

    @property
    def is_mask(self) -> bool:
        return "mask" in self.name.lower() and len(self.dims) >= 2

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.name}[{'x'.join(str(dim) for dim in self.dims)}]"


@dataclass(frozen=True)
class InputSet:
    """Named arrays for one run, and what distinguishes them ('right padding', a file's name)."""

    name: str
    arrays: dict[str, np.ndarray]


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """The inputs that a caller must give; initializers that are also listed as inputs are not among them."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    limits = _index_limits(model.graph)
    specs = []
    for value in model.graph.input:
        if value.name in initialized:
            continue
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise InputError(f"input {value.name!r} is not a tensor; give inputs by a file")
        dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        specs.append(InputSpec(value.name, dtype, dims, limits.get(value.name)))
    return specs


def load_npz(path: str | Path, specs: Sequence[InputSpec]) -> InputSet:
    """An input set from an .npz file that holds one array per input, by name.

    Raises:
        InputError: the file cannot be read, or its arrays do not fit the inputs.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:  # an .npy has no `with`
        raise InputError(f"{path}: not a readable .npz file ({error})") from error
    for spec in specs:
        # NumPy's files do not know bfloat16 and hold it as two anonymous bytes.
        if spec.dtype == BFLOAT16 and spec.name in arrays and arrays[spec.name].dtype == np.dtype("V2"):
            arrays[spec.name] = arrays[spec.name].view(BFLOAT16)
    return InputSet(Path(path).name, check_arrays(arrays, specs))


def check_arrays(arrays: Mapping[str, np.ndarray], specs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
    """The arrays in the order of the specs; names, dtypes and shapes must be the model's."""
    known = {spec.name for spec in specs}
    unknown = sorted(set(arrays) - known)
    missing = sorted(known - set(arrays))
    if unknown or missing:
        problems = [f"no array for {', '.join(missing)}"] if missing else []
        problems += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise InputError(f"inputs do not fit the model: {'; '.join(problems)}; it takes {_listed(specs)}")
    for spec in specs:
        array = arrays[spec.name]
        if array.dtype != spec.dtype:
            raise InputError(f"input {spec.name!r} is {array.dtype.name}; the model takes {spec}")
        if len(array.shape) != len(spec.dims) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(spec.dims, array.shape, strict=True)
        ):
            raise InputError(f"input {spec.name!r} has shape {array.shape}; the model takes {spec}")
    return {spec.name: np.asarray(arrays[spec.name], order="C") for spec in specs}


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """'name=2x128' as (name, (2, 128)); 'name=' is a scalar."""
    name, equals, shape = text.rpartition("=")
    try:
        dims = tuple(int(part) for part in shape.split("x")) if shape else ()
    except ValueError:
        dims = (-1,)
    if not equals or not name or any(dim < 0 for dim in dims):
        raise InputError(f"{text!r} is not a shape such as input_ids=2x128")
    return name, dims


def parse_dim(text: str) -> tuple[str, int]:
    """'sequence=128' as (sequence, 128)."""
    name, equals, size = text.rpartition("=")
    if not equals or not name or not size.isdecimal():
        raise InputError(f"{text!r} is not a size of a dimension such as sequence=128")
    return name, int(size)


def generate(
    specs: Sequence[InputSpec],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[InputSet]:
    """Random inputs that suit the model: one set per kind of padding if it takes a mask, else one set.

    Args:
        specs: the model's inputs.
        shapes: shape by input name; its dimensions also bind the symbols that other inputs share with it.
        dims: size by symbol, for the dynamic dimensions that no shape binds.
        seed: of the random numbers; the same seed gives the same arrays.

    Raises:
        InputError: a name is not the model's, or a shape contradicts the model or another shape.
    """
    sizes = _bind(specs, shapes or {}, dims or {})
    paddings = PADDINGS if any(spec.is_mask for spec in specs) else PADDINGS[:1]
    sets = []
    for padding in paddings:
        arrays = {}
        for spec in specs:
            # Seeded by name, so that an input keeps its values whatever else the model takes.
            rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
            arrays[spec.name] = _random_array(spec, sizes[spec.name], padding, rng)
        sets.append(InputSet("generated" if len(paddings) == 1 else f"padding: {padding}", arrays))
    return sets


def sequence_lengths(batch: int, longest: int) -> np.ndarray:
    """Lengths (batch,) of a padded batch: the first is full, the others shorter, none empty."""
    steps = np.arange(batch) % 4
    return np.maximum(1, longest - (longest * steps) // 4)


def _random_array(spec: InputSpec, shape: tuple[int, ...], padding: str, rng: np.random.Generator) -> np.ndarray:
    if spec.is_mask:
        return _mask(spec, shape, padding)
    if spec.dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(spec.dtype, np.integer):
        limit = spec.limit if spec.limit is not None else _LARGEST_UNKNOWN_ID
        if "position" in spec.name.lower() and shape:
            return np.broadcast_to(np.arange(shape[-1]) % limit, shape).astype(spec.dtype)
        return rng.integers(0, limit, shape).astype(spec.dtype)
    return rng.standard_normal(shape).astype(spec.dtype)


def _mask(spec: InputSpec, shape: tuple[int, ...], padding: str) -> np.ndarray:
    """(B, ..., length): 1 or true may attend; a floating-point mask of rank 3 and up is added, so 0 or the lowest."""
    longest = shape[-1]
    keep = np.ones((shape[0], longest), dtype=bool)
    if padding != "none":
        keep = np.arange(longest) < sequence_lengths(shape[0], longest)[:, None]
        keep = keep[:, ::-1] if padding == "left" else keep
    keep = np.broadcast_to(keep.reshape(shape[0], *[1] * (len(shape) - 2), longest), shape)
    is_additive = len(shape) > 2 and not np.issubdtype(spec.dtype, np.integer) and spec.dtype != np.bool_
    if is_additive:
        return np.where(keep, 0.0, float(ml_dtypes.finfo(spec.dtype).min)).astype(spec.dtype)
    return keep.astype(spec.dtype)


def _bind(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The concrete shape of every input."""
    by_name = {spec.name: spec for spec in specs}
    symbols = {str(dim) for spec in specs for dim in spec.dims if isinstance(dim, str)}
    for name in shapes:
        if name not in by_name:
            raise InputError(f"no input {name!r}; the model takes {_listed(specs)}")
    for name in dims:
        if name not in symbols:
            raise InputError(f"no dynamic dimension {name!r}; the model has {', '.join(sorted(symbols)) or 'none'}")
    bound = dict(dims)
    for name, shape in shapes.items():
        _bind_shape(by_name[name], tuple(shape), bound)
    return {
        spec.name: tuple(shapes[spec.name])
        if spec.name in shapes
        else tuple(
            dim if isinstance(dim, int) else bound.get(dim, _default_size(dim, axis))
            for axis, dim in enumerate(spec.dims)
        )
        for spec in specs
    }


def _bind_shape(spec: InputSpec, shape: tuple[int, ...], bound: dict[str, int]) -> None:
    if len(shape) != len(spec.dims):
        raise InputError(f"shape {shape} has another rank than {spec}")
    for dim, size in zip(spec.dims, shape, strict=True):
        if isinstance(dim, int) and dim != size:
            raise InputError(f"shape {shape} contradicts {spec}")
        if isinstance(dim, str) and dim != "?" and bound.setdefault(dim, size) != size:
            raise InputError(f"{spec}: {dim} is {size} here and {bound[dim]} elsewhere")


def is_batch(symbol: str, axis: int) -> bool:
    """A dynamic first axis is taken for a batch, any other for a length."""
    return axis == 0 or "batch" in symbol.lower()


def _default_size(symbol: str, axis: int) -> int:
    return DEFAULT_BATCH if is_batch(symbol, axis) else DEFAULT_LENGTH


def _index_limits(graph: onnx.GraphProto) -> dict[str, int]:
    """For inputs that index the rows of constant tables: the length of the shortest such table."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) > 0}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    limits: dict[str, int] = {}
    for value in graph.input:
        pending, seen = [value.name], {value.name}
        while pending:
            name = pending.pop()
            for node in consumers.get(name, ()):
                if node.op_type == "Gather" and node.input[1] == name and node.input[0] in rows and _axis(node) == 0:
                    limits[value.name] = min(limits.get(value.name, rows[node.input[0]]), rows[node.input[0]])
                elif node.op_type in _INDEX_PRESERVING and node.input[0] == name and node.output[0] not in seen:
                    seen.add(node.output[0])
                    pending.append(node.output[0])
    return limits


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _listed(specs: Sequence[InputSpec]) -> str:
    return ", ".join(str(spec) for spec in specs) or "no inputs"
