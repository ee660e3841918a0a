"""ONNX models of one FlashAttention node, as TensorRT's parser gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from flashonnx import contract
from flashonnx.engine.prepare import close_gaps
from tests.cases.nodes import Dim, NodeCase

ELEMENT_TYPES = {
    "bool": TensorProto.BOOL,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def one_node_model(
    inputs: Mapping[str, tuple[str, Sequence[Dim]]],
    outputs: Sequence[str] = ("Y",),
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str = "attention",
) -> onnx.ModelProto:
    """The contract's inputs and outputs by name; those that are not given are left out of the node."""
    node = helper.make_node(
        contract.OP_TYPE,
        _without_tail([tensor.name if tensor.name in inputs else "" for tensor in contract.INPUTS]),
        _without_tail([tensor.name if tensor.name in outputs else "" for tensor in contract.OUTPUTS]),
        name=name,
        domain=contract.DOMAIN,
        **(attributes or {}),
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(key, ELEMENT_TYPES[dtype], dims) for key, (dtype, dims) in inputs.items()],
        [helper.make_tensor_value_info(output, _output_type(output, inputs), None) for output in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    prepared = ir.from_proto(model)
    close_gaps(prepared)
    return ir.to_proto(prepared)


def model_of(case: NodeCase) -> onnx.ModelProto:
    return one_node_model(case.inputs, case.outputs, case.attributes, name=case.name)


def _output_type(name: str, inputs: Mapping[str, tuple[str, Sequence[Dim]]]) -> int:
    types = contract.TYPES[contract.OUTPUTS[contract.OUTPUT_INDEX[name]].type]
    return ELEMENT_TYPES[types[0] if len(types) == 1 else inputs["Q"][0]]


def _without_tail(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names.pop()
    return names


def attention_stack(layers: int, *, seed: int = 0, hidden: int = 128, heads: int = 2) -> onnx.ModelProto:
    """Causal self-attention with residuals and norms, of MatMul and Softmax; x and out (batch, length, hidden)."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights = {
        "split": np.array([0, 0, heads, hidden // heads]),
        "merge": np.array([0, 0, hidden]),
        "scale": np.float32((hidden // heads) ** -0.5),
        "lowest": np.float32(np.finfo(np.float32).min),
        "zero": np.int64(0),
        "one": np.int64(1),
        "ones": np.ones(hidden, np.float32),
    }

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}", **attributes))
        return output

    add("Shape", ["x"], "shape")
    add("Gather", ["shape", "one"], "length")
    add("Range", ["zero", "length", "one"], "keys")
    add("Unsqueeze", ["keys", "one"], "queries")
    add("Greater", ["keys", "queries"], "later")
    x = "x"
    for layer in range(layers):
        heads_of = {}
        for part in "qkv":
            name = f"{part}{layer}"
            weights[f"{name}_weight"] = rng.standard_normal((hidden, hidden)).astype(np.float32) / hidden**0.5
            add("MatMul", [x, f"{name}_weight"], f"{name}_flat")
            add("Reshape", [f"{name}_flat", "split"], f"{name}_rows")
            perm = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            heads_of[part] = add("Transpose", [f"{name}_rows"], name, perm=perm)
        add("MatMul", [heads_of["q"], heads_of["k"]], f"scores{layer}")
        add("Mul", [f"scores{layer}", "scale"], f"scaled{layer}")
        add("Where", ["later", "lowest", f"scaled{layer}"], f"masked{layer}")
        add("Softmax", [f"masked{layer}"], f"probabilities{layer}", axis=-1)
        add("MatMul", [f"probabilities{layer}", heads_of["v"]], f"y{layer}")
        add("Transpose", [f"y{layer}"], f"y{layer}_rows", perm=[0, 2, 1, 3])
        add("Reshape", [f"y{layer}_rows", "merge"], f"y{layer}_flat")
        add("Add", [x, f"y{layer}_flat"], f"sum{layer}")
        x = add("LayerNormalization", [f"sum{layer}", "ones"], f"x{layer + 1}")
    add("Identity", [x], "out")
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", hidden]) for name in ("x", "out")
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "stack", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
