"""Models in and out: read with a clear error, written whole or not at all.

Weights kept in external files stay there until they are needed (memory-mapped by onnx-ir), so a model larger than
protobuf's 2 GiB passes through without a copy in memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from flashonnx import contract
from flashonnx.files import refuse_special
from flashonnx.fusion import soundness
from flashonnx.fusion.embedded import write_embedded

# Protobuf refuses messages of 2 GiB; beyond this much weight, which leaves room for nodes, it goes into a second file.
MAX_EMBEDDED_BYTES = 1_800_000_000


# Where a model keeps the path that it was read from.
_SOURCE = "flashonnx.source"


class ModelError(Exception):
    """A model that cannot be read, fused or written. The message says what is wrong, and where."""


def load(model_or_path: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> ir.Model:
    """The model with its local functions inlined, so that no attention hides in one. The argument is not changed.

    Raises ModelError for what is not a sound ONNX model.
    """
    if isinstance(model_or_path, ir.Model):
        model = copy(model_or_path)
    elif isinstance(model_or_path, onnx.ModelProto):
        model = _from_proto(model_or_path, _name(model_or_path))
    else:
        model = _read(Path(model_or_path))
    try:
        soundness.check_order(model.graph, "the graph")
        soundness.check_tensors(model.graphs())
    except soundness.UnsoundError as error:
        raise ModelError(f"{_name(model_or_path)}: {error}") from error
    try:
        InlinePass(criteria=lambda function: function.domain != contract.DOMAIN)(model)
    except Exception as error:  # onnx-ir wraps whatever a broken function body makes it raise
        raise ModelError(f"the model's local functions cannot be inlined: {_first_line(error)}") from error
    return model


def copy(model: ir.Model) -> ir.Model:
    """Another graph on the same weights, as if read from the same place."""
    other = model.clone()
    other.meta.update(model.meta)
    return other


def _read(path: Path) -> ir.Model:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: empty file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, or OSError
        raise ModelError(f"{path}: not an ONNX model, or truncated ({_first_line(error)})") from error
    model = _from_proto(proto, str(path))
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _located(value.const_value, path)
    model.meta[_SOURCE] = path
    return model


def _located(tensor: ir.ExternalTensor, model_path: Path) -> ir.ExternalTensor:
    """The weight with the whole path of its data. A link that the user has put beside the model is followed, as in
    the caches of model hubs; a location that leads out of the model's folder by itself is not.
    """
    location = Path(tensor.location)
    if location.is_absolute() or ".." in location.parts:
        raise ModelError(f"{model_path}: weight {tensor.name} is in {location}, outside the model's folder")
    data = model_path.parent / location
    if not data.is_file():
        raise ModelError(f"{model_path}: weight {tensor.name} is in {location}, which is not there")
    offset, length = tensor.offset or 0, tensor.length if tensor.length is not None else tensor.nbytes
    if data.stat().st_size < offset + length:
        raise ModelError(
            f"{model_path}: {location} is truncated: weight {tensor.name} needs {offset + length} bytes, "
            f"the file has {data.stat().st_size}"
        )
    if length < tensor.nbytes:
        raise ModelError(f"{model_path}: weight {tensor.name} has {length} bytes, its shape needs {tensor.nbytes}")
    return ir.ExternalTensor(
        data.resolve(), offset, length, tensor.dtype, shape=tensor.shape, name=tensor.name or "", base_dir=""
    )


def _from_proto(proto: onnx.ModelProto, what: str) -> ir.Model:
    if not proto.graph.node:
        raise ModelError(f"{what}: not an ONNX model: it has no nodes")
    if not proto.opset_import:
        raise ModelError(f"{what}: not an ONNX model: it imports no operator set")
    try:
        soundness.check_nodes(proto)
        return ir.from_proto(proto)
    except soundness.UnsoundError as error:
        raise ModelError(f"{what}: {error}") from error
    except Exception as error:
        raise ModelError(f"{what}: not a sound ONNX model: {_first_line(error)}") from error


def _name(model_or_path: onnx.ModelProto | ir.Model | str | os.PathLike[str]) -> str:
    """How a message names the model."""
    return "the model" if isinstance(model_or_path, (onnx.ModelProto, ir.Model)) else os.fspath(model_or_path)


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Writes the model whole or not at all; what stood there before stays if anything fails.

    Weights go into `<name>.data` beside it when the model came with external ones or would pass protobuf's limit.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ModelError(f"{path}: no such folder: {path.parent}")
    try:
        refuse_special(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
    tensors = [value.const_value for value in model.graph.initializers.values()]
    external = is_large(model) or any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    data_name = _data_name(model, path) if external else None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            if external:
                ir.save(model, Path(folder) / path.name, external_data=data_name)
            else:
                write_embedded(model, Path(folder) / path.name)
            # The weights first: a model whose weights are not there yet would be a broken file.
            for name in filter(None, (data_name, path.name)):
                written = Path(folder) / name
                if written.exists():
                    os.replace(written, path.parent / name)
    except (OSError, ValueError, ir.serde.SerdeError) as error:
        raise ModelError(f"{path}: cannot be written: {_first_line(error)}") from error
    if data_name:
        _follow_weights(model, path, data_name)


def _follow_weights(model: ir.Model, path: Path, data_name: str) -> None:
    """Weights that lay in the file that was just replaced are taken from the new one, where they lie elsewhere."""
    replaced = (path.parent / data_name).resolve()
    values = [
        value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor) and Path(value.const_value.path) == replaced
    ]
    if values:
        saved = _read(path).graph.initializers
        for value in values:
            value.const_value = saved[str(value.name)].const_value


def _data_name(model: ir.Model, path: Path) -> str:
    """`<name>.data`, unless that holds the weights of the model that this one was made from, under another name."""
    name = f"{path.name}.data"
    source = model.meta.get(_SOURCE)
    if source is not None and source.resolve() == path.resolve():
        return name
    tensors = (value.const_value for value in model.graph.initializers.values())
    taken = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    while (path.parent / name).resolve() in taken:
        name = f"{name}.data"
    return name


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def is_large(model: ir.Model) -> bool:
    """Whether the weights are more than one protobuf message holds."""
    weights = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in weights if tensor is not None) > MAX_EMBEDDED_BYTES


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one protobuf message, weights included. Raises ModelError if they are too much for that."""
    if is_large(model):
        raise ModelError("the model's weights are too large for one protobuf message: save it to a file instead")
    external = {name: value.const_value for name, value in model.graph.initializers.items()}
    try:
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise ModelError(f"the model cannot be written: {_first_line(error)}") from error
    finally:
        for name, value in model.graph.initializers.items():
            value.const_value = external[name]
