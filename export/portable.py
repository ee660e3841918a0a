"""Model-local functions of standard operators that compute the op, so that a fused file runs without the library too.

ONNX Runtime takes the registered kernel where there is one and inlines the function where there is none. Each form of
the op in the model (rank, heads, which inputs, attributes) has a function of its own; `overload` tells them apart.
The body is the text of ONNX Attention, opset 25, spelled out; docs/semantics.md has the rules.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from flashonnx import contract

# Functions, and FunctionProto.overload, came with these versions of the format.
_FUNCTION_IR_VERSION = 8
_OVERLOAD_IR_VERSION = 10


@dataclass(frozen=True)
class Form:
    """All that a function's body depends on. inputs, outputs: the contract's names of those present."""

    dtype: ir.DataType
    rank: int
    heads: int
    kv_heads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    mask_is_bool: bool
    attributes: tuple[tuple[str, int | float], ...]


def add_portable_functions(model: ir.Model, forms: dict[ir.Node, Form]) -> None:
    """Gives every one of the nodes its function. FlashAttention that was there before keeps its own."""
    distinct = list(dict.fromkeys(forms.values()))
    others = {node.overload for node in model.graph if node.domain == contract.DOMAIN and node not in forms}
    single = [""] if len(distinct) == 1 else []
    candidates = itertools.chain(single, (f"form{number}" for number in itertools.count()))
    names = (name for name in candidates if name not in others)
    overloads = dict(zip(distinct, names, strict=False))
    for node, form in forms.items():
        node.overload = overloads[form]
    for form, overload in overloads.items():
        function = portable_function(form, overload, dict(model.graph.opset_imports))
        model.functions[function.identifier()] = function
    needed = _OVERLOAD_IR_VERSION if any(overloads.values()) else _FUNCTION_IR_VERSION
    model.ir_version = max(model.ir_version, needed)


def remove_portable_functions(model: ir.Model) -> None:
    """Leaves the op to the library alone."""
    for identifier in [name for name in model.functions if name[0] == contract.DOMAIN]:
        del model.functions[identifier]
    for node in model.graph:
        if node.domain == contract.DOMAIN:
            node.overload = ""


def portable_function(form: Form, overload: str, opsets: dict[str, int]) -> ir.Function:
    last_input = max(contract.INPUT_INDEX[name] for name in form.inputs)
    inputs = [ir.Value(name=tensor.name) for tensor in contract.INPUTS[: last_input + 1]]
    body = _Body(form, opsets[""], {str(value.name): value for value in inputs if value.name in form.inputs})
    made = body.outputs()
    last_output = max(contract.OUTPUT_INDEX[name] for name in form.outputs)
    outputs = [made[tensor.name] for tensor in contract.OUTPUTS[: last_output + 1]]
    graph = ir.Graph(inputs, outputs, nodes=body.tape.nodes, opset_imports={"": opsets[""]})
    attributes = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name, _ in form.attributes]
    return ir.Function(contract.DOMAIN, contract.OP_TYPE, overload, graph=graph, attributes=attributes)


class _Body:
    """Builds one function's nodes."""

    def __init__(self, form: Form, opset: int, inputs: dict[str, ir.Value]):
        self.form = form
        self.opset = opset
        self.inputs = inputs
        self.attributes = dict(form.attributes)
        self.tape = Tape()

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return self.tape.op(op_type, inputs, attributes)

    def ints(self, *numbers: int) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.asarray(numbers, np.int64)))

    def number(self, number: float, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.asarray(number, dtype.numpy())))

    def reduce(self, op_type: str, value: ir.Value, keepdims: int) -> ir.Value:
        """Over the last axis; opset 18 made the axes an input."""
        if self.opset < 18:
            return self.op(op_type, value, axes=[-1], keepdims=keepdims)
        return self.op(op_type, value, self.ints(-1), keepdims=keepdims)

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension, as a tensor of one element."""
        return self.op("Slice", self.op("Shape", value), self.ints(axis), self.ints(axis + 1), self.ints(0))

    def outputs(self) -> dict[str, ir.Value]:
        form = self.form
        query = self.split_heads(self.inputs["Q"], form.heads)
        key = self.with_past("past_key", self.split_heads(self.inputs["K"], form.kv_heads))
        value = self.with_past("past_value", self.split_heads(self.inputs["V"], form.kv_heads))
        scores = self.masked(self.scores(query, key), query, key)
        probabilities, lse = self.softmax(scores, key)
        y = self.weighted(probabilities, value)
        if form.rank == 3:
            y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))
        lse = self.op("Squeeze", lse, self.ints(-1))
        # qk_matmul_output is not offered: no fused node asks for it, so the value in its place is never read.
        return {"Y": y, "present_key": key, "present_value": value, "qk_matmul_output": lse, "lse": lse}

    def split_heads(self, value: ir.Value, heads: int) -> ir.Value:
        if self.form.rank == 4:
            return value
        return self.op("Transpose", self.op("Reshape", value, self.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])

    def with_past(self, name: str, new: ir.Value) -> ir.Value:
        return self.op("Concat", self.inputs[name], new, axis=2) if name in self.inputs else new

    @property
    def grouped(self) -> bool:
        return self.form.heads != self.form.kv_heads

    def scores(self, query: ir.Value, key: ir.Value) -> ir.Value:
        """softcap(scale · Q·Kᵀ) as float, (batch, q_num_heads, rows, keys)."""
        scaled = self.op("Mul", query, self.number(self.attributes["scale"], self.form.dtype))
        transposed = self.op("Transpose", key, perm=[0, 1, 3, 2])
        if self.grouped:  # (batch, kv head, group, row, feature): K broadcasts over the group
            scaled = self.group(scaled)
            transposed = self.op("Unsqueeze", transposed, self.ints(2))
        scores = self.op("MatMul", scaled, transposed)
        if self.grouped:
            scores = self.ungroup(scores)
        if self.form.dtype != ir.DataType.FLOAT:
            scores = self.op("Cast", scores, to=int(ir.DataType.FLOAT))
        softcap = self.attributes.get("softcap", 0.0)
        if softcap:
            cap = self.number(softcap)
            scores = self.op("Mul", self.op("Tanh", self.op("Div", scores, cap)), cap)
        return scores

    def group(self, value: ir.Value) -> ir.Value:
        """(batch, kv head · group, a, b) as (batch, kv head, group, a, b)."""
        groups = self.ints(self.form.kv_heads, self.form.heads // self.form.kv_heads)
        shape = self.op("Concat", self.size(value, 0), groups, self.size(value, 2), self.size(value, 3), axis=0)
        return self.op("Reshape", value, shape)

    def ungroup(self, value: ir.Value) -> ir.Value:
        shape = self.op(
            "Concat", self.size(value, 0), self.ints(self.form.heads), self.size(value, 3), self.size(value, 4), axis=0
        )
        return self.op("Reshape", value, shape)

    def masked(self, scores: ir.Value, query: ir.Value, key: ir.Value) -> ir.Value:
        if "alibi_slopes" in self.inputs:
            distance = self.op("Abs", self.op("Sub", self.rows(query), self.positions(key, (1, 1, 1, -1))))
            slopes = self.op("Reshape", self.inputs["alibi_slopes"], self.ints(1, -1, 1, 1))
            distance = self.op("Cast", distance, to=int(ir.DataType.FLOAT))
            scores = self.op("Sub", scores, self.op("Mul", slopes, distance))
        mask = self.inputs.get("attn_mask")
        if mask is not None and not self.form.mask_is_bool:
            if self.form.dtype != ir.DataType.FLOAT:
                mask = self.op("Cast", mask, to=int(ir.DataType.FLOAT))
            scores = self.op("Add", scores, mask)
        elif mask is not None:
            scores = self.op("Where", mask, scores, self.number(-np.inf))
        for allowed in self.allowed(query, key):
            scores = self.op("Where", allowed, scores, self.number(-np.inf))
        return scores

    def allowed(self, query: ir.Value, key: ir.Value) -> list[ir.Value]:
        """Causal, window and padding, each as a bool that broadcasts to the scores."""
        right = 0 if self.attributes.get("is_causal") else int(self.attributes.get("right_window_size", -1))
        left = int(self.attributes.get("left_window_size", -1))
        keys = self.positions(key, (1, 1, 1, -1))
        lengths = self.lengths()
        allowed = [] if lengths is None else [self.op("Less", keys, lengths)]
        if left < 0 and right < 0:
            return allowed
        rows = self.rows(query)
        if right >= 0:
            allowed.append(self.op("LessOrEqual", keys, self.op("Add", rows, self.ints(right))))
        if left >= 0:
            allowed.append(self.op("GreaterOrEqual", keys, self.op("Sub", rows, self.ints(left))))
        return allowed

    def lengths(self) -> ir.Value | None:
        """nonpad_kv_seqlen as (batch, 1, 1, 1)."""
        nonpad = self.inputs.get("nonpad_kv_seqlen")
        return None if nonpad is None else self.op("Reshape", nonpad, self.ints(-1, 1, 1, 1))

    def rows(self, query: ir.Value) -> ir.Value:
        """i + offset of every query, (batch or 1, 1, rows, 1)."""
        rows, lengths = self.positions(query, (1, 1, -1, 1)), self.lengths()
        if lengths is not None:
            return self.op("Add", rows, self.op("Sub", lengths, self.size(query, 2)))
        if "past_key" in self.inputs:
            return self.op("Add", rows, self.size(self.inputs["past_key"], 2))
        return rows

    def positions(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        length = self.op("Squeeze", self.size(value, 2), self.ints(0))
        zero, one = (self.op("Constant", value=ir.tensor(np.asarray(number, np.int64))) for number in (0, 1))
        return self.op("Reshape", self.op("Range", zero, length, one), self.ints(*shape))

    def softmax(self, scores: ir.Value, key: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Probabilities and the log of their denominator; without_keys in a row that has none."""
        dead = self.op("Equal", self.reduce("ReduceMax", scores, 1), self.number(-np.inf))
        if "sinks" in self.inputs:
            column = self.op("Reshape", self.inputs["sinks"], self.ints(1, -1, 1, 1))
            extents = [self.size(scores, axis) for axis in range(3)]
            column = self.op("Expand", column, self.op("Concat", *extents, self.ints(1), axis=0))
            scores = self.op("Concat", scores, column, axis=-1)
        probabilities = self.op("Softmax", scores, axis=-1)
        lse = self.op("Where", dead, self.number(-np.inf), self.reduce("ReduceLogSumExp", scores, 1))
        if "sinks" in self.inputs:
            probabilities = self.op("Slice", probabilities, self.ints(0), self.ints(-1), self.ints(-1))
        probabilities = self.op("Where", dead, self.without_keys(key), probabilities)
        if self.form.dtype != ir.DataType.FLOAT:
            probabilities = self.op("Cast", probabilities, to=int(self.form.dtype))
        return probabilities, lse

    def without_keys(self, key: ir.Value) -> ir.Value:
        """The probabilities of a row without keys, which broadcast: 0, or the same for each key that is no padding."""
        if not self.attributes.get("mean_without_keys"):
            return self.number(0.0)
        lengths = self.lengths()
        counts = self.size(key, 2) if lengths is None else lengths
        share = self.op("Reciprocal", self.op("Cast", counts, to=int(ir.DataType.FLOAT)))
        if lengths is None:
            return share
        return self.op("Where", self.op("Less", self.positions(key, (1, 1, 1, -1)), lengths), share, self.number(0.0))

    def weighted(self, probabilities: ir.Value, value: ir.Value) -> ir.Value:
        if not self.grouped:
            return self.op("MatMul", probabilities, value)
        return self.ungroup(self.op("MatMul", self.group(probabilities), self.op("Unsqueeze", value, self.ints(2))))
