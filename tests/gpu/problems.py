"""One FlashAttention problem on the GPU: its tensors, our kernels' outputs, and what they should be in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import TensorProto

from flashonnx import native

ELEMENT_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.bool: TensorProto.BOOL,
    torch.int64: TensorProto.INT64,
}
KERNEL_VARIABLE = "FLASHONNX_CUDA_KERNEL"


@dataclass
class Problem:
    """Inputs by the contract's names, of rank 4 and strided in any way; attributes by ONNX's."""

    inputs: dict[str, torch.Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> torch.Tensor:
        return self.inputs[name]

    @property
    def total(self) -> int:
        past = self.inputs.get("past_key")
        return self.K.shape[2] + (0 if past is None else past.shape[2])

    def shape(self, output: str) -> tuple[int, ...]:
        batch, heads, queries, head_size = self.Q.shape
        kv_heads, v_head_size = self.V.shape[1], self.V.shape[3]
        return {
            "Y": (batch, heads, queries, v_head_size),
            "present_key": (batch, kv_heads, self.total, head_size),
            "present_value": (batch, kv_heads, self.total, v_head_size),
            "qk_matmul_output": (batch, heads, queries, self.total),
            "lse": (batch, heads, queries),
        }[output]


def _tensor(tensor: torch.Tensor) -> native.NativeTensor:
    return native.NativeTensor(tensor.data_ptr(), ELEMENT_TYPES[tensor.dtype], tensor.shape, tensor.stride())


def _tensors(tensors: dict[str, torch.Tensor]) -> dict[str, native.NativeTensor]:
    return {name: _tensor(tensor) for name, tensor in tensors.items()}


def plan(problem: Problem, outputs: tuple[str, ...] = ("Y",)) -> str:
    """Which kernel would run, in words; the first of them is its name."""
    return native.plan(_tensors(problem.inputs), problem.attributes, outputs, cuda=native.Cuda())


def launch(problem: Problem, results: dict[str, torch.Tensor]) -> None:
    """Queues the op on torch's current stream, to write `results`."""
    stream = torch.cuda.current_stream().cuda_stream
    native.run(_tensors(problem.inputs), _tensors(results), problem.attributes, cuda=native.Cuda(stream=stream))


def run(problem: Problem, outputs: tuple[str, ...] = ("Y",)) -> dict[str, torch.Tensor]:
    """The outputs asked for; what a kernel leaves unwritten is NaN."""
    results = {
        name: torch.full(
            problem.shape(name), math.nan, dtype=torch.float32 if name == "lse" else problem.Q.dtype, device="cuda"
        )
        for name in outputs
    }
    launch(problem, results)
    torch.cuda.synchronize()
    return results


@dataclass
class Expected:
    """In float64. `rounded` is Y with P and Y rounded once to the problem's dtype: the least error a kernel has."""

    Y: torch.Tensor
    rounded: torch.Tensor
    lse: torch.Tensor
    qk: list[torch.Tensor]  # by qk_matmul_output_mode


def _scores(problem: Problem, k: torch.Tensor) -> list[torch.Tensor]:
    """Q K^T at each of the contract's stages, before the probabilities."""
    inputs, attributes = problem.inputs, problem.attributes
    q = problem.Q.double()
    batch, heads, queries, head_size = q.shape
    scores = q @ k.transpose(-1, -2) * attributes.get("scale", 1 / math.sqrt(head_size))
    softcap = attributes.get("softcap", 0.0)
    capped = softcap * torch.tanh(scores / softcap) if softcap > 0 else scores

    offset = torch.full((batch,), problem.total - problem.K.shape[2], device="cuda")
    j = torch.arange(problem.total, device="cuda")
    allowed = torch.ones(batch, 1, queries, problem.total, dtype=torch.bool, device="cuda")
    if "nonpad_kv_seqlen" in inputs:
        lengths = inputs["nonpad_kv_seqlen"].view(batch, 1, 1, 1)
        allowed = allowed & (j < lengths)
        offset = inputs["nonpad_kv_seqlen"] - queries
    position = torch.arange(queries, device="cuda").view(queries, 1) + offset.view(batch, 1, 1, 1)
    if attributes.get("is_causal"):
        allowed = allowed & (j <= position)
    if attributes.get("left_window_size", -1) >= 0:
        allowed = allowed & (j >= position - attributes["left_window_size"])
    if attributes.get("right_window_size", -1) >= 0:
        allowed = allowed & (j <= position + attributes["right_window_size"])

    masked = capped
    if "alibi_slopes" in inputs:
        masked = masked - inputs["alibi_slopes"].double().view(-1, heads, 1, 1) * (position - j).abs()
    if "attn_mask" in inputs:
        mask = inputs["attn_mask"]
        missing = problem.total - mask.shape[-1]
        if mask.shape[-1] > 1 and missing > 0:
            mask = torch.nn.functional.pad(mask, (0, missing), value=False if mask.dtype == torch.bool else -math.inf)
        if mask.dtype == torch.bool:
            allowed = allowed & mask
        else:
            masked = masked + mask.double()
    return [scores, capped, masked.masked_fill(~allowed, -math.inf)]


