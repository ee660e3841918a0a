"""One attention, with places to change it: what the tests of single forms build their models from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

import flashonnx.fusion
from flashonnx.fusion.report import Site
from flashonnx.fusion.run import run_model
from flashonnx.fusion.standard import as_the_standard_says
from tests.export.graphs import PADDINGS, Graph

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE
# Other than any size that the pass looks at.
SIZES = ({"batch": 2, "rows": 6, "keys": 9}, {"batch": 1, "rows": 70, "keys": 75})

Change = Callable[[Graph, str], str]


def same(graph: Graph, value: str) -> str:
    return value


def split_heads(graph: Graph, value: str, heads: int = HEADS) -> str:
    """(batch, row, head·feature) as (batch, head, row, feature)."""
    return graph.transpose(graph.reshape(value, 0, 0, heads, -1), 0, 2, 1, 3)


def join_heads(graph: Graph, value: str) -> str:
    return graph.reshape(graph.transpose(value, 0, 2, 1, 3), 0, 0, WIDTH)


def times(number: float) -> Change:
    return lambda graph, value: graph.op("Mul", value, graph.constant(number, np.float32))


_SCALE = times(SIZE**-0.5)


def attention(
    *,
    opset: int = 18,
    on_q: Change = same,
    on_k: Change = same,
    on_scores: Change = _SCALE,
    on_probabilities: Change = same,
    on_y: Change = join_heads,
    softmax_axis: int = -1,
    keys: str = "rows",
    kv_heads: int = HEADS,
    before_scores: Change = same,
) -> Graph:
    """q (batch, rows, 32), k and v (batch, keys, kv_heads·8) to y. The changes get what they are named for, rank 4."""
    graph = Graph(opset)
    q = graph.input("q", np.float32, ("batch", "rows", WIDTH))
    k, v = (graph.input(name, np.float32, ("batch", keys, kv_heads * SIZE)) for name in "kv")
    query = on_q(graph, split_heads(graph, q))
    key = on_k(graph, split_heads(graph, k, kv_heads))
    value = split_heads(graph, v, kv_heads)
    if kv_heads != HEADS:
        key, value = repeat_heads(graph, key, kv_heads), repeat_heads(graph, value, kv_heads)
    scores = on_scores(graph, graph.op("MatMul", query, graph.transpose(key, 0, 1, 3, 2)))
    probabilities = on_probabilities(graph, graph.op("Softmax", scores, axis=softmax_axis))
    graph.outputs.append(on_y(graph, graph.op("MatMul", probabilities, value)))
    return graph


def repeat_heads(graph: Graph, value: str, kv_heads: int) -> str:
    """Grouped heads as exporters spell them: Unsqueeze, Expand, Reshape."""
    group = HEADS // kv_heads
    expanded = graph.expand(graph.unsqueeze(value, 2), (value, 0), kv_heads, group, (value, 2), SIZE)
    return graph.reshape(expanded, (value, 0), HEADS, (value, 2), SIZE)


@dataclass
class Fused:
    """What the pass made of a model with one site."""

    model: onnx.ModelProto
    site: Site

    @property
    def node(self) -> onnx.NodeProto:
        return next(node for node in self.model.graph.node if node.op_type == "FlashAttention")

    @property
    def attributes(self) -> dict[str, object]:
        return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in self.node.attribute}

    @property
    def op_types(self) -> list[str]:
        return sorted(node.op_type for node in self.model.graph.node)


def complete(graph: Graph) -> onnx.ModelProto:
    """The model with the shapes of its outputs, without which the checker takes none."""
    return onnx.shape_inference.infer_shapes(graph.model())


def fuse(model: onnx.ModelProto) -> Fused:
    result = flashonnx.fusion.fuse(model)
    assert len(result.report.sites) == 1, result.report
    return Fused(result.model, result.report.sites[0])


def assert_fused(graph: Graph, sizes: tuple[Mapping[str, int], ...] = SIZES, tolerance: float = 1e-4) -> Fused:
    """Fuses, and compares at other sizes with every kind of padding. NaN, from a row without keys, may become 0."""
    model = complete(graph)
    fused = fuse(model)
    assert fused.site.fused, fused.site.reason
    if all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
        onnx.checker.check_model(fused.model)
    feeds = [graph.feeds(size, padding, seed) for seed, size in enumerate(sizes) for padding in PADDINGS]
    originals = run_model(as_the_standard_says(model), feeds)
    for before, after in zip(originals, run_model(fused.model, feeds), strict=True):
        for old, new in zip(before, after, strict=True):
            known = ~np.isnan(old)
            np.testing.assert_allclose(new[known], old[known], rtol=tolerance, atol=tolerance)
    return fused


def assert_left_alone(graph: Graph, *words: str) -> None:
    """Not fused, for a reason that has these words, and the model as it was."""
    model = complete(graph)
    fused = fuse(model)
    assert not fused.site.fused
    for word in words:
        assert word in fused.site.reason
    assert [node.op_type for node in fused.model.graph.node].count("Softmax") == 1
    assert not any(node.domain == "flashonnx" for node in fused.model.graph.node)
