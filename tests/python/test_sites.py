"""Which value of the unfused file an attention site of the fused one is compared with."""

import onnx
from onnx import TensorProto, helper

from flashonnx import contract
from flashonnx.validation.sites import Site, find_sites


def save(path, nodes):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("q", "k", "v")],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def attention(output):
    return helper.make_node(contract.OP_TYPE, ["q", "k", "v"], [output], name="site", domain=contract.DOMAIN)


def sites(tmp_path, *nodes):
    reference = save(
        tmp_path / "reference.onnx",
        [helper.make_node("MatMul", ["q", "v"], ["context"]), helper.make_node("Relu", ["context"], ["out"])],
    )
    return find_sites(reference, save(tmp_path / "model.onnx", nodes))


def test_same_name(tmp_path):
    assert sites(tmp_path, attention("context"), helper.make_node("Relu", ["context"], ["out"])) == [
        Site("site", "context", "context")
    ]


def test_name_behind_layout_ops(tmp_path):
    found = sites(
        tmp_path,
        attention("new"),
        helper.make_node("Transpose", ["new"], ["moved"]),
        helper.make_node("Reshape", ["moved", "shape"], ["context"]),
        helper.make_node("Relu", ["context"], ["out"]),
    )
    assert found == [Site("site", "new", "context")]


def test_arithmetic_ends_the_search(tmp_path):
    found = sites(tmp_path, attention("new"), helper.make_node("Neg", ["new"], ["context"]))
    assert found == [Site("site", "new", None)]


def test_a_fork_ends_the_search(tmp_path):
    found = sites(
        tmp_path,
        attention("new"),
        helper.make_node("Transpose", ["new"], ["context"]),
        helper.make_node("Transpose", ["new"], ["other"]),
    )
    assert found == [Site("site", "new", None)]
