"""Random nodes that are an attention by themselves, ONNX's and com.microsoft's, with any inputs and attributes that go
together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.export.forms import split_heads
from tests.export.graphs import Graph

CONTRIB = "com.microsoft"
HEADS, SIZE = 4, 16  # ONNX Runtime rotates multiples of 16 only
WIDTH = HEADS * SIZE
# None of these is a size that the pass looks at.
SIZES = (
    {"batch": 2, "rows": 10, "keys": 6, "past": 3},
    {"batch": 4, "rows": 70, "keys": 130, "past": 60},
    {"batch": 1, "rows": 1, "keys": 8, "past": 9},
)
# Several new rows after a past: ONNX Runtime's GroupQueryAttention takes one batch entry only.
_GROUPED_CACHE_SIZES = (
    {"batch": 1, "rows": 6, "keys": 6, "past": 4},
    {"batch": 3, "rows": 1, "keys": 1, "past": 30},
    {"batch": 2, "rows": 5, "keys": 5, "past": 0},
)


@dataclass(repr=False)
class NativeCase:
    """A model of one such node. by_definition: ONNX Runtime's CPU provider has no kernel for it.

    is_rounded: a row without keys keeps its scores less 10000, of which fp32 leaves three digits.
    """

    draw: st.DrawFn
    graph: Graph
    dtype: type = np.float32
    sizes: tuple[Mapping[str, int], ...] = SIZES
    by_definition: bool = False
    is_rounded: bool = False
    spelling: list[str] = field(default_factory=list)

    def pick(self, what: str, *options: str) -> str:
        """One of the options, noted down under `what`."""
        option = self.draw(st.sampled_from(options))
        self.spelling.append(f"{what}={option}")
        return option

    def has(self, what: str) -> bool:
        return self.pick(what, "no", "yes") == "yes"

    def activation(self, name: str, *dims: int | str) -> str:
        return self.graph.input(name, self.dtype, dims)

    def weight(self, *shape: int) -> str:
        table = np.random.default_rng(len(self.graph.weights)).standard_normal(shape) / 4
        return self.graph.constant(table, np.float32)

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.shape_inference.infer_shapes(self.graph.model(output_dtype=self.dtype))


@st.composite
def native_attentions(draw: st.DrawFn) -> NativeCase:
    case = NativeCase(draw, Graph(draw(st.sampled_from([23, 24, 25]))))
    makers = {
        "Attention": _onnx_attention,
        "packed Attention": _packed_attention,
        "MultiHeadAttention": _multi_head_attention,
        "GroupQueryAttention": _group_query_attention,
    }
    makers[case.pick("node", *makers)](case)
    return case


def _onnx_attention(case: NativeCase) -> None:
    graph = case.graph
    case.dtype = np.float16 if case.has("half precision") else np.float32
    kv_heads = int(case.pick("kv_heads", "4", "2", "1"))
    keys = case.pick("keys", "rows", "keys")
    is_cached = keys == "rows" and case.has("past")
    rank = case.pick("rank", "3", "4", "4")
    q = case.activation("q", "batch", "rows", WIDTH)
    k, v = (case.activation(name, "batch", keys, kv_heads * SIZE) for name in "kv")
    attributes = _onnx_attributes(case)
    if rank == "3":
        attributes |= {"q_num_heads": HEADS, "kv_num_heads": kv_heads}
    else:
        q, k, v = split_heads(graph, q, HEADS), split_heads(graph, k, kv_heads), split_heads(graph, v, kv_heads)
    past = [case.activation(f"past_{name}", "batch", kv_heads, "past", SIZE) for name in "kv"] if is_cached else []
    if rank == "4" and not past and kv_heads != HEADS and case.has("repeated"):
        k, v = (_repeat_heads(graph, each, kv_heads) for each in (k, v))
    more = [_onnx_mask(case, k, past), *(past or ["", ""]), _lengths(case, keys)]
    while more and not more[-1]:
        more.pop()
    outputs = graph.ops(3 if past else 1, "Attention", q, k, v, *more, **attributes)
    y = outputs[0] if rank == "3" else graph.reshape(graph.transpose(outputs[0], 0, 2, 1, 3), 0, 0, WIDTH)
    graph.outputs += [y, *outputs[1:]]


def _onnx_attributes(case: NativeCase) -> dict[str, float]:
    attributes: dict[str, float] = {"is_causal": int(case.has("causal"))}
    if case.has("scale"):
        attributes["scale"] = 0.3
    if case.has("softcap"):
        attributes["softcap"] = 2.0
    if case.graph.opset >= 25:
        attributes["left_window_size"] = int(case.pick("left", "-1", "0", "4", "40"))
        attributes["right_window_size"] = int(case.pick("right", "-1", "0", "3"))
    return attributes


def _lengths(case: NativeCase, keys: str) -> str:
    """nonpad_kv_seqlen, or "" for none; a past excludes it. 6 is the least number of keys."""
    if case.graph.opset < 24 or keys == "rows" or not case.has("lengths"):
        return ""
    return case.graph.input("lengths", np.int64, ("batch",), integers=(0, 1, 3, 6))


def _repeat_heads(graph: Graph, value: str, kv_heads: int) -> str:
    wide = graph.expand(graph.unsqueeze(value, 2), (value, 0), kv_heads, HEADS // kv_heads, (value, 2), SIZE)
    return graph.reshape(wide, (value, 0), HEADS, (value, 2), SIZE)


def _onnx_mask(case: NativeCase, k: str, past: list[str]) -> str:
    """attn_mask, or "" for none."""
    graph = case.graph
    kind = case.pick("mask", "none", "padding", "bias", "float padding")
    if kind == "none":
        return ""
    total = graph.dim(k, 1 if "rank=3" in case.spelling else 2)
    if past:
        total = graph.op("Add", total, graph.dim(past[0], 2))
    positions = graph.positions(total)
    if kind == "bias":
        table = graph.cast(graph.op("Mod", positions, graph.constant(3, np.int64)), case.dtype)
        return graph.unsqueeze(table, 0)
    limit = graph.unsqueeze(graph.input("limit", np.int64, ("batch",), integers=(0, 1, 2, 3, 90)), 1, 2, 3)
    keep = graph.op("Less", positions, limit)
    if kind == "padding":
        return keep
    lowest = -np.inf if case.dtype == np.float16 else -1e9
    zero, excluded = (graph.constant(number, case.dtype) for number in (0.0, lowest))
    return graph.op("Where", keep, zero, excluded)


def _key_mask(case: NativeCase, *kinds: str) -> str:
    """com.microsoft's mask of keys, or "" for none."""
    kind = case.pick("mask", "none", *kinds)
    if kind == "none":
        return ""
    case.is_rounded = True
    mask = case.graph.input("mask", np.int32, ("batch", "rows"), integers=(0, 1), is_padding=True)
    if kind == "keys":
        return mask
    return case.graph.op("ReduceSum", mask, case.graph.ints(1), keepdims=0)


