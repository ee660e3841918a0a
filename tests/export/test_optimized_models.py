"""What ONNX Runtime's own optimizer makes of exported models still fuses, attention and all."""

from __future__ import annotations

from collections import Counter

import pytest

import flashonnx.fusion
from flashonnx.fusion.run import run_model
from tests.zoo.exporting import Variant, exported
from tests.zoo.feeding import relative_difference, tolerance

# The optimizer's own attention, if it finds any; None: it leaves the softmax.
MODELS = [
    (Variant("bert", "eager", "legacy17"), "bert", "Attention"),
    (Variant("roberta", "eager", "legacy17"), "bert", "Attention"),
    (Variant("bert", "sdpa", "dynamo18"), "bert", None),
    (Variant("gpt2", "eager", "legacy17"), "gpt2", None),
    (Variant("llama", "sdpa", "dynamo18"), "gpt_neox", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "model_type", "native"), MODELS, ids=str)
def test_optimized_by_onnx_runtime(variant, model_type, native):
    from onnxruntime.transformers.optimizer import optimize_model

    path = str(exported(variant))
    model = optimize_model(path, model_type=model_type, num_heads=4, hidden_size=32, opt_level=0).model
    counts = Counter(node.op_type for node in model.graph.node if node.domain == "com.microsoft")
    assert counts
    assert native is None or counts[native] == 2
    result = flashonnx.fusion.fuse(model)
    assert result.report.total == result.report.fused == 2, result.report
    assert not {node.op_type for node in result.model.graph.node} & {"Softmax", "Attention"}
    # Padding on the right only, as the spec has it: the optimizer's own masks of lengths can be trusted with no other.
    feeds = [variant.feeds(3, variant.spec.lengths[1])]
    (expected,), (found,) = (list(run_model(each, feeds)) for each in (model, result.model))
    assert relative_difference(expected, found) <= tolerance("float32")
