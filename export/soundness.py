"""What has to hold of a file before anything is concluded from it: nodes as their operators want them, whole weights.

onnx.checker would check the whole model at once; it refuses much that ONNX Runtime runs (unknown operators and domains,
untyped outputs) and, being given a message, stops at 2 GiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir


class UnsoundError(Exception):
    """What is broken, and where."""


def check_nodes(proto: onnx.ModelProto) -> None:
    """Inputs, outputs and attributes of every node with a standard operator are of the number and kind it takes."""
    _check_nodes(proto.graph.node, proto.opset_import, proto.ir_version)
    for function in proto.functions:
        _check_nodes(function.node, function.opset_import or proto.opset_import, proto.ir_version)


def check_tensors(graphs: Iterable[ir.Graph]) -> None:
    """The data of every weight fit its shape and type. External ones are not opened."""
    for graph in graphs:
        for name, tensor in _tensors(graph):
            try:
                if not isinstance(tensor, ir.ExternalTensor):
                    tensor.numpy()
            except Exception as error:  # whatever NumPy or onnx-ir make of the data
                raise UnsoundError(f"weight {name} is broken: {error}") from error


def check_order(graph: ir.Graph, where: str) -> None:
    """Every input of every node is made before it is used; sorts the nodes if only their order is wrong."""
    try:
        graph.sort()
    except ValueError as error:
        raise UnsoundError(f"{where} has a cycle") from error
    made = set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in made and value.graph in (None, graph):
                raise UnsoundError(
                    f"node {describe(node)} reads {value.name!r}, which no node, input or weight of {where} provides"
                )
    for value in graph.outputs:
        if value.producer() is None and value not in made:
            raise UnsoundError(f"output {value.name!r} is not computed by any node of {where}")


def describe(node: ir.Node | onnx.NodeProto) -> str:
    """How a message names a node."""
    if isinstance(node, ir.Node):
        return f"{node.name or node.outputs[0].name} ({node.op_type})"
    return f"{node.name or ', '.join(node.output)} ({node.op_type})"


def _check_nodes(nodes: Iterable[onnx.NodeProto], opsets: Iterable[onnx.OperatorSetIdProto], ir_version: int) -> None:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = ir_version
    context.opset_imports = {opset.domain: opset.version for opset in opsets}
    for node in _with_bodies(nodes):
        try:
            for attribute in node.attribute:
                attribute.s.decode()
                b"".join(attribute.strings).decode()
            if _is_known(node, context.opset_imports):
                onnx.checker.check_node(node, context)
        except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
            raise UnsoundError(f"node {describe(node)}: {str(error).splitlines()[0]}") from error


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, those of If and Loop bodies too; nodes that have bodies themselves only by what is in them.

    The checker wants to know every name that a body takes from outside.
    """
    for node in nodes:
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if not bodies:
            yield node
        for body in bodies:
            yield from _with_bodies(body.node)


def _is_known(node: onnx.NodeProto, opsets: dict[str, int]) -> bool:
    """Whether onnx has the operator, at that version, and it is in use."""
    if node.domain not in ("", "ai.onnx") or "" not in opsets:
        return False
    try:
        return not onnx.defs.get_schema(node.op_type, opsets[""], "").deprecated
    except onnx.defs.SchemaError:
        return False


def _tensors(graph: ir.Graph) -> Iterator[tuple[str | None, ir.TensorProtocol]]:
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value.name, value.const_value
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                yield node.outputs[0].name, attribute.value
