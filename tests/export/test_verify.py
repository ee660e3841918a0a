"""Verification: whatever the pass gets wrong, the site or the model is refused and reported, and left as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import flashonnx.fusion
from flashonnx.fusion import FuseResult
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.band import UNBOUNDED
from flashonnx.fusion.embedded import without_weights
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.lower import Lowered, lower
from flashonnx.fusion.mask_terms import Meaning
from flashonnx.fusion.patterns import PATTERNS, patterns
from flashonnx.fusion.run import can_be_lent, run_model, run_reference
from flashonnx.fusion.sizes import trace_model
from flashonnx.fusion.verify import Verifier
from tests.export.forms import WIDTH, Change, attention, join_heads, split_heads
from tests.export.graphs import Graph

# The module; the package has a function of that name.
PASS = sys.modules["flashonnx.fusion.fuse"]
LOWEST = float(np.finfo(np.float32).min)

Misread = Callable[[Attention, Meaning], tuple[Attention, Meaning]]


def masked(graph: Graph, scores: str) -> str:
    """Causal and padding, by numbers."""
    keep = graph.input("keep", np.bool_, ("batch", "rows"), integers=(0, 1), is_padding=True)
    rows, keys = (graph.positions(graph.dim(scores, axis)) for axis in (2, 3))
    causal = graph.op("LessOrEqual", keys, graph.unsqueeze(rows, 1))
    allowed = graph.op("And", causal, graph.unsqueeze(keep, 1, 2))
    return graph.op("Where", allowed, scores, graph.constant(LOWEST, np.float32))


def with_float_mask(graph: Graph, scores: str) -> str:
    return graph.op("Add", scores, graph.input("mask", np.float32, ("batch", 1, 1, "rows")))


def scaled(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
    return replace(attention, scale=attention.scale * 1.01), meaning


def not_causal(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
    return attention, replace(meaning, band=UNBOUNDED)


def not_padded(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
    return attention, replace(meaning, terms=(), mean_without_keys=False)


def zero_without_keys(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
    """Wrong in rows without a key only, which left padding and a row that is masked altogether have."""
    terms = tuple(replace(term, fill=-np.inf) for term in meaning.terms)
    return attention, replace(meaning, mean_without_keys=False, terms=terms)


def softcapped(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
    return replace(attention, softcap=5.0), meaning


def fuse_misread(misread: Misread, monkeypatch: pytest.MonkeyPatch, on_scores: Change) -> FuseResult:
    def lower_misread(attention: Attention, meaning: Meaning, emitter: Emitter) -> Lowered:
        return lower(*misread(attention, meaning), emitter)

    monkeypatch.setattr(PASS, "lower", lower_misread)
    return flashonnx.fusion.fuse(attention(on_scores=on_scores).model())


def assert_as_it_was(result: FuseResult) -> None:
    op_types = [node.op_type for node in result.model.graph.node]
    assert op_types.count("Softmax") == 1
    assert op_types.count("MatMul") == 2
    assert not any(node.domain == "flashonnx" for node in result.model.graph.node)
    assert not result.model.functions


@pytest.mark.parametrize("misread", [scaled, not_causal, not_padded, zero_without_keys, softcapped])
def test_a_site_that_differs_is_refused(misread: Misread, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fuse_misread(misread, monkeypatch, masked)
    assert not result.report.fused
    assert "verification: the fused output differs by" in result.report.sites[0].reason
    assert_as_it_was(result)


def test_what_is_read_rightly_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fuse_misread(lambda attention, meaning: (attention, meaning), monkeypatch, masked).report.fused == 1


def test_a_float_mask_excludes_keys_when_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that numbers of the size of scores do not show makes -3.4e38 infinite."""

    def overflowing(attention: Attention, meaning: Meaning) -> tuple[Attention, Meaning]:
        (term,) = meaning.terms
        return attention, replace(meaning, terms=(replace(term, source=replace(term.source, factor=1 + 1e-6)),))

    assert fuse_misread(lambda attention, meaning: (attention, meaning), monkeypatch, with_float_mask).report.fused == 1
    result = fuse_misread(overflowing, monkeypatch, with_float_mask)
    assert not result.report.fused
    assert "verification: the fused output differs by" in result.report.sites[0].reason


