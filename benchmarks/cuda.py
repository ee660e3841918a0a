"""The op on a GPU against PyTorch's scaled_dot_product_attention, in one process, interleaved.

    python benchmarks/cuda.py prefill --out prefill.json     B N = 16,384, H D = 2048: cuDNN and FlashAttention-2
    python benchmarks/cuda.py decode --out decode.json       one query a head, keys 8,192 to 131,072

Each is captured in a CUDA graph, so that what is timed is the GPU's work. Before every launch the L2 cache is
overwritten. TFLOP/s count the products that the mask leaves; TB/s count K and V once.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import flashonnx.torch  # noqa: F401  (registers torch.ops.flashonnx)

TOKENS, MODEL = 16384, 2048
PEERS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
Run = Callable[[], Any]


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> Run:
    return lambda: torch.ops.flashonnx.flash_attention(q, k, v, is_causal=causal)


def peer(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> Run:
    def run() -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

    return run


def capture(run: Run) -> torch.cuda.CUDAGraph:
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def medians(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the median over `repeats` rounds in which they take turns."""
    graphs = {name: capture(run) for name, run in runs.items()}
    cache = torch.empty(64 << 20, dtype=torch.int32, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in graphs}
    for _ in range(repeats + 2):
        for name, graph in graphs.items():
            cache.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize()
    times = {name: sorted(a.elapsed_time(b) for a, b in pairs[2:]) for name, pairs in events.items()}
    return {name: values[len(values) // 2] for name, values in times.items()}


def prefill(dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for head_size in (64, 128, 256):
        for length in (512, 1024, 2048, 4096, 8192, 16384):
            for causal in (False, True):
                shape = (TOKENS // length, MODEL // head_size, length, head_size)
                q, k, v = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
                runs = {"flashonnx": ours(q, k, v, causal)}
                runs |= {name: peer(backend, q, k, v, causal) for name, backend in PEERS.items()}
                flops = 4 * TOKENS * MODEL * length / (2 if causal else 1)
                row = {"head_size": head_size, "length": length, "causal": causal, "unit": "TFLOP/s"}
                rows.append(row | {name: flops / ms / 1e9 for name, ms in medians(runs, repeats).items()})
                show(rows[-1])
    return rows


def decode(dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for batch, keys, head_size in ((1, 8192, 128), (16, 8192, 128), (1, 131072, 128), (64, 2048, 128), (16, 8192, 64)):
        q = torch.randn(batch, 32, 1, head_size, device="cuda", dtype=dtype)
        k, v = (torch.randn(batch, 8, keys, head_size, device="cuda", dtype=dtype) for _ in range(2))
        runs = {"flashonnx": ours(q, k, v, False), "cudnn": peer(PEERS["cudnn"], q, k, v, False)}
        size = 2 * k.numel() * k.element_size()
        row = {"batch": batch, "keys": keys, "head_size": head_size, "unit": "TB/s"}
        rows.append(row | {name: size / ms / 1e9 for name, ms in medians(runs, repeats).items()})
        show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        "  ".join(f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    )


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours to each peer's: the geometric mean and the least."""
    summary = {}
    for name in PEERS:
        values = [row["flashonnx"] / row[name] for row in rows if name in row]
        if values:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            summary[name] = {"geometric_mean": mean, "least": min(values)}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prefill", "decode"])
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measure = prefill if arguments.what == "prefill" else decode
    rows = measure(getattr(torch, arguments.dtype), arguments.repeats)
    report = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "dtype": arguments.dtype,
        "ratios": ratios(rows),
        "rows": rows,
    }
    print(json.dumps(report["ratios"], indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
