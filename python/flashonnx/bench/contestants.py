"""Who computes a case: flashonnx and its peers, each prepared as its users would call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime

from flashonnx.arrays import from_ort, from_torch, to_ort, to_torch
from flashonnx.bench import graphs
from flashonnx.bench.cases import Case
from flashonnx.bench.timing import session_options
from flashonnx.runtime import session

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class RefusedError(Exception):
    """A contestant finds out, only when it is prepared, that it cannot compute a case; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """A contestant with its inputs in place: `run` computes, `output` fetches the last result as (B, H, S, D)."""

    run: Callable[[], Any]
    output: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """One implementation. `ORT Attention` is ONNX's op at opset 23, MHA and GQA are com.microsoft's.

    `refuses(case)` says why it cannot compute a case, or nothing; `prepare(case, inputs, threads)` builds it, and may
    raise RefusedError. `builds_scores`: it holds the q_sequence_length x kv_sequence_length matrix.
    """

    name: str
    refuses: Callable[[Case], str]
    prepare: Callable[[Case, Arrays, int], Prepared]
    is_ours: bool = False
    builds_scores: bool = False


def _onnx_contestant(
    name: str,
    graph: Callable[[Case], onnx.ModelProto],
    refuses: Callable[[Case], str],
    *,
    rank: int = 4,
    is_ours: bool = False,
    builds_scores: bool = False,
) -> Contestant:
    def prepare(case: Case, inputs: Arrays, threads: int) -> Prepared:
        runtime = _session(graph(case), threads)
        binding = runtime.io_binding()
        for name, array in zip("qkv", inputs, strict=True):
            binding.bind_ortvalue_input(name, to_ort(as_rank(array, rank)))
        binding.bind_output("y", "cpu")
        return Prepared(
            run=lambda: runtime.run_with_iobinding(binding),
            output=lambda: as_heads(from_ort(binding.get_outputs()[0]), case),
        )

    return Contestant(name, refuses, prepare, is_ours, builds_scores)


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    return session(model.SerializeToString(), ["CPUExecutionProvider"], sess_options=session_options(threads))


def _torch_contestant(name: str, function: Callable[..., Any], *, is_ours: bool = False) -> Contestant:
    def prepare(case: Case, inputs: Arrays, threads: int) -> Prepared:
        import torch

        torch.set_num_threads(threads)
        q, k, v = map(to_torch, inputs)
        result: list[torch.Tensor] = []

        def run() -> None:
            with torch.no_grad():
                result[:] = [function(case, q, k, v)]

        return Prepared(run, lambda: from_torch(result[0]))

    return Contestant(name, lambda case: "", prepare, is_ours)


def _flashonnx_op(case: Case, q: Any, k: Any, v: Any) -> Any:
    import torch

    import flashonnx.torch  # noqa: F401  registers the op

    return torch.ops.flashonnx.flash_attention(q, k, v, is_causal=case.is_causal)


def _torch_sdpa(case: Case, q: Any, k: Any, v: Any) -> Any:
    import torch

    is_grouped = case.q_num_heads != case.kv_num_heads
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=case.is_causal, enable_gqa=is_grouped)


def as_rank(array: np.ndarray, rank: int) -> np.ndarray:
    """(B, H, S, D) as it is, or as (B, S, H*D)."""
    if rank == 4:
        return array
    batch, heads, length, size = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, length, heads * size)


def as_heads(array: np.ndarray, case: Case) -> np.ndarray:
    """(B, H, S, D) of either layout."""
    if array.ndim == 4:
        return array
    batch, length, _ = array.shape
    return array.reshape(batch, length, case.q_num_heads, case.head_size).transpose(0, 2, 1, 3)


def _anything(case: Case) -> str:
    return ""


def _no_bfloat16(case: Case) -> str:
    return "ONNX Runtime has no bfloat16 kernel on the CPU" if case.dtype == "bfloat16" else ""


def _equal_heads(case: Case) -> str:
    return "takes as many key as query heads" if case.q_num_heads != case.kv_num_heads else _no_half(case)


def _no_half(case: Case) -> str:
    return "" if case.dtype == "float32" else f"ONNX Runtime's CPU kernel takes no {case.dtype}"


def _grouped_and_causal(case: Case) -> str:
    if not case.is_causal:
        return "always causal"
    if case.q_num_heads == case.kv_num_heads:
        return "for grouped queries"
    return _no_bfloat16(case)


OURS = "flashonnx"
CPU = (
    _onnx_contestant(OURS, graphs.flash_attention, _anything, is_ours=True),
    _torch_contestant("flashonnx torch", _flashonnx_op, is_ours=True),
    _torch_contestant("torch SDPA", _torch_sdpa),
    _onnx_contestant("ORT Attention", graphs.attention, _no_bfloat16, builds_scores=True),
    _onnx_contestant("ORT MHA", graphs.multi_head_attention, _equal_heads, rank=3),
    _onnx_contestant("ORT GQA", graphs.group_query_attention, _grouped_and_causal, rank=3, builds_scores=True),
    _onnx_contestant("ORT unfused", graphs.unfused, _equal_heads, builds_scores=True),
)
