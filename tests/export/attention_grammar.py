"""Random attention graphs, as hypothesis draws them: every spelling that exporters and people use, and near-misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.export.graphs import Graph
from tests.export.mask_grammar import add_masks

Choose = Callable[..., object]


@dataclass(frozen=True, repr=False)
class Case:
    """A model with one attention, or nearly one. spelling: what was drawn, for a failure's message."""

    graph: Graph
    model: onnx.ModelProto
    fixed: dict[str, int] | None
    dtype: np.dtype
    spelling: tuple[str, ...]

    @property
    def rounding(self) -> float:
        """What fp32 loses of the scores of a row without keys to which -10000 is added."""
        return 1e4 * float(np.finfo(np.float32).eps) * self.spelling.count("fill=-1e+04")


@dataclass
class Site:
    """What the parts of the grammar share while they build one attention."""

    graph: Graph
    draw: st.DrawFn
    dtype: np.dtype
    heads: int
    kv_heads: int
    features: int
    v_features: int
    keys: str  # the name of the keys' dimension
    past: bool
    near_miss: str
    spelling: list[str]

    def pick(self, what: str, *options: str) -> str:
        """One of the options, noted down under `what`."""
        option = self.draw(st.sampled_from(options))
        self.spelling.append(f"{what}={option}")
        return option

    def number(self, number: float, *, shapes: bool = True) -> str:
        """A scalar, or a tensor of one element."""
        shape = self.draw(st.sampled_from([(), (1,), (1, 1)])) if shapes else ()
        return self.graph.constant(np.full(shape, number), self.dtype)


# What is nearly, but not, attention; "" is the real thing. Half of the graphs are.
_FUSIBLE_NEAR_MISSES = ("keys against queries", "scale by row", "scale is an input", "scale from the queries")
HOPELESS_NEAR_MISSES = (
    "softmax over rows",
    "softmax over heads",
    "softmax over rows and keys",
    "scores are an output",
    "scores are used twice",
    "probabilities are an output",
    "probabilities become integers",
    "log of probabilities",
    "probabilities scaled by key",
    "probabilities scaled by row",
    "probabilities masked",
    "scores quantised",
    "probabilities quantised",
    "product of integers",
)
NEAR_MISSES = (*_FUSIBLE_NEAR_MISSES, "transposed V", *HOPELESS_NEAR_MISSES)


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    square = draw(st.booleans()) and draw(st.booleans())
    near_miss = draw(st.sampled_from(("",) * len(NEAR_MISSES) + NEAR_MISSES))
    opset = draw(st.sampled_from([13, 14, 16, 17, 18, 20, 21, 23]))
    graph = Graph(opset, constant_nodes=draw(st.booleans()))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float32, np.float32, np.float16])))
    site = Site(graph, draw, dtype, 4, 4, 4, 4, "rows", False, near_miss, [near_miss or "attention"])
    if square:
        fixed = dict.fromkeys(("batch", "rows", "keys", "past", "total"), 4)
        site.spelling.append("square")
    else:
        site.heads = draw(st.sampled_from([1, 2, 4]))
        site.kv_heads = draw(st.sampled_from([count for count in (1, 2, 4) if site.heads % count == 0]))
        site.features, site.v_features = draw(st.sampled_from([(4, 4), (8, 8), (8, 4), (3, 5)]))
        # Keys against queries: the masks fit only where there are as many of both.
        site.keys = "rows" if near_miss == "keys against queries" else site.pick("keys", "rows", "rows", "keys")
        site.past = (
            site.keys == "rows"
            and near_miss != "keys against queries"
            and site.pick("past", "no", "no", "yes") == "yes"
        )
        fixed = (
            {"batch": 2, "rows": 6, "keys": 9, "past": 5, "total": 11}
            if site.pick("sizes", "dynamic", "static") == "static"
            else None
        )
    graph.outputs.append(_attention(site))
    model = graph.model(fixed=fixed, output_dtype=dtype)
    return Case(graph, model, fixed, dtype, tuple(site.spelling))