def _contrib(case: NativeCase, op_type: str, *inputs: str, outputs: int = 1, **attributes: float) -> None:
    if case.has("scale"):
        attributes["scale"] = 0.3
    case.graph.outputs += case.graph.ops(outputs, op_type, *inputs, domain=CONTRIB, num_heads=HEADS, **attributes)


def _score_bias(case: NativeCase, batch: int | str, heads: int) -> str:
    return case.activation("bias", batch, heads, "rows", "rows") if case.has("bias on scores") else ""


def _packed_attention(case: NativeCase) -> None:
    v_width = WIDTH if case.pick("features of V", "same", "fewer") == "same" else WIDTH // 2
    x = case.activation("x", "batch", "rows", 12)
    inputs = [x, case.weight(12, 2 * WIDTH + v_width), case.weight(2 * WIDTH + v_width) if case.has("bias") else ""]
    is_cached = v_width == WIDTH and case.has("past")
    mask = "" if is_cached else _key_mask(case, "keys", "lengths")
    past = case.activation("past", 2, "batch", HEADS, "past", SIZE) if is_cached else ""
    bias = "" if is_cached else _score_bias(case, 1, HEADS)
    attributes = {"unidirectional": int(case.has("causal"))}
    if v_width != WIDTH:
        attributes["qkv_hidden_sizes"] = [WIDTH, WIDTH, v_width]
    _contrib(case, "Attention", *inputs, mask, past, bias, outputs=2 if is_cached else 1, **attributes)


