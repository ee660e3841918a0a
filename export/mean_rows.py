"""Rows without a key, where the file excludes keys by a finite number: their softmax is uniform, so they are mean(V).

The op says 0 for such a row where its mask is bool: they get the mean of V afterwards. So causal (or windowed) and
padding masks that meet under left padding can be given to the op apart.
"""

from __future__ import annotations

import onnx_ir as ir

from flashonnx import contract
from flashonnx.fusion.attention import Attention, count_of
from flashonnx.fusion.axes import resolve
from flashonnx.fusion.band import Band
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.layouts import Layout


def can_restore(band: Band, lengths_differ: bool) -> bool:
    """Whether the rows without a key can be told from padding and band alone."""
    causal = band.left < 0 and band.right == 0
    window = band.left >= 0 and band.right >= 0
    return (causal or window) and (band.from_end or not lengths_differ)


def with_mean_rows(
    node: ir.Node, allowed: ir.Value | None, layout: Layout, attention: Attention, band: Band, emitter: Emitter
) -> ir.Value:
    """The op's output with mean(V) in the rows that have no key. allowed: by the mask, the band aside; as attn_mask."""
    query, value = (node.inputs[contract.INPUT_INDEX[name]] for name in ("Q", "V"))
    assert query is not None
    assert value is not None
    assert allowed is not None
    rank = 4 if attention.has_past else layout.rank
    value = node.outputs[contract.OUTPUT_INDEX["present_value"]] if attention.has_past else value
    # Padding has a value for each key, and layers share it; other masks may be broadcast.
    keys = emitter.dim(allowed, 3) if band.bounded else emitter.dim(value, rank - 2)
    mean = _mean_of_rows(value, keys, rank, emitter.facts.dtype(attention.y[0].value), emitter)
    if rank != layout.rank:
        mean = emitter.op("Reshape", mean, emitter.ints(0, 1, -1))
    if layout.kv_heads != resolve(attention.heads):
        mean = _repeat_heads(mean, layout, attention, emitter)
    if band.bounded:
        alive = _rows_with_keys_in_band(query, allowed, layout.rank, band, emitter)
    else:
        alive = _any_key(emitter.op("Cast", allowed, to=int(ir.DataType.FLOAT)), emitter)
        if layout.rank == 3:
            alive = emitter.op("Reshape", alive, emitter.ints(0, -1, 1))
    return emitter.op("Where", alive, node.outputs[0], mean)


def _mean_of_rows(value: ir.Value, rows: ir.Value, rank: int, dtype: ir.DataType, emitter: Emitter) -> ir.Value:
    """(..., 1, features), by a product: TensorRT joins a ReduceMean to the Where after it in a kernel that is slow.

    GPT-2, 4 x 1024 tokens, float16, H200: 83 us a layer, where attention takes 73.
    """
    weight = emitter.op("Reciprocal", emitter.op("Cast", rows, to=int(ir.DataType.FLOAT)))
    if dtype != ir.DataType.FLOAT:  # in which the number of rows may be infinite
        weight = emitter.op("Cast", weight, to=int(dtype))
    weights = emitter.op("Expand", weight, emitter.op("Concat", emitter.ints(*(1,) * (rank - 1)), rows, axis=0))
    return emitter.op("MatMul", weights, value)


def _any_key(keys: ir.Value, emitter: Emitter) -> ir.Value:
    largest = emitter.reduce("ReduceMax", keys, axis=-1)
    return emitter.op("Greater", largest, emitter.scalar(0.5, ir.DataType.FLOAT))


def _rows_with_keys_in_band(query: ir.Value, mask: ir.Value, rank: int, band: Band, emitter: Emitter) -> ir.Value:
    """Whether a key within the band is not padding; the mask is padding alone, (batch, 1, 1, keys)."""
    keys = emitter.op("Reshape", mask, emitter.ints(0, 1, -1))
    alive = _from_first_key(keys, emitter) if band.left < 0 else _near_a_key(keys, band, emitter)
    if band.from_end:
        rows = emitter.dim(query, rank - 2)
        alive = emitter.op("Slice", alive, emitter.op("Neg", rows), emitter.ints(2**31 - 1), emitter.ints(2))
    return emitter.op("Reshape", alive, emitter.ints(*((0, -1, 1) if rank == 3 else (0, 1, -1, 1))))


def _from_first_key(keys: ir.Value, emitter: Emitter) -> ir.Value:
    """By position: whether the first key is not after it. No running count: TensorRT 10.6 makes a loop of CumSum."""
    length = emitter.op("Gather", emitter.op("Shape", keys), emitter.integer(2), axis=0)
    positions = emitter.op("Range", emitter.integer(0), length, emitter.integer(1))
    first = emitter.reduce("ReduceMin", emitter.op("Where", keys, positions, length), axis=2)
    return emitter.op("Not", emitter.op("Less", positions, first))


def _near_a_key(keys: ir.Value, band: Band, emitter: Emitter) -> ir.Value:
    """By position: whether there is a key within the window around it."""
    numbers = emitter.op("Cast", keys, to=int(ir.DataType.FLOAT))
    window = {"kernel_shape": [band.left + 1 + band.right], "pads": [band.left, band.right]}
    return emitter.op("Greater", emitter.op("MaxPool", numbers, **window), emitter.scalar(0.5, ir.DataType.FLOAT))


def _repeat_heads(mean: ir.Value, layout: Layout, attention: Attention, emitter: Emitter) -> ir.Value:
    """One row of every KV head as one of every query head."""
    facts = emitter.facts
    heads, kv_heads, feature = (
        count_of(axis, facts) for axis in (attention.heads, layout.kv_heads, attention.v_feature)
    )
    group = heads // kv_heads
    split = emitter.op("Reshape", mean, emitter.ints(0, kv_heads, 1, feature))
    repeated = emitter.op("Expand", split, emitter.ints(1, 1, group, 1))
    shape = (0, 1, heads * feature) if layout.rank == 3 else (0, heads, 1, feature)
    return emitter.op("Reshape", repeated, emitter.ints(*shape))
