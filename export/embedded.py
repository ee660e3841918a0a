"""A model's message and its weights apart: protobuf would hold all of them in memory, a copy for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

# Field numbers of onnx.proto, all of length-delimited fields.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
# Smaller ones are left to protobuf.
_LARGE = 1024


def write_embedded(model: ir.Model, path: Path) -> None:
    """Writes the file. The model's weights must be fewer bytes than one protobuf message holds.

    A message's fields may stand in any order: all but the large weights come first, then these, one by one.
    """
    proto, weights = without_weights(model)
    heads = {tensor.name: _before_data(tensor) for tensor in proto.graph.initializer if tensor.name in weights}
    small = [tensor for tensor in proto.graph.initializer if tensor.name not in weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(small)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    length = len(graph) + sum(len(head) + weights[name].nbytes for name, head in heads.items())
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _tag(_MODEL_GRAPH, length) + graph)
        for name, head in heads.items():
            file.write(head)
            weights[name].tofile(file)  # type: ignore[attr-defined]  # all of onnx-ir's tensors have it


def without_weights(
    model: ir.Model, takes: Callable[[ir.TensorProtocol], bool] = lambda weight: True
) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model with all large weights that `takes` says yes to in no file at all, and these weights by name."""
    weights = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and _is_large(value.const_value) and takes(value.const_value)
    }
    with _emptied(model, weights):
        return ir.to_proto(model), weights


def _is_large(weight: ir.TensorProtocol) -> bool:
    return weight.dtype != ir.DataType.STRING and weight.nbytes >= _LARGE


@contextmanager
def _emptied(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> Iterator[None]:
    """The model with tensors in place of those weights that have all but data."""
    values = model.graph.initializers
    try:
        for name, weight in weights.items():
            values[name].const_value = ir.ExternalTensor(
                "elsewhere", 0, weight.nbytes, weight.dtype, shape=ir.Shape(weight.shape.numpy()), name=name
            )
        yield
    finally:
        for name, weight in weights.items():
            values[name].const_value = weight


def _before_data(tensor: onnx.TensorProto) -> bytes:
    """The field of the graph's that is this tensor, up to its data: tags, lengths, name, type and shape."""
    (size,) = (int(entry.value) for entry in tensor.external_data if entry.key == "length")
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")
    head = tensor.SerializeToString() + _tag(_TENSOR_RAW_DATA, size)
    return _tag(_GRAPH_INITIALIZER, len(head) + size) + head


def _tag(field: int, length: int) -> bytes:
    """What stands before a field of that many bytes: its number with wire type 2, and the length as a varint."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
