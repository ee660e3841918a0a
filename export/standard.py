"""Operators by the standard's own definition of them, where ONNX Runtime's kernels mean something else."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.inliner
from onnx import TensorProto, helper

# ONNX Runtime's Attention refuses some masks and differs in rows without any key; its RotaryEmbedding refuses caches
# that broadcast over the batch.
_OPERATORS = {"Attention", "RotaryEmbedding"}
_DOMAIN = "definition"
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

Types = dict[str, onnx.TypeProto]


def as_the_standard_says(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with Attention and RotaryEmbedding replaced by the bodies that the standard gives them.

    Half precision is computed in float32: what is held against them is to be right, not to be rounded like a body that
    rounds after each step. Raises RuntimeError if onnx does not find out the type of what such a node reads.
    """
    if not any(map(_is_replaced, model.graph.node)):
        return model
    speller = _Speller(onnx.shape_inference.infer_shapes(model))
    return speller.model()


def _is_replaced(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in _OPERATORS


class _Speller:
    """Puts a function of its own in the place of each of the nodes, then the functions' bodies in theirs."""

    def __init__(self, typed: onnx.ModelProto):
        self.typed = typed
        graph = typed.graph
        self.types: Types = {value.name: value.type for value in (*graph.input, *graph.output, *graph.value_info)}
        for tensor in graph.initializer:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        self.opset = next(entry.version for entry in typed.opset_import if entry.domain in ("", "ai.onnx"))

    def model(self) -> onnx.ModelProto:
        nodes = [each for node in self.typed.graph.node for each in self._spelled(node)]
        del self.typed.graph.node[:]
        self.typed.graph.node.extend(nodes)
        self.typed.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        names = [(function.domain, function.name) for function in self.typed.functions if function.domain == _DOMAIN]
        return onnx.inliner.inline_selected_functions(self.typed, names)

    def _spelled(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The node, or the call of its function between casts to float32 and back."""
        if not _is_replaced(node):
            yield node
            return
        call = onnx.NodeProto()
        call.CopyFrom(node)
        prefix = f"{node.output[0]}_by_definition"
        for index, name in enumerate(node.input):
            if name and self._element_type(name) in _HALF:
                call.input[index] = f"{prefix}_input{index}"
                yield helper.make_node("Cast", [name], [call.input[index]], to=TensorProto.FLOAT)
        results = []
        for index, name in enumerate(node.output):
            if name and self._element_type(name) in _HALF:
                call.output[index] = f"{prefix}_output{index}"
                results.append(helper.make_node("Cast", [call.output[index]], [name], to=self._element_type(name)))
        function = self._function(call, node)
        self.typed.functions.append(function)
        call.domain, call.op_type = function.domain, function.name
        yield call
        yield from results

    def _function(self, call: onnx.NodeProto, node: onnx.NodeProto) -> onnx.FunctionProto:
        """The standard's function for the node, once its half-precision inputs are float32."""
        types = [self._widened(name).SerializeToString() for name in node.input]
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        body = schema.get_context_dependent_function(call.SerializeToString(), types)  # type: ignore[attr-defined]
        function = onnx.FunctionProto.FromString(body)
        function.domain, function.name = _DOMAIN, f"{node.op_type}{len(self.typed.functions)}"
        for entry in function.opset_import:  # of the version that defined the operator; the inliner wants the model's
            entry.version = self.opset
        return function

    def _widened(self, name: str) -> onnx.TypeProto:
        """The value's type with float32 for half precision; an input that is left out has none."""
        widened = onnx.TypeProto()
        if name:
            widened.CopyFrom(self.types.get(name, widened))
            if self._element_type(name) in _HALF:
                widened.tensor_type.elem_type = TensorProto.FLOAT
        return widened

    def _element_type(self, name: str) -> int:
        element_type = self.types[name].tensor_type.elem_type if name in self.types else TensorProto.UNDEFINED
        if element_type == TensorProto.UNDEFINED:
            raise RuntimeError(f"the type of {name!r} is not known")
        return element_type
