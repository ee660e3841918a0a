"""Weights in a file of their own, as torch.onnx.export(dynamo=True) writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import flashonnx


def test_a_site_with_an_external_weight_is_verified_and_fused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["K"], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["Q", "keys"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["biased"]),
        helper.make_node("Softmax", ["biased"], ["probabilities"], axis=-1),
        helper.make_node("MatMul", ["probabilities", "V"], ["Y"]),
    ]
    bias = np.random.default_rng(0).standard_normal((1, 1, 6, 6)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 6, 8]) for name in "QKV"],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [2, 3, 6, 8])],
        [numpy_helper.from_array(np.float32(0.25), "scale"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    report = flashonnx.fuse(tmp_path / "model.onnx").report
    assert [(site.fused, site.reason) for site in report.sites] == [(True, "")]
    assert report.sites[0].max_abs_diff is not None