@pytest.mark.parametrize("misread", [scaled, not_causal, zero_without_keys])
def test_the_whole_model_is_compared_too(misread: Misread, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no site's comparison had seen it."""
    monkeypatch.setattr(Verifier, "verify", lambda *_: 0.0)
    result = fuse_misread(misread, monkeypatch, masked)
    assert not result.report.fused
    assert "the fused model's" in result.report.sites[0].reason
    assert_as_it_was(result)


def with_text_and_list(text: str) -> ir.Model:
    """A model that also gives a string and a sequence of two tensors."""
    proto = attention().model()
    y = proto.graph.output[0].name
    proto.graph.node.extend(
        [
            onnx.helper.make_node("Constant", [], ["text"], value_strings=[text]),
            onnx.helper.make_node("SequenceConstruct", [y, y], ["list"]),
        ]
    )
    proto.graph.output.extend(
        [
            onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [1]),
            onnx.helper.make_tensor_sequence_value_info("list", onnx.TensorProto.FLOAT, None),
        ]
    )
    return ir.from_proto(proto)


def test_outputs_that_are_strings_or_sequences_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    result = flashonnx.fusion.fuse(with_text_and_list("yes"))
    assert [site.fused for site in result.report.sites] == [True]
    assert result.report.verification.startswith("equal within")

    monkeypatch.setattr(PASS, "verify_model", against(with_text_and_list("no")))
    refused = flashonnx.fusion.fuse(with_text_and_list("yes"))
    assert "text is not the original's" in refused.report.sites[0].reason


def against(other: ir.Model) -> Callable[..., str]:
    """verify_model, with another original."""
    from flashonnx.fusion.verify_model import verify_model

    return lambda original, *rest: verify_model(other, *rest)


def test_a_site_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashonnx.fusion.verify.run_model", _does_not_run)
    monkeypatch.setattr("flashonnx.fusion.verify.run_reference", _does_not_run)
    result = fuse_misread(lambda attention, meaning: (attention, meaning), monkeypatch, masked)
    assert not result.report.fused
    assert "verification could not run" in result.report.sites[0].reason
    assert_as_it_was(result)


def native() -> onnx.ModelProto:
    """ONNX Attention with a float mask, of which ONNX Runtime's own kernel is no judge."""
    graph = Graph(23)
    q, k, v = (graph.input(name, np.float32, ("batch", 2, "rows", 8)) for name in "qkv")
    mask = graph.input("mask", np.float32, ("batch", 1, 1, "rows"))
    graph.outputs.append(graph.op("Attention", q, k, v, mask))
    return graph.model()


def test_attention_is_compared_without_the_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashonnx.fusion.verify.run_reference", _does_not_run)
    assert flashonnx.fusion.fuse(native()).report.fused == 1


