"""One attention in normal form: which atoms are batch, heads, rows, keys and features, and where its tensors are."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from flashonnx.fusion.axes import Atom, Axis, View, resolve, size_of
from flashonnx.fusion.contraction import Contraction, Operand, atoms_by_label, operand_view
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.operand import Place, walk_operand
from flashonnx.fusion.output import walk_output
from flashonnx.fusion.patterns import data_inputs
from flashonnx.fusion.scores import MaskTerm, Scores, Sink, walk_scores


@dataclass(frozen=True)
class Cache:
    """Past keys and values, (batch, kv_heads, row, feature), and where the grown caches are wanted; None: not.

    packed_present: both grown caches in one, (2, batch, kv_heads, row, feature).
    """

    past_key: ir.Value | None
    past_value: ir.Value | None
    present_key: ir.Value | None
    present_value: ir.Value | None
    kv_heads: Axis
    packed_present: ir.Value | None = None


@dataclass
class Attention:
    """softmax(softcap(scale · Q·Kᵀ) with masks) · V, however the graph spells it.

    q, k, v, y: the places at which each may be taken, innermost (nearest to the softmax) first. heads are q_num_heads;
    how many of them K and V have is read off their views. keys are all keys, new_keys the rows of K and V, which are
    fewer where a cache holds the past ones. row_factors: what the rows of Q are to be multiplied by. causal, left,
    right: from a node that has such attributes. made: nodes of the pass's own that Q, K, V and masks come from, and
    those that they stand for.
    """

    anchor: ir.Node
    batch: Axis
    heads: Axis
    rows: Axis
    keys: Axis
    new_keys: Axis
    feature: Axis
    v_feature: Axis
    q: tuple[Place, ...]
    k: tuple[Place, ...]
    v: tuple[Place, ...]
    y: tuple[Place, ...]
    scale: float
    softcap: float = 0.0
    masks: tuple[MaskTerm, ...] = ()
    row_factors: tuple[tuple[ir.Value, View], ...] = ()
    sink: Sink | None = None
    guarded: bool = False
    absorbed: tuple[ir.Node, ...] = ()
    causal: bool = False
    left: int = -1
    right: int = -1
    cache: Cache | None = None
    nonpad_kv_seqlen: ir.Value | None = None
    made: tuple[ir.Node, ...] = ()
    form: str = "softmax"

    def mask_axes(self) -> tuple[Axis, Axis, Axis, Axis]:
        """The axes of attn_mask."""
        return tuple(resolve(axis) for axis in (self.batch, self.heads, self.rows, self.keys))  # type: ignore[return-value]

    def mask_inputs(self) -> set[ir.Value]:
        """The model's inputs that decide which keys count, or what is added to their scores."""
        values = [term.value for term in self.masks]
        values += [self.nonpad_kv_seqlen] if self.nonpad_kv_seqlen is not None else []
        return {source for value in values for source in data_inputs(value)}

    @property
    def has_past(self) -> bool:
        return self.cache is not None and self.cache.past_key is not None

    def lengths_differ(self, facts: Facts) -> bool:
        """Whether there may be another number of keys than of queries."""
        return size_of(resolve(self.rows), facts.count) != size_of(resolve(self.keys), facts.count)

    def may_have_more_rows_than_keys(self, facts: Facts) -> bool:
        """Whether it may at some sizes: unless there are as many, or some fixed number or dimension of keys more."""
        rows, keys = (size_of(resolve(axis), facts.count) for axis in (self.rows, self.keys))
        more = tuple(key - row for row, key in zip(rows, keys, strict=True))
        return min(more) < 0 or not (len(set(more)) == 1 or facts.is_dimension(more))

    def q_axes(self, rank: int) -> tuple[Axis, ...]:
        return _axes(rank, self.batch, self.heads, self.rows, self.feature)

    def k_axes(self, rank: int, kv_heads: Axis) -> tuple[Axis, ...]:
        return _axes(rank, self.batch, kv_heads, self.new_keys, self.feature)

    def v_axes(self, rank: int, kv_heads: Axis) -> tuple[Axis, ...]:
        return _axes(rank, self.batch, kv_heads, self.new_keys, self.v_feature)

    def y_axes(self, rank: int) -> tuple[Axis, ...]:
        return _axes(rank, self.batch, self.heads, self.rows, self.v_feature)

    def kv_head_choices(self) -> list[Axis]:
        """The heads that K and V may come with, fewest first; query head h reads key head h // group."""
        if self.cache is not None:
            return [resolve(self.cache.kv_heads)]
        heads = resolve(self.heads)
        choices = []
        for count in range(len(heads) + 1):
            kv_heads = heads[:count]
            if all(any(_heads_of(place, heads) == kv_heads for place in places) for places in (self.k, self.v)):
                choices.append(kv_heads)
        return choices


def _axes(rank: int, batch: Axis, heads: Axis, rows: Axis, feature: Axis) -> tuple[Axis, ...]:
    batch, heads, rows, feature = (resolve(axis) for axis in (batch, heads, rows, feature))
    return (batch, heads, rows, feature) if rank == 4 else (batch, rows, heads + feature)


def _heads_of(place: Place, heads: Axis) -> Axis:
    present = set(place.view.atoms())
    return tuple(atom for atom in heads if atom in present)