def expected(problem: Problem) -> Expected:
    inputs = problem.inputs
    k, v = problem.K.double(), problem.V.double()
    if "past_key" in inputs:
        k = torch.cat([inputs["past_key"].double(), k], 2)
        v = torch.cat([inputs["past_value"].double(), v], 2)
    if "nonpad_kv_seqlen" in inputs:  # padding may hold anything
        padding = torch.arange(problem.total, device="cuda").view(-1, 1) >= inputs["nonpad_kv_seqlen"].view(-1, 1, 1, 1)
        k, v = k.masked_fill(padding, 0), v.masked_fill(padding, 0)
    group = problem.Q.shape[1] // problem.K.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)

    stages = _scores(problem, k)
    scores = stages[-1]
    heads = problem.Q.shape[1]
    highest = scores.amax(-1, keepdim=True)
    dead = highest == -math.inf
    if "sinks" in inputs:
        sinks = inputs["sinks"].double().view(heads, 1, 1)
        highest = torch.maximum(highest, sinks)
    highest = highest.masked_fill(dead, 0)
    exponentials = torch.exp(scores - highest)
    total = exponentials.sum(-1, keepdim=True)
    if "sinks" in inputs:
        total = total + torch.exp(sinks - highest)
    probabilities = (exponentials / total).masked_fill(dead, 0)
    dtype = problem.Q.dtype
    rounded = probabilities.to(dtype).double() @ v
    mean = torch.zeros_like(rounded)
    if problem.attributes.get("mean_without_keys"):
        counts = inputs.get("nonpad_kv_seqlen", torch.full((1,), problem.total, device="cuda")).clamp(min=1)
        mean = mean + v.sum(-2, keepdim=True) / counts.view(-1, 1, 1, 1)
    return Expected(
        Y=torch.where(dead, mean, probabilities @ v),
        rounded=torch.where(dead, mean, rounded).to(dtype).double(),
        lse=(highest + torch.log(total)).masked_fill(dead, -math.inf).squeeze(-1),
        qk=[*stages, probabilities],
    )


def largest(values: torch.Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def unit_in_last_place(value: float, dtype: torch.dtype) -> float:
    """The distance of neighbouring numbers of `dtype` around `value`."""
    return torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(value, torch.finfo(dtype).tiny)))


def difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest absolute difference; infinities of one sign are equal, NaN equals nothing."""
    ours = ours.double()
    return largest(torch.where(ours == reference, torch.zeros_like(ours), ours - reference))


def assert_close(ours: torch.Tensor, reference: Expected) -> None:
    """The project's rule: 1.5 times the error that rounding costs anyone, and one unit in the last place."""
    error = difference(ours, reference.Y)
    allowed = 1.5 * difference(reference.rounded, reference.Y) + unit_in_last_place(largest(reference.Y), ours.dtype)
    if ours.dtype in (torch.float32, torch.float64):  # there, sums of products are what is rounded
        allowed += 32 * torch.finfo(ours.dtype).eps * largest(reference.Y)
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