@pytest.mark.parametrize("is_right", [True, False])
def test_the_reference_judges_what_cannot_be_spelled_out(is_right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never ONNX Runtime's own Attention."""

    def reference(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> Iterator[list[np.ndarray]]:
        op_types = [node.op_type for node in model.graph.node]
        judged.append(op_types)
        error = 0 if is_right or "Attention" not in op_types else 1
        return ([array + error for array in arrays] for arrays in run_reference(model, feeds))

    judged: list[list[str]] = []
    monkeypatch.setattr("flashonnx.fusion.verify.as_the_standard_says", _does_not_run)
    monkeypatch.setattr("flashonnx.fusion.verify.run_reference", reference)
    result = flashonnx.fusion.fuse(native())
    assert judged == [["Attention"], ["FlashAttention"]]
    assert result.report.fused == is_right


def _does_not_run(*_: object, **__: object) -> None:
    raise RuntimeError("out of luck")


def test_patterns_have_padding_on_both_sides_and_a_row_that_is_masked_altogether() -> None:
    model = ir.from_proto(attention(on_scores=masked).model())
    (keep,) = (value for value in model.graph.inputs if value.name == "keep")
    for trace in trace_model(model)[:2]:
        drawn = dict(zip(PATTERNS, (feeds["keep"] for feeds in patterns([keep], trace)), strict=True))
        assert drawn["ones"].all()
        for pattern, end in (("left", 0), ("right", -1)):
            assert not drawn[pattern][:, end].all()
            assert not drawn[pattern][-1].any()
            steps = np.diff(drawn[pattern].astype(int), axis=1)
            assert (steps >= 0).all() if pattern == "left" else (steps <= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64, ml_dtypes.bfloat16, ml_dtypes.int4])
def test_a_model_is_run_with_weights_that_it_does_not_hold(dtype: np.dtype) -> None:
    """Those of NumPy's own types are lent to ONNX Runtime; the others stay in the message."""
    table = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(dtype)
    graph = Graph(opset=21)
    graph.weights.append(ir.serde.serialize_tensor(ir.Tensor(table, name="table")))
    x = graph.input("x", np.float32, ("rows", 64))
    graph.outputs.append(graph.op("MatMul", x, graph.cast("table", np.float32)))
    model = graph.model()
    message, weights = without_weights(ir.from_proto(model), can_be_lent)
    assert bool(weights) == (np.dtype(dtype).isbuiltin == 1)
    feeds = [{"x": np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)} for rows in (2, 3)]
    for lent, held in zip(run_model(message, feeds, weights=weights), run_model(model, feeds), strict=True):
        np.testing.assert_allclose(lent[0], held[0], rtol=1e-5, atol=1e-5)


def test_what_comes_from_activations_is_not_looked_for_in_weights() -> None:
    """A site's verification asks which values are known; loading every weight to say no would take all memory."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "rows", 8))
    weight = graph.constant(np.eye(8), np.float32)
    product = graph.op("MatMul", x, weight)
    graph.outputs.append(graph.op("Relu", product))
    model = ir.from_proto(graph.model())
    trace = trace_model(model)[0].with_feeds({})
    assert trace.data(model.graph.outputs[0]) is None
    assert not any(array is not None for array in trace._data.values())


def embedded() -> Graph:
    """Attention without a mask over rows to which what a table has for the model's integers is added."""
    graph = Graph()
    x = graph.input("x", np.float32, ("batch", "rows", WIDTH))
    ids = graph.input("ids", np.int64, ("batch", "rows"), integers=(0, 1))
    rows = graph.op("Gather", graph.constant(np.random.default_rng(0).standard_normal((2, WIDTH)), np.float32), ids)
    q, k, v = (split_heads(graph, graph.op("Add", x, rows)) for _ in "qkv")
    scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    graph.outputs.append(join_heads(graph, graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)))
    return graph


def feeds_by_run(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], str]:
    """How many inputs each run of a site is given, and what is said of the model's."""

    def counting(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> Iterator[list[np.ndarray]]:
        counts.append(len(feeds))
        return run_model(model, feeds)

    counts: list[int] = []
    monkeypatch.setattr("flashonnx.fusion.verify.run_model", counting)
    report = flashonnx.fusion.fuse(graph.model()).report
    assert report.fused == report.total
    return counts, report.verification


@pytest.mark.parametrize("graph", [attention(), embedded()], ids=["no integers", "integers that mask nothing"])
def test_what_has_no_masks_is_run_once_at_each_size(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, said = feeds_by_run(graph, monkeypatch)
    assert counts == [2, 2]
    assert said.endswith("with 1 inputs")


@pytest.mark.parametrize("mask", [masked, with_float_mask])
def test_masks_are_tried_with_all_patterns(mask: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, said = feeds_by_run(attention(on_scores=mask), monkeypatch)
    assert counts == [2 * len(PATTERNS)] * 2
    assert said.endswith(f"with {len(PATTERNS) if mask is masked else 1} inputs")
