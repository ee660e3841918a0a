"""What ONNX Runtime's own optimizer makes of exported models still fuses, attention and all."""

from __future__ import annotations

from collections import Counter

import pytest

import flashonnx.fusion
from tests.export.test_exported_models import assert_same, paddings
from tests.zoo.exporting import SPECS, exported, feeds

# The optimizer's own attention, if it finds any; None: it leaves the softmax.
MODELS = [
    ("bert", "bert", "eager", "legacy17", "Attention"),
    ("roberta", "bert", "eager", "legacy17", "Attention"),
    ("bert", "bert", "sdpa", "dynamo18", None),
    ("gpt2", "gpt2", "eager", "legacy17", None),
    ("llama", "gpt_neox", "sdpa", "dynamo18", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model_type", "implementation", "exporter", "native"), MODELS)
def test_optimized_by_onnx_runtime(name, model_type, implementation, exporter, native):
    from onnxruntime.transformers.optimizer import optimize_model

    path = exported(name, implementation, exporter)
    model = optimize_model(str(path), model_type=model_type, num_heads=4, hidden_size=32, opt_level=0).model
    counts = Counter(node.op_type for node in model.graph.node if node.domain == "com.microsoft")
    assert counts
    assert native is None or counts[native] == 2
    result = flashonnx.fusion.fuse(model)
    assert result.report.total == result.report.fused == 2, result.report
    assert not {node.op_type for node in result.model.graph.node} & {"Softmax", "Attention"}
    # Its masks of lengths are padding on the right only, so that is what the original can be trusted with.
    batch = feeds(SPECS[name], 3, SPECS[name].lengths[1])
    assert_same(model, result.model, paddings(batch)[:1])
