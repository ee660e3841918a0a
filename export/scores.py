"""From the softmax inwards to Q·Kᵀ: what happens to the scores on the way, as scale, softcap, masks and sinks.

Each operator has one small handler, which says what the node does to the scores and where they come from. An operator
with two inputs may not show which of them is the scores; its handler then offers both, and the walk that arrives at a
product of two tensors is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.axes import Atom, View
from flashonnx.fusion.contraction import Contraction, contraction_of
from flashonnx.fusion.facts import Facts, Refusal, require_inference, require_single_consumer
from flashonnx.fusion.layout import broadcast_view, undo

# At or below this a score, or what is added to one, excludes its key: exp underflows to 0 in every type.
EXCLUDED = -1e4
# A clamp at or below this changes no score that counts.
_LOWEST = -1e30


@dataclass(frozen=True)
class MaskTerm:
    """One thing that changes the scores key by key.

    kind "add": value times factor is added. kind "keep" ("drop"): where the bool value is false (true), fill is added
    to the score or, if `replaces`, put in its place. `view` is the value's, in the atoms of the scores.
    """

    kind: str
    value: ir.Value
    view: View
    factor: float = 1.0
    fill: float = 0.0
    replaces: bool = False


@dataclass(frozen=True)
class Sink:
    """A column of logits, value times factor, beside the scores, in the softmax's denominator only."""

    value: ir.Value
    view: View
    factor: float
    with_sink: tuple[Atom, ...]  # the softmax axis, sink included
    keys: tuple[Atom, ...]


@dataclass(frozen=True)
class Scores:
    """What the softmax gets, as softcap(scale · Q·Kᵀ) changed by the masks, the one nearest to the softmax first."""

    value: ir.Value
    view: View
    factor: float = 1.0
    softcap: float = 0.0
    masks: tuple[MaskTerm, ...] = ()
    row_factors: tuple[tuple[ir.Value, View], ...] = ()
    sink: Sink | None = None
    absorbed: tuple[ir.Node, ...] = ()
    contraction: Contraction | None = field(default=None, compare=False)

    @property
    def scale(self) -> float:
        alpha = self.contraction.alpha if self.contraction is not None else 1.0
        return self.factor * alpha * (self.softcap or 1.0)

    def through(self, node: ir.Node, value: ir.Value | None, view: View, **changes: object) -> Scores:
        """The walk one node further in."""
        if value is None:
            raise Refusal("an input is missing", node)
        return replace(self, value=value, view=view, absorbed=(*self.absorbed, node), **changes)  # type: ignore[arg-type]


def walk_scores(softmax_input: ir.Value, view: View, facts: Facts, softmax: ir.Node) -> Scores:
    """Raises Refusal with the first node that stopped the walk."""
    return _walk(Scores(softmax_input, view), facts, softmax)


def _walk(scores: Scores, facts: Facts, consumer: ir.Node) -> Scores:
    node = scores.value.producer()
    if node is None:
        raise Refusal(f"the scores are {scores.value.name}, which no node computes")
    _require_unshared(scores, consumer, facts)
    contraction = contraction_of(node, facts)
    if contraction is not None:
        return replace(scores, contraction=contraction, absorbed=(*scores.absorbed, node))
    refusal: Refusal | None = None
    for further in _steps(scores, node, facts):
        try:
            return _walk(further, facts, node)
        except Refusal as error:
            refusal = refusal or error
    raise refusal or Refusal(why_not("the scores", node), node)


# Operators that round activations to integers or compute with such.
_QUANTISED = frozenset(
    [
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QLinearMatMul",
        "QLinearSoftmax",
        "QuantizeLinear",
    ]
)
# Operators that put a tensor together from parts.
_ASSEMBLING = frozenset(["Concat", "Scatter", "ScatterElements", "ScatterND"])


def why_not(what: str, node: ir.Node) -> str:
    """Why the walk ends at a node that has no handler. what: the scores or the probabilities."""
    if node.op_type in _QUANTISED:
        return f"{what} are quantised"
    if node.op_type in _ASSEMBLING and sum(map(_is_product, node.inputs)) > 1:
        return f"block-sparse attention: {what} are put together from products of blocks"
    return f"{what} meet an operator that is not understood"


def _is_product(value: ir.Value | None) -> bool:
    """Whether the value is a product of two tensors, or made from one."""
    pending = [] if value is None else [value.producer()]
    seen: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen or node.op_type in ("Shape", "Size"):
            continue
        if node.op_type in ("MatMul", "FusedMatMul", "Gemm", "Einsum"):
            return True
        seen.add(node)
        pending += [source.producer() for source in node.inputs if source is not None]
    return False


def _require_unshared(scores: Scores, consumer: ir.Node, facts: Facts) -> None:
    maximum = _maximum(consumer, scores.view, facts) if consumer.op_type == "Sub" else None
    require_single_consumer(scores.value, "the scores", (consumer,) if maximum is None else (consumer, maximum))