def _attention(site: Site) -> str:
    graph = site.graph
    q = _heads(site, "q", site.heads, site.features, "rows")
    k = _grouped(site, _cached(site, "k", _heads(site, "k", site.kv_heads, site.features, site.keys)), site.features)
    v = _grouped(
        site, _cached(site, "v", _heads(site, "v", site.kv_heads, site.v_features, site.keys)), site.v_features
    )
    q, k, factor = _scaled_operands(site, q, k)
    scores = _product(site, q, k)
    scores = _scaled_scores(site, scores, q, factor)
    if site.near_miss == "scores are an output":
        graph.outputs.append(scores)
    if site.near_miss == "scores are used twice":
        graph.outputs.append(graph.op("Sigmoid", scores))
    if site.near_miss == "scores quantised":
        scores = _quantised(site, scores)
    scores = add_masks(site, scores, q, k)
    probabilities = _probabilities(site, scores)
    return _output(site, probabilities, v)


def _heads(site: Site, name: str, heads: int, features: int, rows: str) -> str:
    """(batch, head, row, feature) from an input of any layout."""
    graph, dtype = site.graph, site.dtype
    layout = site.pick(name, "bhsd", "bshd", "bs(hd)", "product", "packed", "packed5", "sb(hd)", "flattened")
    if layout == "bhsd":
        return graph.input(name, dtype, ("batch", heads, rows, features))
    if layout == "bshd":
        return graph.transpose(graph.input(name, dtype, ("batch", rows, heads, features)), 0, 2, 1, 3)
    if layout == "sb(hd)":
        value = graph.input(name, dtype, (rows, "batch", heads * features))
        return graph.transpose(graph.reshape(value, 0, 0, heads, features), 1, 2, 0, 3)
    if layout == "flattened":
        flat = graph.op("Flatten", graph.input(name, dtype, ("batch", rows, heads * features)), axis=2)
        return graph.transpose(graph.reshape(flat, (name, 0), -1, heads, features), 0, 2, 1, 3)
    if layout == "bs(hd)":
        value = graph.input(name, dtype, ("batch", rows, heads * features))
    elif layout == "product":
        value = graph.op(
            "MatMul", graph.input(f"x_{rows}", dtype, ("batch", rows, 6)), _weight(site, 6, heads * features)
        )
    elif layout == "packed":
        parts = _packed(site, f"x_{rows}", rows, heads * features)
        value = site.graph.ops(3, "Split", parts, graph.ints(*[heads * features] * 3), axis=2)[1]
    else:
        parts = _packed(site, f"x_{rows}", rows, heads * features)
        five = graph.transpose(graph.reshape(parts, 0, 0, 3, heads, features), 2, 0, 3, 1, 4)
        return graph.op("Gather", five, graph.constant(2, np.int64), axis=0)
    split = (0, 0, heads, features) if site.draw(st.booleans()) else (0, 0, heads, -1)
    return graph.transpose(graph.reshape(value, *split), 0, 2, 1, 3)


def _packed(site: Site, name: str, rows: str, width: int) -> str:
    value = site.graph.input(name, site.dtype, ("batch", rows, 6))
    return site.graph.op("MatMul", value, _weight(site, 6, 3 * width))


def _weight(site: Site, rows: int, columns: int) -> str:
    generator = np.random.default_rng(rows * columns)
    return site.graph.constant(generator.standard_normal((rows, columns)) / np.sqrt(rows), site.dtype)


def _cached(site: Site, name: str, value: str) -> str:
    if not site.past:
        return value
    features = site.features if name == "k" else site.v_features
    past = site.graph.input(f"past_{name}", site.dtype, ("batch", site.kv_heads, "past", features))
    grown = site.graph.op("Concat", past, value, axis=2)
    if site.draw(st.booleans()):
        site.graph.outputs.append(grown)
    return grown


def _grouped(site: Site, value: str, features: int) -> str:
    """K or V with a head for each query head."""
    group = site.heads // site.kv_heads
    if group == 1:
        return value
    spelling = site.pick("groups", "expand", "interleaved", "tiled", *(["broadcast"] if site.kv_heads == 1 else []))
    graph = site.graph
    if spelling == "broadcast":
        return value
    if spelling == "expand":
        wide = graph.expand(graph.unsqueeze(value, 2), (value, 0), site.kv_heads, group, (value, 2), features)
    elif spelling == "interleaved":  # query head h reads key head h % kv_heads
        wide = graph.expand(graph.unsqueeze(value, 1), (value, 0), group, site.kv_heads, (value, 2), features)
    else:
        return graph.op("Tile", value, graph.ints(1, group, 1, 1))
    return graph.reshape(wide, (value, 0), site.heads, (value, 2), features)


