"""Who computes a case on a GPU, and how that is timed there.

All work is queued on one stream of our own. PyTorch's contestants are captured in CUDA graphs, so that what is timed
is the GPU's work and not Python's; ONNX Runtime's sessions are given the stream and do not wait for it. Before every
launch the L2 cache is overwritten, which also keeps the GPU busy until the launch is queued.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from flashonnx.arrays import from_torch, to_torch
from flashonnx.bench import graphs
from flashonnx.bench.cases import Case, random_mask
from flashonnx.bench.contestants import OURS, Arrays, Contestant, Prepared, RefusedError, as_heads, as_rank
from flashonnx.bench.timing import Times
from flashonnx.native import build_info, element_type
from flashonnx.runtime import session

if TYPE_CHECKING:
    import onnxruntime
    import torch

_PROVIDER = "CUDAExecutionProvider"
_FLUSH_BYTES = 256 << 20  # several times the L2 cache of any GPU
_LAUNCHES = 5  # of a contestant in a round, whose median is the round's figure


def why_not() -> str:
    """What timing on a GPU needs and lacks here; empty: nothing."""
    try:
        import torch
    except ImportError:
        return "needs PyTorch: pip install 'flashonnx[torch]'"
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU that PyTorch can use; there is none here"
    if not build_info()["cuda"]:
        return "needs a library that was built with nvcc; this one was not"
    return ""


def describe() -> dict[str, object]:
    """The GPU and the versions that a figure was taken with."""
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


@cache
def stream() -> torch.cuda.Stream:
    """The stream of every contestant: ONNX Runtime takes no default stream for one of the user's."""
    import torch

    return torch.cuda.Stream()


def interleave(
    functions: Mapping[str, Callable[[], object]], *, rounds: int = 7, max_seconds: float | None = None
) -> Times:
    """Seconds on the GPU of one call, one figure a round, for each function; as `timing.interleave`."""
    import torch

    started = time.perf_counter()
    names = list(functions)
    times: Times = {name: [] for name in names}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    with torch.cuda.stream(stream()):
        for index in range(rounds):
            if max_seconds is not None and index >= 3 and time.perf_counter() - started > max_seconds:
                break
            for name in random.Random(index).sample(names, len(names)):
                times[name].append(_measure(functions[name], flush))
    return times


def _measure(function: Callable[[], object], flush: torch.Tensor) -> float:
    import torch

    pairs = []
    for _ in range(_LAUNCHES):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    milliseconds = sorted(begin.elapsed_time(end) for begin, end in pairs)
    return milliseconds[_LAUNCHES // 2] / 1e3


def new_session(model: str | os.PathLike[str] | bytes, **provider_options: str) -> onnxruntime.InferenceSession:
    """A session of the model in ONNX Runtime's CUDA execution provider, on our stream."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    provider = (_PROVIDER, {"user_compute_stream": str(stream().cuda_stream), **provider_options})
    return session(model, [provider, "CPUExecutionProvider"], sess_options=options)


class BoundRun:
    """Queues a run of a session on given tensors whenever it is called, and does not wait for it."""

    def __init__(
        self,
        runtime: onnxruntime.InferenceSession,
        inputs: Mapping[str, torch.Tensor],
        outputs: Mapping[str, torch.Tensor],
    ) -> None:
        import onnxruntime

        self._runtime = runtime
        self._tensors = (*inputs.values(), *outputs.values())  # the binding has their addresses alone
        self._binding = runtime.io_binding()
        for tensors, bind in ((inputs, self._binding.bind_input), (outputs, self._binding.bind_output)):
            for name, tensor in tensors.items():
                dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
                bind(name, "cuda", 0, element_type(dtype), tuple(tensor.shape), tensor.data_ptr())
        self._no_wait = onnxruntime.RunOptions()
        self._no_wait.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def __call__(self) -> None:
        self._runtime.run_with_iobinding(self._binding, self._no_wait)


def _torch_contestant(
    name: str, attend: Callable[..., Any], *, is_ours: bool = False, builds_scores: bool = False
) -> Contestant:
    """`attend(case, q, k, v, mask)`, captured in a CUDA graph."""

    def prepare(case: Case, inputs: Arrays, threads: int) -> Prepared:
        import torch

        mask = random_mask(case)
        tensors = [None if array is None else to_torch(array).cuda() for array in (*inputs, mask)]
        torch.cuda.synchronize()  # copied on another stream
        graph, result = torch.cuda.CUDAGraph(), []
        try:
            with torch.no_grad(), torch.cuda.stream(stream()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # each back end warns of why it refuses
                attend(case, *tensors)  # libraries are loaded and set up outside of the capture
                stream().synchronize()
                with torch.cuda.graph(graph, stream=stream()):
                    result.append(attend(case, *tensors))
        except RuntimeError as error:
            raise RefusedError(str(error).strip().splitlines()[0]) from error
        return Prepared(graph.replay, lambda: from_torch(result[0]))

    return Contestant(name, lambda case: "", prepare, is_ours, builds_scores)


def _flashonnx_op(case: Case, q: Any, k: Any, v: Any, mask: Any) -> Any:
    import torch

    import flashonnx.torch  # noqa: F401  registers the op

    return torch.ops.flashonnx.flash_attention(q, k, v, mask, is_causal=case.is_causal)


def _sdpa(backend: str) -> Callable[..., Any]:
    """PyTorch's scaled_dot_product_attention by one back end, a member of SDPBackend."""

    def attend(case: Case, q: Any, k: Any, v: Any, mask: Any) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        is_grouped = case.q_num_heads != case.kv_num_heads
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=case.is_causal, enable_gqa=is_grouped
            )

    return attend


