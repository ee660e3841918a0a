"""What a node of com.microsoft takes packed or does by itself, as values beside it.

A projection, Q, K and V in one tensor, biases, rotary embeddings, lengths. Nothing reads them unless the site is fused.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from flashonnx.fusion.axes import Size
from flashonnx.fusion.contrib_types import CONTRIB_DOMAIN
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import Facts


class Unpacker:
    """Makes nodes whose types and data are known like those of any node of the file; `made` lists them."""

    def __init__(self, anchor: ir.Node, emitter: Emitter):
        self.emitter = emitter
        self.facts: Facts = emitter.facts
        self.made: list[ir.Node] = []
        emitter.start(anchor)

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        return self._learned(self.emitter.op(op_type, *inputs, **attributes))

    def _learned(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None
        self.facts.learn(node)
        self.made.append(node)
        return value

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], **attributes: int) -> tuple[ir.Value, ...]:
        """The outputs of the same node with other inputs and some attributes."""
        kept = {name: attribute.value for name, attribute in node.attributes.items()}
        new = self.emitter.node(node.op_type, inputs, {**kept, **attributes}, len(node.outputs), node.domain)
        self._learned(new.outputs[0])
        return tuple(new.outputs)

    def split(self, value: ir.Value, lengths: Sequence[int]) -> tuple[ir.Value, ...]:
        """Parts of the last axis."""
        attributes = {"axis": self.facts.rank(value) - 1}
        node = self.emitter.node("Split", (value, self.emitter.ints(*lengths)), attributes, len(lengths))
        self._learned(node.outputs[0])
        return tuple(node.outputs)

    def project(
        self, x: ir.Value, weights: ir.Value, bias: ir.Value | None, lengths: Sequence[int]
    ) -> Sequence[ir.Value]:
        """x·weights + bias in parts of these lengths; one product, as in the file."""
        product = self.op("MatMul", x, weights)
        return self.split(product if bias is None else self.op("Add", product, bias), lengths)

    def part(self, packed: ir.Value, index: int) -> ir.Value:
        """One of Q, K, V out of (batch, row, head, 3 or 2, feature), as (batch, row, head·feature)."""
        one = self.op("Gather", packed, self.emitter.integer(index), axis=3)
        return self.op("Reshape", one, self.emitter.ints(0, 0, -1))

    def past(self, packed: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Past keys and values out of (2, batch, head, row, feature)."""
        key, value = (self.op("Gather", packed, self.emitter.integer(index), axis=0) for index in range(2))
        return key, value

    def biased(self, value: ir.Value, bias: ir.Value, start: int, end: int) -> ir.Value:
        """value + bias[start:end], along the last axis."""
        emitter = self.emitter
        return self.op("Add", value, self.op("Slice", bias, emitter.ints(start), emitter.ints(end), emitter.ints(0)))

    def within(self, lengths: ir.Value, batch: Size, keys: ir.Value) -> ir.Value:
        """Lengths (batch), or ends and then starts (2·batch), as a bool of (batch, keys).

        keys: their number, a scalar.
        """
        emitter = self.emitter
        keys = self.op("Cast", keys, to=int(self.facts.dtype(lengths)))
        zero, one = (emitter.scalar(number, self.facts.dtype(lengths)) for number in (0, 1))
        positions = self.op("Range", zero, keys, one)
        if self.facts.sizes(lengths)[0] == batch:
            return self.op("Less", positions, self.op("Unsqueeze", lengths, emitter.ints(1)))
        both = self.op("Reshape", lengths, emitter.ints(2, -1, 1))
        ends, starts = (self.op("Gather", both, emitter.integer(index), axis=0) for index in range(2))
        return self.op("And", self.op("Less", positions, ends), self.op("GreaterOrEqual", positions, starts))

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension, as a scalar."""
        return self.op("Gather", self.op("Shape", value), self.emitter.integer(axis), axis=0)

    def rotated(
        self, value: ir.Value, position_ids: ir.Value, cos: ir.Value, sin: ir.Value, heads: int, interleaved: int
    ) -> ir.Value:
        """RoPE on (batch, row, head·feature) by the operator that ONNX Runtime has for it."""
        head_size = self.facts.sizes(value)[2][0] // heads
        turned = 2 * self.facts.sizes(cos)[1][0]
        attributes = {
            "num_heads": heads,
            "interleaved": interleaved,
            "rotary_embedding_dim": turned if turned < head_size else 0,
        }
        inputs = (value, position_ids, cos, sin)
        return self._learned(self.emitter.node("RotaryEmbedding", inputs, attributes, 1, CONTRIB_DOMAIN).outputs[0])

    def positions(self, position_ids: ir.Value | None, past: ir.Value | None, query: ir.Value) -> ir.Value:
        """What RotaryEmbedding takes: the first row's position alone, or every row's.

        GroupQueryAttention counts rows from the past; of given position_ids it reads only the first if nothing is past.
        """
        emitter = self.emitter
        if position_ids is None:
            return emitter.ints(0) if past is None else self.op("Reshape", self.length(past, 2), emitter.ints(1))
        first = self.op("Slice", self.op("Reshape", position_ids, emitter.ints(-1)), emitter.ints(0), emitter.ints(1))
        if past is None:
            return first
        rows = self.op("Range", emitter.integer(0), self.length(query, 1), emitter.integer(1))
        is_first = self.op("Equal", self.length(past, 2), emitter.integer(0))
        return self.op("Where", is_first, self.op("Add", rows, first), position_ids)
