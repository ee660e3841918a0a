"""Products of two tensors, whichever operator spells them, as an Einstein sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from flashonnx.fusion.axes import Axis, View
from flashonnx.fusion.facts import Facts, Refusal

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    value: ir.Value
    labels: Labels


@dataclass(frozen=True)
class Contraction:
    """out = alpha · Σ first · second over the labels that out does not have; size-1 axes broadcast."""

    node: ir.Node
    first: Operand
    second: Operand
    out: Labels
    alpha: float = 1.0

    def operands(self) -> tuple[Operand, Operand]:
        return self.first, self.second

    def summed(self) -> Labels:
        return tuple(label for label in self.first.labels if label not in self.out)


def contraction_of(node: ir.Node | None, facts: Facts) -> Contraction | None:
    """The node as a contraction, or None if it is none."""
    if node is None or len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    spell = _SPELLINGS.get((node.domain, node.op_type))
    return None if spell is None else spell(node, node.inputs[0], node.inputs[1], facts)


def atoms_by_label(labels: Labels, view: View) -> dict[str, Axis]:
    return dict(zip(labels, view.axes, strict=True))


def operand_view(operand: Operand, atoms: Mapping[str, Axis], facts: Facts) -> View:
    """The operand's view; an axis of size 1 broadcasts, so it holds no atoms."""
    sizes = facts.sizes(operand.value)
    return View(
        tuple(() if set(size) == {1} else atoms[label] for label, size in zip(operand.labels, sizes, strict=True)),
        facts.count,
    )


def label_size(operand: Operand, label: str, facts: Facts) -> tuple[int, ...]:
    return facts.sizes(operand.value)[operand.labels.index(label)]


def _matmul(
    node: ir.Node,
    a: ir.Value,
    b: ir.Value,
    facts: Facts,
    *,
    flip_a: bool = False,
    flip_b: bool = False,
    alpha: float = 1.0,
) -> Contraction | None:
    rank_a, rank_b = facts.rank(a), facts.rank(b)
    if min(rank_a, rank_b) < 2:
        return None
    rank = max(rank_a, rank_b)
    lead = tuple(f"b{axis}" for axis in range(rank - 2))
    labels_a = (*lead[rank - rank_a :], *(("k", "m") if flip_a else ("m", "k")))
    labels_b = (*lead[rank - rank_b :], *(("n", "k") if flip_b else ("k", "n")))
    return Contraction(node, Operand(a, labels_a), Operand(b, labels_b), (*lead, "m", "n"), alpha)


def _fused_matmul(node: ir.Node, a: ir.Value, b: ir.Value, facts: Facts) -> Contraction | None:
    """com.microsoft FusedMatMul; its transBatch forms, which no exporter emits, are not read."""
    flags = {name: node.attributes.get_int(name, 0) for name in ("transA", "transB", "transBatchA", "transBatchB")}
    if flags["transBatchA"] or flags["transBatchB"]:
        return None
    alpha = node.attributes.get_float("alpha", 1.0)
    return _matmul(node, a, b, facts, flip_a=bool(flags["transA"]), flip_b=bool(flags["transB"]), alpha=alpha)


def _gemm(node: ir.Node, a: ir.Value, b: ir.Value, facts: Facts) -> Contraction | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    flip_a, flip_b = (bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB"))
    return _matmul(node, a, b, facts, flip_a=flip_a, flip_b=flip_b, alpha=node.attributes.get_float("alpha", 1.0))


def _einsum(node: ir.Node, a: ir.Value, b: ir.Value, facts: Facts) -> Contraction | None:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    if "->" not in equation or len(node.inputs) != 2:
        return None
    inputs, out = equation.split("->")
    terms = inputs.split(",")
    if "." in equation:
        names = [_without_ellipsis(term, facts.rank(value)) for term, value in zip(terms, (a, b), strict=True)]
        lead = max(names, key=lambda labels: sum(label.startswith("...") for label in labels))
        out_labels = tuple(label for label in lead if label.startswith("...")) + tuple(out.replace("...", ""))
    else:
        names, out_labels = [tuple(term) for term in terms], tuple(out)
    if any(len(set(labels)) != len(labels) for labels in (*names, out_labels)):
        return None  # a diagonal
    return Contraction(node, Operand(a, names[0]), Operand(b, names[1]), out_labels)


def _without_ellipsis(term: str, rank: int) -> Labels:
    """Labels of a term that starts with "...": the ellipsis counted from its end, as it broadcasts."""
    if not term.startswith("..."):
        return tuple(term)
    rest = tuple(term[3:])
    return tuple(f"...{rank - len(rest) - axis}" for axis in range(rank - len(rest))) + rest


def require_contraction(node: ir.Node | None, facts: Facts, what: str) -> Contraction:
    contraction = contraction_of(node, facts)
    if contraction is None:
        raise Refusal(f"{what} is no product of two tensors", node)
    return contraction


_SPELLINGS: dict[tuple[str, str], Callable[[ir.Node, ir.Value, ir.Value, Facts], Contraction | None]] = {
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("com.microsoft", "FusedMatMul"): _fused_matmul,
}
