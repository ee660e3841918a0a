"""Sizes to look at a model with: an assignment of numbers to its symbolic input dimensions under which it works."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from flashonnx.fusion.evaluate import Operators, Trace, operators_of
from flashonnx.fusion.tensor_type import SizeError, Type


@dataclass(frozen=True)
class _Table:
    """One row for each trace: sizes of dimensions that are only ever first, as batches are, and of all others.

    The first stay small in all but the last row; the others are unrelated, so that two dimensions agree in every trace
    only if they are the same, and a product is no other size's product. The last row is even, and turns the order
    round: some models do something else there.
    """

    first: tuple[tuple[int, ...], ...]
    other: tuple[tuple[int, ...], ...]


_USUAL = _Table(((3, 5, 7), (2, 3, 5), (50, 46, 42)), ((11, 23, 37, 53), (17, 13, 29, 47), (38, 34, 22, 14)))
# For models that have a largest size, such as a short table of positions.
_SMALL = _Table(((3, 5, 2), (2, 3, 7), (4, 6, 8)), ((7, 11, 5, 13), (5, 3, 11, 9), (10, 8, 14, 12)))
TRACES = len(_USUAL.first)
# Strided convolutions (audio, images of any size) need longer inputs before anything is left of them.
_STRETCHES = (1, 8, 32, 128, 512)
_MAX_WRITTEN_SIZES = 16


def trace_model(model: ir.Model) -> list[Trace]:
    """The main graph at TRACES unrelated assignments of sizes, or at more where these hang together.

    Where the model works only if some dimensions are linked, those beyond TRACES are sizes at which it works although
    they break the links: what holds only because of these must not be concluded from. Raises SizeError, with the first
    assignment's complaint, if no assignment is found under which the model works.
    """
    graph = model.graph
    operators = operators_of(frozenset(model.opset_imports.items()), model.ir_version)
    complaint: SizeError | None = None
    too_small: list[Trace] | None = None
    for attempt in _attempts(graph):
        if too_small is not None and attempt.links:
            continue  # the sizes fit together; only larger ones could show more
        try:
            traces = [_trace(attempt.sizes(index), graph, operators) for index in range(TRACES)]
        except SizeError as error:
            complaint = complaint or error
        else:
            traces += _traces_despite_links(attempt, graph, operators)
            if not _has_softmax_of_one(graph, traces[0]):
                return traces
            too_small = too_small or traces
        if not attempt.symbols:
            break
    if too_small is not None:
        return too_small
    assert complaint is not None
    raise complaint


def free_dimensions(graph: ir.Graph) -> list[str]:
    """Names of the dimensions of the graph's inputs that have no fixed size; those made of others aside."""
    return list(_symbols(graph))


def trace_at(model: ir.Model, sizes: Mapping[str, int]) -> Trace:
    """The main graph with these sizes of its free dimensions. Raises SizeError if it does not work at them."""
    return _trace(dict(sizes), model.graph, Operators(dict(model.opset_imports), model.ir_version))


def _trace(sizes: dict[str, int], graph: ir.Graph, operators: Operators) -> Trace:
    trace = Trace(operators, sizes)
    for value in graph.inputs:
        if value.shape is None or value.dtype in (None, ir.DataType.UNDEFINED):
            continue
        shape = tuple(_dim(name, sizes) for name in dim_names(value))
        trace.types[value] = Type(value.dtype, shape)
    trace.run(graph)
    _refuse_empty(graph, trace)
    return trace


def dim_names(value: ir.Value) -> list[str | int]:
    """The dimensions of a graph input; a nameless one is named after its place."""
    assert value.shape is not None
    return [
        dim if isinstance(dim, int) else dim.value or f"{value.name}.{axis}" for axis, dim in enumerate(value.shape)
    ]


def _symbols(graph: ir.Graph) -> dict[str, bool]:
    """Names of the free dimensions, each with whether it is only ever seen as a first dimension."""
    symbols: dict[str, bool] = {}
    for value in graph.inputs:
        if value.shape is None:
            continue
        for axis, name in enumerate(dim_names(value)):
            if isinstance(name, str) and name.replace(".", "_").replace(":", "_").replace("/", "_").isidentifier():
                symbols[name] = symbols.get(name, True) and axis == 0
    return symbols


@dataclass(frozen=True)
class _Attempt:
    """A way to choose sizes. symbols: see _symbols. links: what some dimensions are: another, a sum, or a number."""

    symbols: dict[str, bool]
    table: _Table = _USUAL
    stretch: int = 1
    links: dict[str, str] = field(default_factory=dict)

    def sizes(self, index: int) -> dict[str, int]:
        """The assignment of the table's row."""
        firsts, others = iter(self.table.first[index]), iter(self.table.other[index])
        sizes = {}
        for position, (name, is_first) in enumerate(self.symbols.items()):
            size = next(firsts, None) if is_first else None
            if size is None:
                size = next(others, 59 + 2 * position + index) * self.stretch
            sizes[name] = size
        for name, expression in self.links.items():
            sizes[name] = sum(int(term) if term.isdigit() else sizes[term] for term in expression.split("+"))
        return sizes


