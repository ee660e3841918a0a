"""An ONNX model as TensorRT's parser wants it.

The parser takes a model-local function before a plugin of the same name, so portable functions have to go. It knows no
absent inputs or outputs, so nodes that leave some out list the others without gaps and say which they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from flashonnx import contract


def is_fused(model: ir.Model) -> bool:
    """Whether there is any FlashAttention node."""
    return any(_is_ours(node) for node in RecursiveGraphIterator(model.graph))


def strip_functions(model: ir.Model) -> list[str]:
    """Removes portable functions in place; says so."""
    functions = [key for key in model.functions if key[:2] == (contract.DOMAIN, contract.OP_TYPE)]
    for key in functions:
        del model.functions[key]
    if not functions:
        return []
    return [f"left out the portable function {contract.OP_TYPE}: TensorRT's parser would take it for the plugin"]


def close_gaps(model: ir.Model) -> list[str]:
    """Lists the tensors of every FlashAttention node without gaps, in place; says so."""
    nodes = [node for node in RecursiveGraphIterator(model.graph) if _is_ours(node)]
    changed = sum(_close_gaps(node) for node in nodes)
    if not changed:
        return []
    return [f"gave {changed} nodes the attribute {contract.PRESENT_INPUTS}, because TensorRT knows no absent inputs"]


def _is_ours(node: ir.Node) -> bool:
    return node.domain == contract.DOMAIN and node.op_type == contract.OP_TYPE


def _close_gaps(node: ir.Node) -> bool:
    """Replaces the node by one without gaps, unless the plugin understands it as it is."""
    inputs = [index for index, value in enumerate(node.inputs) if value is not None]
    outputs = [index for index, value in enumerate(node.outputs) if value.name]
    # The plugin takes a layer's inputs for the first of the contract's, and its output for Y.
    inputs_are_first = inputs == list(range(len(node.inputs)))
    if contract.PRESENT_INPUTS in node.attributes or (inputs_are_first and outputs == [0] and len(node.outputs) == 1):
        return False
    attributes = list(node.attributes.values())
    attributes.append(ir.AttrInt64s(contract.PRESENT_INPUTS, inputs))
    attributes.append(ir.AttrInt64s(contract.PRESENT_OUTPUTS, outputs))
    new = ir.Node(
        node.domain,
        node.op_type,
        [node.inputs[index] for index in inputs],
        attributes,
        num_outputs=len(outputs),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=node.metadata_props,
    )
    _replace(node, new, outputs)
    return True


def _replace(node: ir.Node, new: ir.Node, outputs: Sequence[int]) -> None:
    graph = node.graph
    assert graph is not None  # of a node that was found in one
    old_values = [node.outputs[index] for index in outputs]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], old_values, new.outputs)
