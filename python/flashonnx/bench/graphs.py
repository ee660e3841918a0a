"""One-op ONNX models of an attention case: ours, ONNX's, ONNX Runtime's own, and plain MatMul and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from flashonnx import contract
from flashonnx.bench.cases import DTYPES, Case

_IR_VERSION = 10
_MICROSOFT = "com.microsoft"


def flash_attention(case: Case) -> ModelProto:
    """flashonnx FlashAttention on (B, H, S, D)."""
    node = helper.make_node(
        contract.OP_TYPE, ["q", "k", "v"], ["y"], domain=contract.DOMAIN, is_causal=int(case.is_causal)
    )
    return _model(case, [node])


def attention(case: Case) -> ModelProto:
    """ONNX Attention, opset 23, on (B, H, S, D)."""
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=int(case.is_causal))
    return _model(case, [node])


def multi_head_attention(case: Case) -> ModelProto:
    """com.microsoft MultiHeadAttention on (B, S, H*D), the layout that it takes."""
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v"],
        ["y"],
        domain=_MICROSOFT,
        num_heads=case.q_num_heads,
        unidirectional=int(case.is_causal),
    )
    return _model(case, [node], rank=3)


def group_query_attention(case: Case) -> ModelProto:
    """com.microsoft GroupQueryAttention on (B, S, H*D) without a past; always causal."""
    lengths = np.full(case.batch_size, case.kv_sequence_length - 1, np.int32)
    total = np.array(case.kv_sequence_length, np.int32)
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "", "", "seqlens_k", "total_sequence_length"],
        ["y", "present_key", "present_value"],
        domain=_MICROSOFT,
        num_heads=case.q_num_heads,
        kv_num_heads=case.kv_num_heads,
    )
    constants = [numpy_helper.from_array(lengths, "seqlens_k"), numpy_helper.from_array(total, "total_sequence_length")]
    return _model(case, [node], rank=3, constants=constants)


def unfused(case: Case) -> ModelProto:
    """MatMul, Softmax, MatMul as exporters write them, with an N x N mask added if causal."""
    scale = np.array(1 / math.sqrt(case.head_size), DTYPES[case.dtype])
    constants = [numpy_helper.from_array(scale, "scale")]
    nodes = [
        helper.make_node("Transpose", ["k"], ["k_transposed"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k_transposed"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scores"]),
    ]
    scores = "scores"
    if case.is_causal:
        allowed = np.tri(case.q_sequence_length, case.kv_sequence_length, dtype=bool)
        dtype = DTYPES[case.dtype]
        mask = np.where(allowed, 0.0, float(ml_dtypes.finfo(dtype).min)).astype(dtype)
        constants.append(numpy_helper.from_array(mask, "mask"))
        nodes.append(helper.make_node("Add", ["scores", "mask"], ["masked"]))
        scores = "masked"
    nodes += [
        helper.make_node("Softmax", [scores], ["probabilities"], axis=-1),
        helper.make_node("MatMul", ["probabilities", "v"], ["y"]),
    ]
    return _model(case, nodes, constants=constants)


def _model(
    case: Case, nodes: Sequence[NodeProto], *, rank: int = 4, constants: Sequence[TensorProto] = ()
) -> ModelProto:
    inputs = [
        _value(case, "q", case.q_num_heads, case.q_sequence_length, rank),
        _value(case, "k", case.kv_num_heads, case.kv_sequence_length, rank),
        _value(case, "v", case.kv_num_heads, case.kv_sequence_length, rank),
    ]
    outputs = [_value(case, "y", case.q_num_heads, case.q_sequence_length, rank)]
    graph = helper.make_graph(nodes, "attention", inputs, outputs, list(constants))
    versions = {"": 23, contract.DOMAIN: contract.SINCE_VERSION, _MICROSOFT: 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _value(case: Case, name: str, heads: int, length: int, rank: int) -> Any:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(DTYPES[case.dtype])
    if rank == 3:
        return helper.make_tensor_value_info(name, dtype, [case.batch_size, length, heads * case.head_size])
    return helper.make_tensor_value_info(name, dtype, [case.batch_size, heads, length, case.head_size])