def from_softmax(softmax: ir.Node, facts: Facts) -> Attention:
    """The attention around a Softmax. Raises Refusal, naming the node, if there is none or it is not understood."""
    source = softmax.inputs[0]
    assert source is not None
    view = View.fresh(facts.sizes(source))
    scores = walk_scores(source, view, facts, softmax)
    keys = scores.sink.keys if scores.sink is not None else view.axes[-1]
    product = walk_output(softmax.outputs[0], view, keys, scores.sink, facts)
    assert scores.contraction is not None
    q, k, feature = _q_and_k(scores.contraction, scores.view, keys, facts)
    lead, rows = _lead_and_rows(scores.contraction, k, scores.view, keys)
    q_places = walk_operand(q.value, _view(q, scores, feature, facts), facts, scalable=True)
    k_places = walk_operand(k.value, _view(k, scores, feature, facts), facts, scalable=True)
    v_places = walk_operand(product.value.value, product.value_view, facts, scalable=False)
    batch, heads = split_lead(resolve(lead), resolve(rows), (feature, product.v_feature), q_places, product.places)
    return Attention(
        anchor=softmax,
        batch=batch,
        heads=heads,
        rows=rows,
        keys=keys,
        new_keys=keys,
        feature=feature,
        v_feature=product.v_feature,
        q=q_places,
        k=k_places,
        v=v_places,
        y=product.places,
        scale=scores.scale,
        softcap=scores.softcap,
        masks=scores.masks,
        row_factors=scores.row_factors,
        sink=scores.sink,
        guarded=product.guarded,
        absorbed=(*scores.absorbed, softmax, *product.absorbed),
    )


def _q_and_k(contraction: Contraction, view: View, keys: Axis, facts: Facts) -> tuple[Operand, Operand, Axis]:
    atoms = atoms_by_label(contraction.out, view)
    wanted = set(resolve(keys))
    key_labels = {label for label, axis in atoms.items() if set(axis) & wanted}
    first, second = contraction.operands()
    holders = [operand for operand in (first, second) if key_labels & set(operand.labels)]
    if not wanted or len(holders) != 1:
        raise Refusal("the scores have no axis of keys", contraction.node)
    k = holders[0]
    q = second if k is first else first
    summed = contraction.summed()
    sizes = [facts.sizes(q.value)[q.labels.index(label)] for label in summed]
    feature = tuple(Atom(size) for size in sizes if set(size) != {1})
    if len(summed) != 1:
        raise Refusal("the scores are a product that sums over several axes", contraction.node)
    return q, k, feature


def _view(operand: Operand, scores: Scores, feature: Axis, facts: Facts) -> View:
    contraction = scores.contraction
    assert contraction is not None
    atoms = atoms_by_label(contraction.out, scores.view)
    atoms[contraction.summed()[0]] = feature
    return operand_view(operand, atoms, facts)


def _lead_and_rows(contraction: Contraction, k: Operand, view: View, keys: Axis) -> tuple[Axis, Axis]:
    """Atoms of the axes that K has too, the keys aside, and of those that only Q has."""
    atoms = atoms_by_label(contraction.out, view)
    lead = tuple(atom for label in contraction.out if label in k.labels for atom in atoms[label])
    rows = tuple(atom for label in contraction.out if label not in k.labels for atom in atoms[label])
    wanted = set(resolve(keys))
    return tuple(atom for atom in lead if atom not in wanted), rows


def split_lead(
    lead: Axis, rows: Axis, features: tuple[Axis, Axis], q_places: tuple[Place, ...], y_places: tuple[Place, ...]
) -> tuple[Axis, Axis]:
    """Which of the shared axes are batch and which are heads.

    Heads share an axis with their features somewhere on the way, as in (batch, row, head·feature), or else lie between
    row and feature and are of fixed number. Where nothing tells, a rank-4 product has (batch, head) and any other only
    batch.
    """
    ways = [
        (place.view, resolve(feature))
        for places, feature in zip((q_places, y_places), features, strict=True)
        for place in places
    ]
    heads: set[Atom] = set()
    for find in (_heads_beside, _heads_between):
        for view, feature in ways:
            heads = heads or find(view, resolve(rows), feature) & set(resolve(lead))
    lead = resolve(lead)
    if not heads and q_places[0].view.rank >= 4:
        heads = set(q_places[0].view.axes[-3])
    return tuple(atom for atom in lead if atom not in heads), tuple(atom for atom in lead if atom in heads)


def _heads_beside(view: View, rows: Axis, feature: Axis) -> set[Atom]:
    """What stands before the feature in its own axis."""
    for axis in view.axes:
        if feature and axis[-len(feature) :] == feature and not set(axis) & set(rows):
            return {atom for atom in axis[: -len(feature)] if atom.fixed is None}
    return set()


def _heads_between(view: View, rows: Axis, feature: Axis) -> set[Atom]:
    order = [atom for atom in view.atoms() if atom.fixed is None]
    starts = [index for index, atom in enumerate(order) if atom in rows]
    ends = [index for index, atom in enumerate(order) if atom in feature]
    if not starts or not ends or max(starts) > min(ends):
        return set()
    return {atom for atom in order[max(starts) + 1 : min(ends)] if atom.is_constant()}


def is_fixed(axis: Axis, facts: Facts) -> bool:
    """Whether the axis has the same size at all sizes of the model."""
    return len(set(size_of(resolve(axis), facts.count))) == 1


def count_of(axis: Axis, facts: Facts) -> int:
    """How many indices an axis of fixed size has. Raises Refusal if it has no fixed size."""
    if not is_fixed(axis, facts):
        raise Refusal("the number of heads or features is not fixed")
    return size_of(resolve(axis), facts.count)[0]
