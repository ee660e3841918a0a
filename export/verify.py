"""Runs what a site was beside what it becomes, on random inputs, and compares.

The subgraph between the fused op's sources and its output is cut out of the graph with both versions in it; masks are
computed from the model's own inputs, with padding on either side and with rows that are masked altogether.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.layouts import Layout
from flashonnx.fusion.lower import Lowered
from flashonnx.fusion.mask_terms import Meaning
from flashonnx.fusion.patterns import PATTERNS, fill, patterns
from flashonnx.fusion.portable import Form, portable_function
from flashonnx.fusion.run import run_model, run_reference
from flashonnx.fusion.sizes import TRACES
from flashonnx.fusion.standard import as_the_standard_says
from flashonnx.fusion.tensor_type import Type

# Largest difference, absolute and relative to the old value: room for sums in another order, not for another sum.
TOLERANCE = {ir.DataType.FLOAT: 1e-4, ir.DataType.DOUBLE: 1e-9, ir.DataType.FLOAT16: 2e-2}
_USUAL_TRACES = 2


@dataclass
class _Cut:
    """A subgraph: its nodes, what has to be fed, and the weights that it uses."""

    nodes: set[ir.Node] = field(default_factory=set)
    inputs: list[ir.Value] = field(default_factory=list)
    weights: list[ir.Value] = field(default_factory=list)


class Verifier:
    """Compares sites of one graph before and after."""

    def __init__(self, graph: ir.Graph, facts: Facts, ir_version: int):
        self.graph = graph
        self.facts = facts
        self.ir_version = ir_version
        inputs = list(graph.inputs)
        traces = (*facts.traces[:_USUAL_TRACES], *facts.traces[TRACES:])
        self.fed = [trace.with_feeds(feeds) for trace in traces for feeds in patterns(inputs, trace)]

    def verify(self, attention: Attention, meaning: Meaning, lowered: Lowered) -> float:
        """The largest absolute difference. Raises Refusal if that is too much, or if either version does not run."""
        old_values, new_values = zip(*lowered.replaced, strict=True)
        old_cut, new_cut = (self._cut(attention, lowered, values) for values in (old_values, new_values))
        # A mask that the caller gives as numbers excludes keys by them, as the padding masks do.
        excluding = {term.source.value for term in meaning.terms if term.is_added and not term.is_moderate}
        feeds = list(self._feeds(excluding, old_cut, new_cut))
        # ONNX Runtime's leaves rows past an entry's length open.
        by_definition = any(node.op_type == "GroupQueryAttention" for node in old_cut.nodes)
        dtype = self.facts.dtype(lowered.layout.y.value)
        worst = 0.0
        try:
            old = _run(self._model(old_cut, old_values, dtype, None), feeds, by_definition)
            new = _run(self._model(new_cut, new_values, dtype, lowered.form), feeds, by_definition=False)
        except RuntimeError as error:
            raise Refusal(f"verification could not run: {error}") from error
        tolerance = self._tolerance(lowered.layout) + 4 * meaning.rounding
        for old_arrays, new_arrays in zip(old, new, strict=True):
            for before, after in zip(old_arrays, new_arrays, strict=True):
                worst = max(worst, difference(before, after, tolerance))
        return worst

    def _tolerance(self, layout: Layout) -> float:
        """By the shortest type that the old nodes compute in."""
        dtypes = [self.facts.dtype(place.value) for place in (layout.q, layout.k, layout.v, layout.y)]
        return max(TOLERANCE.get(dtype, TOLERANCE[ir.DataType.FLOAT]) for dtype in dtypes)

    def _cut(self, attention: Attention, lowered: Lowered, outputs: Sequence[ir.Value]) -> _Cut:
        """All between the sources and the outputs."""
        layout = lowered.layout
        inside = {*attention.absorbed, *attention.made}
        for places in (attention.q, attention.k, attention.v, attention.y):
            inside.update(node for place in places if (node := place.value.producer()) is not None)
        cut = _Cut()
        sources = _sources(attention, layout)
        cut.inputs.extend(dict.fromkeys(sources))
        seen = set(sources)
        pending = list(outputs)
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            node = value.producer()
            if value.const_value is not None and node is None:
                cut.weights.append(value)
            elif node is None or self._is_fed(value, node, inside):
                cut.inputs.append(value)
            else:
                cut.nodes.add(node)
                pending.extend(source for source in node.inputs if source is not None)
        return cut

    def _is_fed(self, value: ir.Value, node: ir.Node, inside: set[ir.Node]) -> bool:
        """Whether the value is a size, or an activation that the site merely reads. New nodes are in no trace."""
        if value not in self.fed[0].types:
            return False
        return node.op_type in ("Shape", "Size") or (node not in inside and self.fed[0].data(value) is None)

    def _model(self, cut: _Cut, outputs: Sequence[ir.Value], dtype: ir.DataType, form: Form | None) -> onnx.ModelProto:
        """The cut as a model; form: of the op, whose function it then has."""
        graph = onnx.GraphProto(name="site")
        graph.node.extend(ir.serde.serialize_node(node) for node in self.graph if node in cut.nodes)
        for value in cut.inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(str(value.name), int(self.facts.dtype(value)), None))
        graph.initializer.extend(ir.serde.serialize_tensor(_named(value)) for value in cut.weights)
        for value in outputs:
            graph.output.append(onnx.helper.make_tensor_value_info(str(value.name), int(dtype), None))
        opsets = dict(self.graph.opset_imports)
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        if contract.DOMAIN not in opsets:
            imports.append(onnx.helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION))
        functions = [ir.serde.serialize_function(portable_function(form, "", opsets))] if form is not None else []
        return onnx.helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=self.ir_version)

    def _feeds(self, excluding: set[ir.Value], *cuts: _Cut) -> Iterator[dict[str, np.ndarray]]:
        """One for each size and pattern that is not the same as one before: not all masks depend on the model's inputs.

        excluding: masks of numbers that the caller gives, which exclude keys by them.
        """
        generator = np.random.default_rng(0)
        inputs = list(dict.fromkeys(value for cut in cuts for value in cut.inputs))
        tried: set[tuple[object, ...]] = set()
        for trace, pattern in zip(self.fed, itertools.cycle(PATTERNS), strict=False):
            known = {value: trace.data(value) for value in inputs}
            given = [value for value in inputs if value in excluding and known[value] is None and pattern != "ones"]
            contents = (None if array is None else array.tobytes() for array in known.values())
            case = (pattern if given else "", *(trace.shape(value) for value in inputs), *contents)
            if case in tried:
                continue
            tried.add(case)
            feeds = {str(value.name): draw(value, trace, generator) for value in inputs}
            yield feeds | {str(mask.name): _excluding(trace.types[mask], pattern, generator) for mask in given}


def _sources(attention: Attention, layout: Layout) -> list[ir.Value]:
    """Where the op takes Q, K and V; what the pass made for that is fed as the old nodes take it."""
    taken = ((layout.q, attention.q), (layout.k, attention.k), (layout.v, attention.v))
    if attention.made:
        return [places[-1].value for _, places in taken if places[-1].value.producer() not in attention.made]
    return [place.value for place, _ in taken]


def _run(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]], by_definition: bool) -> list[list[np.ndarray]]:
    """In ONNX Runtime, or by ONNX's reference where that is asked for or ONNX Runtime cannot say what ONNX does."""
    if not by_definition:
        with suppress(RuntimeError):
            return list(run_model(as_the_standard_says(model), feeds))
    return list(run_reference(model, feeds))