def _scaled_operands(site: Site, q: str, k: str) -> tuple[str, str, float]:
    """Q and K with their part of the scale, and what is left of it for the scores."""
    whole = site.draw(st.sampled_from([1.0, 0.5, 0.3, site.features**-0.5, -0.5, 0.0]))
    place = site.pick("scale", "scores", "q", "k", "both", "none")
    graph = site.graph
    if place == "both" and whole > 0:
        root = graph.op("Sqrt", site.number(whole))
        return graph.op("Mul", q, root), graph.op("Mul", root, k), 1.0
    if place == "q":
        return _times(site, q, whole), k, 1.0
    if place == "k":
        return q, _times(site, k, whole), 1.0
    return q, k, whole if place == "scores" else 1.0


def _times(site: Site, value: str, factor: float) -> str:
    operand, divide = site.number(factor), factor != 0 and site.draw(st.booleans())
    if divide:
        return site.graph.op("Div", value, site.number(1 / factor))
    return site.graph.op("Mul", *(value, operand) if site.draw(st.booleans()) else (operand, value))


def _product(site: Site, q: str, k: str) -> str:
    """Q·Kᵀ as (batch, head, row, key)."""
    graph = site.graph
    if site.near_miss == "keys against queries":
        return graph.op("MatMul", k, graph.transpose(q, 0, 1, 3, 2))
    if site.near_miss == "product of integers":
        kt = graph.transpose(k, 0, 1, 3, 2)
        return graph.cast(graph.op("MatMulInteger", graph.cast(q, np.int8), graph.cast(kt, np.int8)), site.dtype)
    spelling = site.pick("product", "matmul", "einsum", "bmm", "fused")
    if spelling == "einsum":
        return graph.op("Einsum", q, k, equation="bhid,bhjd->bhij")
    if spelling == "fused" and site.dtype == np.float32:
        return graph.op("FusedMatMul", q, k, domain="com.microsoft", alpha=0.5, transB=1)
    if spelling == "bmm" and site.kv_heads == site.heads:
        flat_q = graph.reshape(q, -1, (q, 2), site.features)
        flat_k = graph.transpose(graph.reshape(k, -1, (k, 2), site.features), 0, 2, 1)
        return graph.reshape(graph.op("MatMul", flat_q, flat_k), (q, 0), site.heads, (q, 2), (k, 2))
    return graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))


def _scaled_scores(site: Site, scores: str, q: str, factor: float) -> str:
    graph = site.graph
    if factor != 1.0:
        scores = _times(site, scores, factor)
    if site.near_miss == "scale by row":
        row = graph.op(
            "Add", graph.cast(graph.positions(graph.dim(scores, 2)), site.dtype), site.number(1.0, shapes=False)
        )
        scores = graph.op("Div", scores, graph.unsqueeze(row, 1))
    elif site.near_miss == "scale is an input":
        scores = graph.op("Mul", scores, graph.input("scale", site.dtype, ()))
    elif site.near_miss == "scale from the queries":
        scores = graph.op("Mul", scores, graph.op("ReduceMax", q, keepdims=0))
    if site.pick("softcap", "no", "no", "yes") == "yes":
        cap = site.number(3.0, shapes=False)
        scores = graph.op("Mul", graph.op("Tanh", graph.op("Div", scores, cap)), cap)
    return scores


def _quantised(site: Site, value: str) -> str:
    """Rounded to 8 bits and back."""
    graph = site.graph
    scale, zero = graph.constant(1 / 32, np.float32), graph.constant(0, np.int8)
    rounded = graph.op("QuantizeLinear", graph.cast(value, np.float32), scale, zero)
    return graph.cast(graph.op("DequantizeLinear", rounded, scale, zero), site.dtype)


