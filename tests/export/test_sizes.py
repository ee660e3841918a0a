"""Sizes at which a file works, though its dimensions are declared free."""

from __future__ import annotations

import numpy as np

from flashonnx.fusion import fuse
from tests.export.graphs import Graph


def test_a_length_that_was_cut_into_blocks_when_it_was_exported() -> None:
    """Two blocks of four are written into the file, as the legacy exporter does: only a length of 8 works."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "length", 6))
    blocks = graph.reshape(x, (x, 0), 2, 4, 6)
    q = graph.reshape(blocks, (x, 0), (x, 1), 6)
    scores = graph.op("MatMul", q, graph.transpose(x, 0, 2, 1))
    graph.outputs.append(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), x))
    report = fuse(graph.model()).report
    assert report.fused == 1
    assert "'length': 8" in report.verification