def _named(value: ir.Value) -> ir.TensorProtocol:
    """In memory: a model of bytes has no folder in which to look for external data."""
    tensor = value.const_value
    assert tensor is not None
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)


def draw(value: ir.Value, trace: Trace, generator: np.random.Generator) -> np.ndarray:
    """The trace's own data where it has some, else random numbers of the right shape and type."""
    data = trace.data(value)
    if data is not None:
        return data
    known = trace.types[value]
    if known.dtype.is_floating_point():
        return generator.standard_normal(known.shape).astype(known.dtype.numpy())
    return generator.integers(0, 2, known.shape).astype(known.dtype.numpy())


def _excluding(type_: Type, pattern: str, generator: np.random.Generator) -> np.ndarray:
    """A mask of 0 and what excludes a key; half precision has no number for that which every runtime rounds alike."""
    dtype = type_.dtype.numpy()
    excluded = -np.inf if type_.dtype == ir.DataType.FLOAT16 else type_.dtype.min
    return np.where(fill(pattern, type_.shape, generator), 0.0, excluded).astype(dtype)


def difference(old: np.ndarray, new: np.ndarray, tolerance: float) -> float:
    """The largest absolute difference. Raises Refusal where it is beyond the tolerance.

    NaN in the old one, from a row without any key, is what nobody wants: there the op says 0.
    """
    if old.shape != new.shape:
        raise Refusal(f"verification: the fused output has shape {new.shape}, the original {old.shape}")
    old, new = old.astype(np.float64), new.astype(np.float64)
    known = ~np.isnan(old)
    distance = np.abs(np.where(known, new - old, 0.0))
    worst = float(distance.max(initial=0.0))
    if not np.all(distance <= tolerance * (1 + np.abs(np.where(known, old, 0.0)))):
        raise Refusal(f"verification: the fused output differs by {worst:.3g}")
    return worst
