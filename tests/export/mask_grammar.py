"""Random masks and biases on the scores: made from shapes, from padding, from data, from stored tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.export.attention_grammar import Site

# Sides of the largest sizes that a stored table has to serve.
TABLE = 192


def add_masks(site: Site, scores: str, q: str, k: str) -> str:
    """The scores with none to three masks."""
    for _ in range(site.draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        kind = site.pick(
            "mask",
            "causal",
            "causal",
            "window",
            "table",
            "padding",
            "padding",
            "both",
            "tokens",
            "float",
            "excluding",
            "bias",
            "parity",
        )
        scores = _ADD[kind](site, scores, q, k)
    return scores


def _total(site: Site) -> tuple[str, ...]:
    """The keys' dimension in a model input's shape."""
    return ("total" if site.past else site.keys,)


def _distance(site: Site, q: str, k: str) -> str:
    """Key position less query position, (rows, keys); counted from the start or from the end."""
    graph = site.graph
    rows, keys = graph.dim(q, 2), graph.dim(k, 2)
    i, j = graph.positions(rows), graph.positions(keys)
    if site.pick("origin", "start", "end") == "end":
        i = graph.op("Add", i, graph.op("Sub", keys, rows))
    shift = site.draw(st.sampled_from([0, 0, 0, 1, -1]))
    if shift:
        site.spelling.append(f"shift={shift}")
        i = graph.op("Add", i, graph.constant(shift, np.int64))
    return graph.op("Sub", graph.unsqueeze(j, 0), graph.unsqueeze(i, 1))


def _causal(site: Site, scores: str, q: str, k: str) -> str:
    graph = site.graph
    way = site.pick("spelling", "compare", "trilu", "inverted")
    if way == "trilu" and graph.opset >= 14:
        ones = graph.expand(graph.constant(1.0, site.dtype), (q, 2), (k, 2))
        offset = site.draw(st.sampled_from([0, 1, -1]))
        allowed = graph.cast(graph.op("Trilu", ones, graph.constant(offset, np.int64), upper=0), np.bool_)
    else:
        compare = "GreaterOrEqual" if way == "inverted" else "LessOrEqual"
        allowed = graph.op(compare, _distance(site, q, k), graph.constant(0, np.int64))
    return _exclude(site, scores, allowed)


def _window(site: Site, scores: str, q: str, k: str) -> str:
    graph = site.graph
    distance = _distance(site, q, k)
    left = site.draw(st.sampled_from([1, 3, 8, 20, 64, 100]))
    site.spelling.append(f"left={left}")
    limit = graph.constant(-left, np.int64)
    if site.draw(st.booleans()):  # a number that no constant shows
        limit = graph.op(
            "Mul",
            graph.constant(-1, np.int64),
            graph.op("Mul", graph.constant(2, np.int64), graph.constant(left // 2, np.int64)),
        )
    allowed = graph.op("Greater", distance, limit)
    if site.pick("right", "causal", "same", "none") != "none":
        bound = 0 if site.spelling[-1].endswith("causal") else left
        allowed = graph.op("And", allowed, graph.op("LessOrEqual", distance, graph.constant(bound, np.int64)))
    return _exclude(site, scores, allowed)


def _table(site: Site, scores: str, q: str, k: str) -> str:
    """A stored table, cut to size."""
    graph = site.graph
    kind = site.pick("stored", "causal", "causal at first", "window", "column", "row", "block")
    i, j = np.arange(TABLE)[:, None], np.arange(TABLE)[None, :]
    table = {
        "causal": j <= i,
        "causal at first": (j <= i) | (i > 60),
        "window": (j <= i) & (j > i - 70),
        "column": np.arange(TABLE)[:, None] > 50 + 0 * j[:, :1],
        "row": np.arange(TABLE)[None, :] < 80,
        "block": i // 8 == j // 8,
    }[kind]
    if kind == "column":
        table = ~table
    value = graph.constant(table[None, None])
    for axis, size, source in ((2, table.shape[0], q), (3, table.shape[1], k)):
        if size > 1:
            end = graph.op("Unsqueeze", graph.dim(source, 2), graph.ints(0))
            value = graph.op("Slice", value, graph.ints(0), end, graph.ints(axis))
    return _exclude(site, scores, value)


def _padding(site: Site, scores: str, q: str, k: str) -> str:
    """From an input of ones and zeros."""
    graph = site.graph
    if site.dtype == np.float16 or site.pick("arithmetic", "no", "yes") == "no":
        return _exclude(site, scores, _key_mask(site))
    keep = graph.cast(
        graph.input("attention_mask", np.int64, ("batch", *_total(site)), integers=(0, 1), is_padding=True), site.dtype
    )
    keep = graph.unsqueeze(keep, 1, 2)
    one = graph.constant(1.0, site.dtype)
    lowest = graph.constant(_fill(site, finite=True), site.dtype)
    return graph.op("Add", scores, graph.op("Mul", graph.op("Sub", one, keep), lowest))


def _key_mask(site: Site) -> str:
    """(batch, 1, 1, keys), true where a key counts."""
    graph = site.graph
    kind = site.pick("padding", "int", "bool", "inverted", "4D")
    dims = ("batch", *_total(site))
    if kind == "int":
        mask = graph.input("attention_mask", np.int64, dims, integers=(0, 1), is_padding=True)
        return graph.unsqueeze(graph.cast(mask, np.bool_), 1, 2)
    if kind == "4D":
        return graph.input("mask4", np.bool_, (dims[0], 1, 1, dims[1]), integers=(0, 1), is_padding=True)
    mask = graph.input("keep", np.bool_, dims, integers=(0, 1), is_padding=True)
    if kind == "inverted":
        mask = graph.op("Not", graph.op("Not", mask))
    return graph.unsqueeze(mask, 1, 2)


def _both(site: Site, scores: str, q: str, k: str) -> str:
    """Causal and padding in one mask."""
    graph = site.graph
    causal = graph.op("LessOrEqual", _distance(site, q, k), graph.constant(0, np.int64))
    return _exclude(site, scores, graph.op("And", causal, _key_mask(site)))


def _tokens(site: Site, scores: str, q: str, k: str) -> str:
    """Keys whose token is, or is not, a certain one."""
    graph = site.graph
    special = site.draw(st.sampled_from([0, 1, 7, 500]))
    site.spelling.append(f"token={special}")
    tokens = graph.input("tokens", np.int64, ("batch", *_total(site)), integers=(0, 1, 2, 6, 7, 8, 499, 500, 501))
    compare = site.pick("compare", "Equal", "Greater", "Less")
    test = graph.op(compare, tokens, graph.constant(special, np.int64))
    return _exclude(site, scores, graph.unsqueeze(graph.op("Not", test) if site.draw(st.booleans()) else test, 1, 2))


def _float(site: Site, scores: str, q: str, k: str) -> str:
    """A bias that the caller gives, of any shape that broadcasts."""
    shape = site.draw(
        st.sampled_from(
            [
                ("rows", *_total(site)),
                (1, 1, "rows", *_total(site)),
                ("batch", 1, "rows", *_total(site)),
                ("batch", site.heads, "rows", *_total(site)),
                (site.heads, 1, *_total(site)),
                ("rows", 1),
            ]
        )
    )
    bias = site.graph.input(site.graph.name("bias"), site.dtype, shape)
    operation = site.pick("operation", "Add", "Sub")
    return site.graph.op(operation, scores, bias)


def _excluding(site: Site, scores: str, q: str, k: str) -> str:
    """A float mask that the caller gives, 0 or what excludes a key."""
    shape = site.draw(st.sampled_from([("rows", *_total(site)), ("batch", 1, 1, *_total(site))]))
    name = site.graph.name("float_mask")
    mask = site.graph.input(name, site.dtype, shape, is_padding=True, fill=_fill(site))
    return site.graph.op("Add", scores, mask)


def _bias(site: Site, scores: str, q: str, k: str) -> str:
    """A bias by distance or by head, made from shapes."""
    graph = site.graph
    distance = graph.cast(graph.op("Abs", _distance(site, q, k)), site.dtype)
    slopes = graph.constant(-(2.0 ** -np.arange(1, site.heads + 1)).reshape(-1, 1, 1), site.dtype)
    return graph.op("Add", graph.op("Mul", distance, slopes), scores)


def _parity(site: Site, scores: str, q: str, k: str) -> str:
    """Causal only where the number of keys is odd."""
    graph = site.graph
    even = graph.op("Equal", graph.op("Mod", graph.dim(k, 2), graph.constant(2, np.int64)), graph.constant(0, np.int64))
    causal = graph.op("LessOrEqual", _distance(site, q, k), graph.constant(0, np.int64))
    return _exclude(site, scores, graph.op("Or", causal, even))


def _fill(site: Site, *, finite: bool = False) -> float:
    """What excludes a key: -inf, the type's lowest, or a large number."""
    if site.dtype == np.float16:
        # What a finite number leaves of a row without keys depends on where the runtime rounds to half precision.
        site.spelling.append("fill=-inf")
        return -np.inf
    lowest = float(np.finfo(site.dtype).min)
    large = [-1e4, -1e9]
    fill = site.draw(st.sampled_from([lowest, *large] if finite else [-np.inf, lowest, *large]))
    site.spelling.append(f"fill={fill:.3g}")
    return fill


def _exclude(site: Site, scores: str, allowed: str) -> str:
    graph = site.graph
    fill = graph.constant(_fill(site), site.dtype)
    way = site.pick("exclude", "where", "masked_fill", "add")
    if way == "where":
        return graph.op("Where", allowed, scores, fill)
    if way == "masked_fill":
        return graph.op("Where", graph.op("Not", allowed), fill, scores)
    bias = graph.op("Where", allowed, graph.constant(0.0, site.dtype), fill)
    return graph.op("Add", scores, bias)


_ADD = {
    "causal": _causal,
    "window": _window,
    "table": _table,
    "padding": _padding,
    "both": _both,
    "tokens": _tokens,
    "float": _float,
    "excluding": _excluding,
    "bias": _bias,
    "parity": _parity,
}