def _maximum(sub: ir.Node, view: View, facts: Facts) -> ir.Node | None:
    """The ReduceMax of x - max(x), if that takes the same from all keys of a query; softmax does not see it then."""
    inner, other = sub.inputs
    assert other is not None
    node = other.producer()
    while node is not None and node.op_type in ("Cast", "Expand", "Identity", "Reshape", "Unsqueeze"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "ReduceMax" or node.inputs[0] is not inner:
        return None
    varies_by_key = set(broadcast_view(other, view, facts).atoms()) & set(view.axes[-1])
    return None if varies_by_key else node


def _steps(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    handler = _HANDLERS.get(node.op_type) if node.domain == "" else None
    if handler is not None:
        yield from handler(scores, node, facts)
        return
    view = undo(scores.value, scores.view, facts)
    if view is not None and node.op_type != "Expand":
        yield scores.through(node, node.inputs[0], view)


def _operands(node: ir.Node, facts: Facts) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(scores, other) for a commutative operator, the likelier one first: a mask's data are known, the scores' not."""
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    pairs = [(a, b), (b, a)]
    full = facts.sizes(node.outputs[0])
    pairs.sort(key=lambda pair: (facts.sizes(pair[0]) != full, facts.traces[0].data(pair[0]) is not None))
    for pair in pairs:
        if facts.sizes(pair[0]) == full:
            yield pair


def _mul(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    for inner, other in _operands(node, facts):
        scalar = facts.scalar(other)
        if scalar is not None:
            yield scores.through(node, inner, scores.view, factor=scores.factor * scalar)
            return
    for inner, other in _operands(node, facts):
        yield _scaled_by_row(scores, node, inner, other, facts)


def _scaled_by_row(scores: Scores, node: ir.Node, inner: ir.Value, other: ir.Value, facts: Facts) -> Scores:
    """A factor that is the same for all keys can be had by scaling the rows of Q."""
    view = broadcast_view(other, scores.view, facts)
    if set(view.atoms()) & set(scores.view.axes[-1]):
        raise Refusal("the scores are multiplied by a tensor that varies from key to key", node)
    return scores.through(node, inner, scores.view, row_factors=(*scores.row_factors, (other, view)))


def _div(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    scalar = facts.scalar(node.inputs[1])
    if scalar is None or scalar == 0:
        raise Refusal("the scores are divided by a tensor", node)
    if facts.sizes(node.inputs[0]) != facts.sizes(node.outputs[0]):
        raise Refusal("the scores change their shape", node)
    yield scores.through(node, node.inputs[0], scores.view, factor=scores.factor / scalar)


def _add(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    for inner, other in _operands(node, facts):
        yield _masked(scores, node, inner, MaskTerm("add", other, scores.view, scores.factor), facts)


def _sub(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    inner, other = node.inputs
    assert inner is not None
    assert other is not None
    if _maximum(node, scores.view, facts) is not None:
        yield scores.through(node, inner, scores.view)
        return
    yield _masked(scores, node, inner, MaskTerm("add", other, scores.view, -scores.factor), facts)


def _where(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    condition, if_true, if_false = node.inputs
    assert condition is not None
    for kind, inner, other in (("keep", if_true, if_false), ("drop", if_false, if_true)):
        fill = facts.scalar(other)
        if fill is None or inner is None:
            continue
        if fill * scores.factor > EXCLUDED:
            raise Refusal(f"some scores are replaced by {fill}, which excludes no key", node)
        term = MaskTerm(kind, condition, scores.view, fill=fill * scores.factor, replaces=True)
        yield _masked(scores, node, inner, term, facts)


def _masked(scores: Scores, node: ir.Node, inner: ir.Value, term: MaskTerm, facts: Facts) -> Scores:
    if scores.softcap:
        raise Refusal("a mask or bias comes before the softcap", node)
    if facts.sizes(inner) != facts.sizes(node.outputs[0]):
        raise Refusal("a mask or bias is larger than the scores that it is for", node)
    if scores.row_factors:
        raise Refusal("a mask or bias is multiplied by a tensor", node)
    term = replace(term, view=broadcast_view(term.value, scores.view, facts))
    return scores.through(node, inner, scores.view, masks=(*scores.masks, term))


def _tanh(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    if scores.softcap or scores.factor <= 0 or scores.row_factors:
        raise Refusal("a second softcap, or one that is negative or varies", node)
    yield scores.through(node, node.inputs[0], scores.view, softcap=scores.factor, factor=1.0)


def _cast(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    if node.inputs[0] is None or not (facts.is_float(node.inputs[0]) and facts.is_float(node.outputs[0])):
        raise Refusal("the scores are integers", node)
    yield scores.through(node, node.inputs[0], scores.view)


def _dropout(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    require_inference(node, facts)
    yield from _same(scores, node, facts)


def _same(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    yield scores.through(node, node.inputs[0], scores.view)


def _clamp(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    """Max or Clip with a limit so low that no score which counts is changed."""
    inner, *limits = node.inputs
    lower, *upper = limits or [None]
    low = facts.scalar(lower) if lower is not None else -np.inf
    if low is None or low > _LOWEST or any(value is not None for value in upper):
        raise Refusal("the scores are clamped", node)
    yield scores.through(node, inner, scores.view)


def _concat(scores: Scores, node: ir.Node, facts: Facts) -> Iterator[Scores]:
    """Scores beside one column of sinks."""
    rank = scores.view.rank
    inner, column = (*node.inputs, None)[:2]
    if inner is None or column is None or len(node.inputs) != 2 or set(facts.sizes(column)[-1]) != {1}:
        raise Refusal(why_not("the scores", node), node)
    if node.attributes.get_int("axis") % rank != rank - 1 or scores.sink or scores.masks:
        raise Refusal("the scores are joined with something else", node)
    keys = (Atom(facts.sizes(inner)[-1]),)
    sink = Sink(column, broadcast_view(column, scores.view, facts), scores.factor, scores.view.axes[-1], keys)
    yield scores.through(node, inner, scores.view.replace(rank - 1, keys), sink=sink)


_HANDLERS: dict[str, Callable[[Scores, ir.Node, Facts], Iterator[Scores]]] = {
    "Add": _add,
    "Cast": _cast,
    "Clip": _clamp,
    "Concat": _concat,
    "Div": _div,
    "Dropout": _dropout,
    "Identity": _same,
    "Max": _clamp,
    "Mul": _mul,
    "Sub": _sub,
    "Tanh": _tanh,
    "Where": _where,
}
