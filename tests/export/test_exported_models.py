"""Models as PyTorch's exporters write them: every site fuses, and the outputs stay at other sizes and paddings."""

from __future__ import annotations

import onnx
import pytest

import flashonnx.fusion
from flashonnx.fusion.run import run_model
from flashonnx.fusion.standard import as_the_standard_says
from tests.zoo.exporters import EXPORTERS
from tests.zoo.exporting import SPECS, Variant, exported
from tests.zoo.feeding import paddings, relative_difference, tolerance

# Of the zoo, what fits into every run of the tests; `make zoo` takes all of it.
MODELS = [("bert", 2), ("gpt2", 2), ("llama", 2), ("t5", 3), ("vit", 2)]
MODULES = [("torch_mha", 1), ("torch_mha_causal_padded", 1), ("torch_encoder", 2), ("torch_encoder_padded", 2)]
VARIANTS = [
    pytest.param(variant, sites, id=str(variant))
    for name, sites in (*MODELS, *MODULES)
    for implementation in SPECS[name].implementations
    for exporter in EXPORTERS
    for variant in [Variant(name, implementation, exporter)]
]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "sites"), VARIANTS)
def test_every_site_fuses(variant, sites):
    path = exported(variant)
    result = flashonnx.fusion.fuse(path)
    assert result.report.total == result.report.fused == sites, result.report
    onnx.checker.check_model(result.model)
    assert not {node.op_type for node in result.model.graph.node} & {"Softmax", "Attention"}
    # The legacy exporter writes the example's length into nn.MultiheadAttention.
    fixed = variant.exporter == "legacy17" and variant.implementation == "torch"
    batches = paddings(variant.feeds(3, variant.spec.lengths[0 if fixed else 1]))
    before, after = (
        run_model(as_the_standard_says(model), batches.values()) for model in (onnx.load(path), result.model)
    )
    for padding, expected, found in zip(batches, before, after, strict=True):
        assert relative_difference(expected, found) <= tolerance("float32"), padding