def _multi_head_attention(case: NativeCase) -> None:
    packing = case.pick("packing", "none", "none", "none", "qkv", "kv")
    keys = "rows" if packing == "qkv" else case.pick("keys", "rows", "keys")
    bias = case.weight(3 * WIDTH) if case.has("bias") else ""
    if packing == "qkv":
        inputs = [case.activation("qkv", "batch", "rows", HEADS, 3, SIZE), "", "", bias]
    elif packing == "kv":
        q, kv = case.activation("q", "batch", "rows", WIDTH), case.activation("kv", "batch", keys, HEADS, 2, SIZE)
        inputs = [q, kv, "", bias]
    else:
        inputs = [case.activation(name, "batch", "rows" if name == "q" else keys, WIDTH) for name in "qkv"] + [bias]
    case.by_definition = packing != "none"
    is_cached = packing == "none" and keys == "rows" and case.has("past")
    is_plain = keys == "rows" and packing == "none" and not is_cached
    mask = _key_mask(case, "keys", "lengths") if is_plain else ""
    score_bias = _score_bias(case, 1, HEADS) if is_plain else ""
    past = [case.activation(f"past_{name}", "batch", HEADS, "past", SIZE) for name in "kv"] if is_cached else []
    causal = {"unidirectional": int(is_plain and case.has("causal"))}
    _contrib(case, "MultiHeadAttention", *inputs, mask, score_bias, *past, outputs=3 if is_cached else 1, **causal)


def _group_query_attention(case: NativeCase) -> None:
    graph = case.graph
    kv_heads = int(case.pick("kv_heads", "4", "2", "1"))
    if case.has("packed"):
        inputs = [case.activation("q", "batch", "rows", WIDTH + 2 * kv_heads * SIZE), "", ""]
    else:
        inputs = [case.activation("q", "batch", "rows", WIDTH)]
        inputs += [case.activation(name, "batch", "rows", kv_heads * SIZE) for name in "kv"]
    is_cached = case.has("past")
    past = [case.activation(f"past_{name}", "batch", kv_heads, "past", SIZE) for name in "kv"] if is_cached else []
    if is_cached:
        case.sizes = _GROUPED_CACHE_SIZES
    total = graph.dim(inputs[0], 1)
    if is_cached:
        total = graph.op("Add", total, graph.dim(past[0], 2))
    total = graph.cast(total, np.int32)
    last = graph.op("Sub", total, graph.constant(1, np.int32))
    lengths = graph.op("Expand", last, graph.op("Unsqueeze", graph.dim(inputs[0], 0), graph.ints(0)))
    attributes: dict[str, float] = {"kv_num_heads": kv_heads}
    if case.has("window"):
        attributes["local_window_size"] = 3
    if case.has("softcap"):
        attributes["softcap"] = 2.0
    more = ["", ""]
    if case.has("rotary"):
        angles = np.arange(160)[:, None] / 10.0 ** np.arange(SIZE // 2)
        more = [graph.constant(table(angles), np.float32) for table in (np.cos, np.sin)]
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(case.has("interleaved"))}
    more += ["", "" if is_cached else _score_bias(case, "batch", 1)]
    if case.has("sinks"):
        more.append(case.weight(HEADS))
    _contrib(
        case,
        "GroupQueryAttention",
        *inputs,
        *(past or ["", ""]),
        lengths,
        total,
        *more,
        outputs=3,
        **attributes,
    )