def _onnx_contestant(
    name: str,
    graph: Callable[[Case], onnx.ModelProto],
    refuses: Callable[[Case], str],
    *,
    rank: int = 4,
    is_ours: bool = False,
    builds_scores: bool = False,
) -> Contestant:
    """A graph in ONNX Runtime's CUDA execution provider, on our stream."""

    def prepare(case: Case, inputs: Arrays, threads: int) -> Prepared:
        import torch

        tensors = {name: to_torch(as_rank(array, rank)).cuda() for name, array in zip("qkv", inputs, strict=True)}
        y = torch.empty_like(tensors["q"])
        torch.cuda.synchronize()
        try:
            run = BoundRun(new_session(graph(case).SerializeToString()), tensors, {"y": y})
            run()  # memory is allocated and algorithms are chosen
        except Exception as error:  # ONNX Runtime's classes derive from nothing more than that
            raise RefusedError(str(error).strip().splitlines()[0]) from error
        stream().synchronize()

        def output() -> np.ndarray:
            stream().synchronize()
            return as_heads(from_torch(y), case)

        return Prepared(run, output)

    return Contestant(name, lambda case: _no_provider(case) or refuses(case), prepare, is_ours, builds_scores)


def _no_provider(case: Case) -> str:
    import onnxruntime

    if _PROVIDER not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {_PROVIDER}: pip install onnxruntime-gpu"
    return "" if case.mask == "none" else "timed without masks only"


def _anything(case: Case) -> str:
    return ""


def _equal_heads(case: Case) -> str:
    return "takes as many key as query heads" if case.q_num_heads != case.kv_num_heads else ""


def _grouped_and_causal(case: Case) -> str:
    return "" if case.is_causal and case.q_num_heads != case.kv_num_heads else "for causal grouped queries"


CUDA = (
    _torch_contestant(OURS, _flashonnx_op, is_ours=True),
    _onnx_contestant("flashonnx ORT", graphs.flash_attention, _anything, is_ours=True),
    _torch_contestant("torch cuDNN", _sdpa("CUDNN_ATTENTION")),
    _torch_contestant("torch FLASH", _sdpa("FLASH_ATTENTION")),
    _torch_contestant("torch EFFICIENT", _sdpa("EFFICIENT_ATTENTION")),
    _torch_contestant("torch MATH", _sdpa("MATH"), builds_scores=True),
    _onnx_contestant("ORT MHA", graphs.multi_head_attention, _equal_heads, rank=3),
    _onnx_contestant("ORT Attention", graphs.attention, _anything, builds_scores=True),
    _onnx_contestant("ORT GQA", graphs.group_query_attention, _grouped_and_causal, rank=3),
    _onnx_contestant("ORT unfused", graphs.unfused, _equal_heads, builds_scores=True),
)
