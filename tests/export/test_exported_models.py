"""Models as PyTorch's exporters write them: every site fuses, and the outputs stay at other sizes and paddings."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import flashonnx.fusion
from flashonnx.fusion.run import as_the_standard_says, run_model
from tests.zoo.exporting import SPECS, exported, feeds

EXPORTERS = ("dynamo18", "dynamo23", "legacy17")
# Of the zoo, what fits into every run of the tests; `make zoo` takes all of it.
MODELS = [("bert", 2), ("gpt2", 2), ("llama", 2), ("t5", 3), ("vit", 2)]
MODULES = [("torch_mha", 1), ("torch_mha_causal_padded", 1), ("torch_encoder", 2), ("torch_encoder_padded", 2)]
VARIANTS = [
    (name, sites, implementation, exporter)
    for name, sites in (*MODELS, *MODULES)
    for implementation in SPECS[name].implementations
    for exporter in EXPORTERS
]


def paddings(batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The inputs with padding as they have it, on the left, on neither side, and with an entry of padding only."""
    variants = [batch]
    for name in ("attention_mask", "padding"):
        if name in batch:
            mask = batch[name]
            on, off = (1, 0) if name == "attention_mask" else (False, True)
            left, none, dead = (np.full_like(mask, on) for _ in range(3))
            left[-1, :4] = off
            dead[-1] = off
            variants += [batch | {name: changed} for changed in (left, none, dead)]
    return variants


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sites", "implementation", "exporter"), VARIANTS)
def test_every_site_fuses(name, sites, implementation, exporter):
    path = exported(name, implementation, exporter)
    result = flashonnx.fusion.fuse(path)
    assert result.report.total == result.report.fused == sites, result.report
    onnx.checker.check_model(result.model)
    assert not {node.op_type for node in result.model.graph.node} & {"Softmax", "Attention"}
    # The legacy exporter writes the example's length into nn.MultiheadAttention.
    fixed = exporter == "legacy17" and implementation == "torch"
    lengths = SPECS[name].lengths
    assert_same(onnx.load(path), result.model, paddings(feeds(SPECS[name], 3, lengths[0] if fixed else lengths[1])))


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, batches: list[dict[str, np.ndarray]]) -> None:
    """Where the file says NaN, from a row without keys, the fused one may say something better."""
    old_runs = run_model(as_the_standard_says(before), batches)
    for old, new in zip(old_runs, run_model(as_the_standard_says(after), batches), strict=True):
        for expected, found in zip(old, new, strict=True):
            known = ~np.isnan(expected)
            scale = np.abs(expected[known]).max()
            np.testing.assert_allclose(found[known], expected[known], rtol=1e-4, atol=1e-4 * scale)
