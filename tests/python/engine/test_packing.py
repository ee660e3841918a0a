"""One tensor for Q, K and V: where a file allows it, and that it is still the same model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashonnx import contract, session
from flashonnx.engine.packing import pack_qkv

Q_HEADS, KV_HEADS, SIZE = 4, 2, 8
COLUMNS = (Q_HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE)
FEATURES = 16
HEADS = {"q_num_heads": Q_HEADS, "kv_num_heads": KV_HEADS}

Weights = dict[str, np.ndarray]


def node(op_type: str, inputs: list[str], *outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, list(outputs), name=f"{op_type}_{outputs[0]}", **attributes)


def products(biases: str) -> tuple[list[onnx.NodeProto], Weights]:
    """q, k and v are products of x; those named in `biases` have one."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    for name, columns in zip("qkv", COLUMNS, strict=True):
        weights[f"{name}_weight"] = rng.standard_normal((FEATURES, columns)).astype(np.float32)
        nodes.append(node("MatMul", ["x", f"{name}_weight"], f"{name}_product" if name in biases else name))
        if name in biases:
            weights[f"{name}_bias"] = rng.standard_normal(columns).astype(np.float32)
            nodes.append(node("Add", [f"{name}_bias", f"{name}_product"], name))
    return nodes, weights


def split() -> tuple[list[onnx.NodeProto], Weights]:
    weight = np.random.default_rng(0).standard_normal((FEATURES, sum(COLUMNS))).astype(np.float32)
    nodes = [node("MatMul", ["x", "weight"], "qkv"), node("Split", ["qkv", "columns"], "q", "k", "v", axis=2)]
    return nodes, {"weight": weight, "columns": np.array(COLUMNS)}


def attention(*presents: str, **attributes: int) -> onnx.NodeProto:
    outputs = ("y", *presents)
    return node(contract.OP_TYPE, ["q", "k", "v"], *outputs, domain=contract.DOMAIN, **{**HEADS, **attributes})


def model(nodes: list[onnx.NodeProto], weights: Weights, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", FEATURES])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def packed(original: onnx.ModelProto) -> onnx.ModelProto | None:
    prepared = ir.from_proto(original)
    return ir.to_proto(prepared) if pack_qkv(prepared) else None


def unpacked(original: onnx.ModelProto) -> onnx.ModelProto:
    """With a Split in place of what the plugin does, for ONNX Runtime."""
    nodes = []
    for old in original.graph.node:
        if old.op_type == contract.OP_TYPE:
            assert list(old.input)[1:3] in ([], ["", ""])
            assert HEADS.items() <= {a.name: helper.get_attribute_value(a) for a in old.attribute}.items()
            old.attribute.remove(next(a for a in old.attribute if a.name == contract.PACKED_QKV))
            nodes.append(node("Split", [old.input[0], "the_columns"], "the_q", "the_k", "the_v", axis=2))
            old.input[:] = ["the_q", "the_k", "the_v", *old.input[3:]]
        nodes.append(old)
    del original.graph.node[:]
    original.graph.node.extend(nodes)
    original.graph.initializer.append(numpy_helper.from_array(np.array(COLUMNS), "the_columns"))
    return original


def run(proto: onnx.ModelProto) -> list[np.ndarray]:
    x = np.random.default_rng(1).standard_normal((2, 9, FEATURES)).astype(np.float32)
    return session(proto.SerializeToString(), ["CPUExecutionProvider"]).run(None, {"x": x})


def is_sorted(proto: onnx.ModelProto) -> bool:
    known = {"", *(value.name for value in (*proto.graph.input, *proto.graph.initializer))}
    for made in proto.graph.node:
        if not known.issuperset(made.input):
            return False
        known.update(made.output)
    return True


@pytest.mark.parametrize("source", [split, lambda: products(""), lambda: products("qkv"), lambda: products("qv")])
def test_packed_is_the_same_model(source: Callable[[], tuple[list[onnx.NodeProto], Weights]]) -> None:
    nodes, weights = source()
    original = model([*nodes, attention(is_causal=1)], weights)
    result = packed(original)
    assert result is not None
    operators = [made.op_type for made in result.graph.node]
    assert operators.count("MatMul") == 1
    assert "Split" not in operators
    assert is_sorted(result)
    np.testing.assert_allclose(run(unpacked(result))[0], run(original)[0], rtol=1e-5, atol=1e-5)


def refused() -> dict[str, onnx.ModelProto]:
    nodes, weights = products("")
    other = model([*nodes, attention()], weights)
    other.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", "rows", FEATURES]))
    other.graph.node[1].input[0] = "z"
    swapped = model([*split()[0], attention()], split()[1])
    swapped.graph.node[2].input[:] = ["q", "v", "k"]
    # By default of the first axis.
    rows = model([node("Split", ["x"], "q", "k", "v", num_outputs=3), attention(q_num_heads=KV_HEADS)], {})
    computed = [node("Neg", ["q_weight"], "w"), node("MatMul", ["x", "w"], "q"), *nodes[1:], attention()]
    larger_v = {**weights, "v_weight": np.zeros((FEATURES, 2 * COLUMNS[2]), np.float32)}
    caches = ("key", "value")
    return {
        "parts of the batch": rows,
        "keys and values are kept": model([*nodes, attention(*caches)], weights, ("y", *caches)),
        "q is read elsewhere": model([*nodes, attention(), node("Relu", ["q"], "r")], weights, ("y", "r")),
        "v is read elsewhere": model([*nodes, attention(), node("Relu", ["v"], "r")], weights, ("y", "r")),
        "v is an output": model([*nodes, attention()], weights, ("y", "v")),
        "keys of another value": other,
        "parts in another order": swapped,
        "a weight that is computed": model(computed, weights),
        "heads of two sizes": model([*nodes, attention()], larger_v),
    }


@pytest.mark.parametrize("why", refused())
def test_what_is_not_packed_is_left_alone(why: str) -> None:
    original = refused()[why]
    prepared = ir.from_proto(original)
    before = ir.to_proto(prepared).SerializeToString()
    assert pack_qkv(prepared) == []
    assert ir.to_proto(prepared).SerializeToString() == before