def _with_sinks(site: Site, scores: str) -> str:
    """The scores with one more column, whose logits count in the softmax only."""
    graph = site.graph
    sinks = np.linspace(-1, 1, site.heads).reshape(1, site.heads, 1, 1)
    column = graph.expand(graph.constant(sinks, site.dtype), (scores, 0), site.heads, (scores, 2), 1)
    return graph.op("Concat", scores, column, axis=-1)


def _probabilities(site: Site, scores: str) -> str:
    graph = site.graph
    sinks = not site.near_miss and site.pick("sinks", "no", "no", "no", "yes") == "yes"
    if sinks:
        scores = _with_sinks(site, scores)
    wide = site.dtype == np.float16 and site.draw(st.booleans())
    if wide:
        scores = graph.cast(scores, np.float32)
    if site.near_miss == "softmax over rows and keys":
        flat = graph.op("Softmax", graph.reshape(scores, 0, 0, -1), axis=-1)
        probabilities = graph.op("Reshape", flat, graph.op("Shape", scores))
    else:
        axis = {"softmax over rows": 2, "softmax over heads": 1}.get(site.near_miss, -1)
        probabilities = graph.op("Softmax", scores, axis=axis)
    if wide:
        probabilities = graph.cast(probabilities, site.dtype)
    step = site.pick("after", "nothing", "guard", "identity", "dropout")
    if step == "guard":
        zero = graph.constant(0.0, site.dtype)
        probabilities = graph.op("Where", graph.op("IsNaN", probabilities), zero, probabilities)
    elif step == "identity":
        probabilities = graph.op("Identity", probabilities)
    elif step == "dropout":
        probabilities = graph.op("Dropout", probabilities)
    if sinks:
        probabilities = graph.op("Slice", probabilities, graph.ints(0), graph.ints(-1), graph.ints(-1))
    return _changed(site, probabilities, scores)


def _changed(site: Site, probabilities: str, scores: str) -> str:
    """What a near-miss does to the probabilities."""
    graph, near_miss = site.graph, site.near_miss
    if near_miss == "probabilities are an output":
        graph.outputs.append(probabilities)
    elif near_miss == "probabilities quantised":
        return _quantised(site, probabilities)
    elif near_miss == "probabilities become integers":
        return graph.cast(graph.cast(probabilities, np.int32), site.dtype)
    elif near_miss == "log of probabilities":
        return graph.op("Log", graph.op("Add", probabilities, site.number(1.0)))
    elif near_miss in ("probabilities scaled by key", "probabilities scaled by row"):
        by_key = near_miss.endswith("key")
        count = graph.cast(graph.positions(graph.dim(scores, 3 if by_key else 2)), site.dtype)
        return graph.op("Mul", probabilities, count if by_key else graph.unsqueeze(count, 1))
    elif near_miss == "probabilities masked":
        keys = graph.positions(graph.dim(scores, 3))
        zero = graph.constant(0.0, site.dtype)
        return graph.op("Where", graph.op("Less", keys, graph.constant(3, np.int64)), probabilities, zero)
    return probabilities


def _output(site: Site, probabilities: str, v: str) -> str:
    """P·V, and its way out."""
    graph = site.graph
    if site.near_miss == "keys against queries":
        probabilities = graph.transpose(probabilities, 0, 1, 3, 2)
    if site.near_miss == "transposed V":
        v = graph.transpose(graph.reshape(v, 0, 0, site.v_features, (v, 2)), 0, 1, 3, 2)
    if site.draw(st.booleans()):
        y = graph.op("MatMul", probabilities, v)
    else:
        y = graph.op("Einsum", probabilities, v, equation="bhij,bhjd->bhid")
    way = site.pick("out", "bhsd", "bshd", "bs(hd)", "product", "sb(hd)", "folded")
    if way == "bhsd":
        return y
    if way == "sb(hd)":
        return graph.reshape(graph.transpose(y, 2, 0, 1, 3), 0, 0, -1)
    if way == "folded":
        return graph.reshape(y, -1, (y, 2), site.v_features)
    y = graph.transpose(y, 0, 2, 1, 3)
    if way == "bshd":
        return y
    y = graph.reshape(y, 0, 0, site.heads * site.v_features)
    return y if way == "bs(hd)" else graph.op("MatMul", y, _weight(site, site.heads * site.v_features, 3))
