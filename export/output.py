"""From the softmax outwards to P·V and to where the output leaves the attention's layout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from flashonnx.fusion.axes import Atom, Axis, View, resolve
from flashonnx.fusion.contraction import Contraction, Operand, atoms_by_label, contraction_of, label_size, operand_view
from flashonnx.fusion.facts import Facts, Refusal, data_consumers, is_in_body, require_inference
from flashonnx.fusion.layout import redo
from flashonnx.fusion.operand import Place
from flashonnx.fusion.scores import Sink, why_not


@dataclass(frozen=True)
class Probabilities:
    """The softmax's result on its way to P·V; guarded: NaN (from rows without a key) becomes 0."""

    value: ir.Value
    view: View
    guarded: bool = False
    absorbed: tuple[ir.Node, ...] = ()


@dataclass(frozen=True)
class Product:
    """P·V: what it reads, where its output may be taken, and the feature axis of V."""

    contraction: Contraction
    value: Operand
    value_view: View
    places: tuple[Place, ...]
    v_feature: Axis
    guarded: bool
    absorbed: tuple[ir.Node, ...] = field(default=())


def walk_output(probabilities: ir.Value, view: View, keys: Axis, sink: Sink | None, facts: Facts) -> Product:
    """Raises Refusal with the first node that stopped the walk."""
    current = Probabilities(probabilities, view)
    while True:
        node, current = _next(current, facts)
        contraction = contraction_of(node, facts)
        if contraction is not None:
            return _product(contraction, current, keys, facts)
        current = _step(current, node, sink, facts)


def _next(current: Probabilities, facts: Facts) -> tuple[ir.Node, Probabilities]:
    """The one node that the probabilities go to, past a NaN guard."""
    if current.value.is_graph_output():
        raise Refusal(f"the probabilities are an output of the model, {current.value.name}")
    consumers = data_consumers(current.value)
    if not consumers:
        raise Refusal("the probabilities are not used")
    if is_in_body(consumers[0], current.value):
        raise Refusal("the probabilities go into the body of an If, Loop or Scan", consumers[0])
    if len(consumers) == 1:
        return consumers[0], current
    guard = _nan_guard(current.value, consumers, facts)
    if guard is None:
        raise Refusal("the probabilities are used elsewhere too", consumers[-1])
    guarded = replace(current, value=guard.outputs[0], guarded=True, absorbed=(*current.absorbed, *consumers))
    return _next(guarded, facts)


def _nan_guard(value: ir.Value, consumers: list[ir.Node], facts: Facts) -> ir.Node | None:
    """The Where of Where(IsNaN(P), 0, P)."""
    tests = [node for node in consumers if node.op_type == "IsNaN"]
    wheres = [node for node in consumers if node.op_type == "Where"]
    if len(consumers) != 2 or len(tests) != 1 or len(wheres) != 1:
        return None
    condition, if_true, if_false = wheres[0].inputs
    if condition is tests[0].outputs[0] and if_false is value and facts.scalar(if_true) == 0:
        return wheres[0]
    return None


def _step(current: Probabilities, node: ir.Node, sink: Sink | None, facts: Facts) -> Probabilities:
    view: View | None = current.view
    if node.op_type == "Dropout":
        require_inference(node, facts)
    elif node.op_type in ("Slice", "Split") and sink is not None:
        view = _without_sink(current.view, node, sink, facts)
    elif node.op_type == "Cast" and not facts.is_float(node.outputs[0]):
        raise Refusal("the probabilities are rounded to integers", node)
    elif node.op_type not in ("Cast", "Identity"):
        view = redo(node, current.view, facts)
    if view is None:
        raise Refusal(why_not("the probabilities", node), node)
    return replace(current, value=node.outputs[0], view=view, absorbed=(*current.absorbed, node))


def _without_sink(view: View, node: ir.Node, sink: Sink, facts: Facts) -> View | None:
    """Drops the sink's column again: the first rows of the last axis, all but one."""
    sizes = facts.sizes(node.outputs[0])
    kept = tuple(atom.size for atom in sink.keys)
    last = view.axes[-1]
    if resolve(sink.with_sink) != last or sizes[:-1] != view.sizes()[:-1] or sizes[-1:] != kept:
        return None
    if node.op_type == "Slice" and facts.integers(node.inputs[1]) != [0]:
        return None
    return view.replace(view.rank - 1, sink.keys)


def _product(contraction: Contraction, current: Probabilities, keys: Axis, facts: Facts) -> Product:
    first, second = contraction.operands()
    if first.value is second.value:
        raise Refusal("the probabilities are multiplied by themselves", contraction.node)
    p, v = (first, second) if first.value is current.value else (second, first)
    atoms = atoms_by_label(p.labels, current.view)
    summed = tuple(atom for label in contraction.summed() for atom in atoms.get(label, ()))
    if resolve(summed) != resolve(keys) or contraction.alpha != 1.0:
        raise Refusal("the probabilities' product does not sum over the keys", contraction.node)
    v_feature: Axis = ()
    for label in v.labels:
        if label not in atoms:
            atoms[label] = () if set(label_size(v, label, facts)) == {1} else (Atom(label_size(v, label, facts)),)
            v_feature += atoms[label]
    _require_all_batches(p, v, atoms, current.view, contraction, facts)
    out = View(tuple(atoms[label] for label in contraction.out), facts.count)
    places = walk_places_forward(Place(contraction.node.outputs[0], out), facts)
    absorbed = (*current.absorbed, contraction.node, *_producers(places[1:]))
    return Product(contraction, v, operand_view(v, atoms, facts), places, v_feature, current.guarded, absorbed)


def _require_all_batches(
    p: Operand, v: Operand, atoms: dict[str, Axis], view: View, contraction: Contraction, facts: Facts
) -> None:
    """An axis that P has with size 1 and V longer would make the output larger than the attention."""
    for label in v.labels:
        if label in p.labels and not atoms[label] and set(label_size(v, label, facts)) != {1}:
            raise Refusal("V has a batch dimension that the probabilities lack", contraction.node)


def walk_places_forward(place: Place, facts: Facts) -> tuple[Place, ...]:
    """The output and what it becomes as long as its elements are only moved, and by one node."""
    places = [place]
    while not places[-1].value.is_graph_output():
        consumers = data_consumers(places[-1].value)
        if len(consumers) != 1 or is_in_body(consumers[0], places[-1].value):
            break
        view = redo(consumers[0], places[-1].view, facts)
        if view is None:
            break
        places.append(Place(consumers[0].outputs[0], view))
    return tuple(places)


def _producers(places: tuple[Place, ...]) -> tuple[ir.Node, ...]:
    return tuple(node for place in places if (node := place.value.producer()) is not None)