def _attempts(graph: ir.Graph) -> Iterator[_Attempt]:
    symbols = _symbols(graph)
    yield _Attempt(symbols)
    yield _Attempt(symbols, _SMALL)
    for stretch in _STRETCHES:
        if stretch > 1:
            yield _Attempt(symbols, _USUAL, stretch)
        for links in _links(graph, symbols):
            yield _Attempt(symbols, _USUAL, stretch, links)


def _links(graph: ir.Graph, symbols: dict[str, bool]) -> Iterator[dict[str, str]]:
    """Ways in which dimensions may hang together: one the sum of two, equal, or one fixed after all.

    Also all first dimensions one batch, whatever else: exporters that are given no names give each input its own.
    """
    firsts = [name for name, is_first in symbols.items() if is_first]
    names = [name for name, is_first in symbols.items() if not is_first]
    one_batch = _all_equal(firsts)
    if one_batch:
        yield one_batch
        yield one_batch | _all_equal(names)
    for name in names:
        for first, second in itertools.combinations([other for other in names if other != name], 2):
            yield one_batch | {name: f"{first}+{second}"}
    for name, other in itertools.permutations(symbols, 2):
        yield {name: other}
    for name, other in itertools.permutations(names, 2):
        if one_batch:
            yield one_batch | {name: other}
    for name, number in itertools.product(names, _written_sizes(graph)):
        yield one_batch | {name: str(number)}


def _all_equal(names: list[str]) -> dict[str, str]:
    return dict.fromkeys(names[1:], names[0]) if names else {}


def _traces_despite_links(attempt: _Attempt, graph: ir.Graph, operators: Operators) -> list[Trace]:
    """Traces at sizes that break the attempt's links, as far as the model works there."""
    if not attempt.links:
        return []
    traces = []
    for sizes in _breaking_sizes(attempt):
        with suppress(SizeError):
            traces.append(_trace(sizes, graph, operators))
    return traces[:TRACES]


def _breaking_sizes(attempt: _Attempt) -> Iterator[dict[str, int]]:
    """Other sizes of the linked dimensions and of those that they are linked to: reshapes and slices may take these."""
    free = replace(attempt, links={})
    yield from (free.sizes(index) for index in range(TRACES))
    sizes = attempt.sizes(0)
    others = (term for expression in attempt.links.values() for term in expression.split("+") if term in sizes)
    for name in dict.fromkeys((*attempt.links, *others)):
        size = sizes[name]
        yield from (sizes | {name: other} for other in (2 * size, 3 * size, size + 1, size // 2, size - 1) if other > 1)


def _written_sizes(graph: ir.Graph) -> list[int]:
    """Numbers that the file reshapes or expands to: the legacy exporter writes the example's sizes into some."""
    numbers: dict[int, None] = {}
    products: dict[int, None] = {}
    for node in graph:
        if node.op_type not in ("Concat", "Reshape", "Expand"):
            continue
        written: list[int] = []
        for value in node.inputs:
            tensor = None if value is None else ir.convenience.get_const_tensor(value)
            if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= 8:
                written += [int(number) for number in tensor.numpy().reshape(-1) if number > 1]
        numbers.update(dict.fromkeys(written))
        # A length that is cut into blocks shows as the product of their number and size.
        products.update(dict.fromkeys(first * second for first, second in itertools.pairwise(written)))
    return list(dict.fromkeys((*list(numbers)[:_MAX_WRITTEN_SIZES], *list(products)[:_MAX_WRITTEN_SIZES])))


def _dim(name: str | int, sizes: dict[str, int]) -> int:
    if isinstance(name, int):
        return name
    if name in sizes:
        return sizes[name]
    try:
        return _arithmetic(ast.parse(name, mode="eval").body, sizes)
    except (SyntaxError, KeyError, TypeError, ValueError):
        # Not arithmetic on known names: a size of its own.
        return sizes.setdefault(name, 61 + len(sizes))


def _arithmetic(tree: ast.AST, sizes: dict[str, int]) -> int:
    """A dimension spelled as a sum or product of others, such as "past_sequence_length + 1"."""
    if isinstance(tree, ast.Constant):
        return int(tree.value)  # type: ignore[arg-type]
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.BinOp):
        left, right = _arithmetic(tree.left, sizes), _arithmetic(tree.right, sizes)
        if isinstance(tree.op, ast.Add):
            return left + right
        if isinstance(tree.op, ast.Sub):
            return left - right
        if isinstance(tree.op, ast.Mult):
            return left * right
        if isinstance(tree.op, ast.FloorDiv):
            return left // right
    raise ValueError(ast.dump(tree))


def _refuse_empty(graph: ir.Graph, trace: Trace) -> None:
    """An output without elements means that the sizes are too small for what the model does."""
    for value in graph.outputs:
        shape = trace.shape(value)
        if shape is not None and math.prod(shape) == 0:
            raise SizeError(f"output {value.name} is empty at {trace.sizes}")


def _has_softmax_of_one(graph: ir.Graph, trace: Trace) -> bool:
    """Whether a softmax is over a single element, as attention is at sizes that are too small for the model."""
    shapes = [trace.shape(node.outputs[0]) for node in graph if node.op_type == "Softmax"]
    return any(shape and shape[-1] == 1 for shape in shapes)
