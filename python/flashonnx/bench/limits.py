"""What a CPU's figures are measured against: how fast this machine multiplies, and reads K and V, at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np

from flashonnx import native

# A millisecond or so on each thread.
FMA_FLOPS_PER_THREAD = 100_000_000

# Inputs taken in turns hold at least so much, several times what the largest caches of usual machines do: each call
# finds its K and V in memory, as a decoding step does whose model has read its weights since the last one.
MIN_ROTATED_BYTES = 256 << 20
MAX_COPIES = 16  # small problems stay in the caches


def copies_of(input_bytes: int) -> int:
    """How many inputs of a size, taken in turns, no cache keeps; MAX_COPIES at most."""
    return min(-(-MIN_ROTATED_BYTES // input_bytes), MAX_COPIES)


def in_turns(functions: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A function that calls the next of them each time, and the first after the last."""
    turns = cycle(functions)
    return lambda: next(turns)()


def reader(arrays: Sequence[np.ndarray], threads: int) -> Callable[[], object]:
    """A function that reads arrays once, front to back, by PyTorch's vectorised sum of their bytes as float32."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(array.reshape(-1).view(np.uint8).view(np.float32)) for array in arrays]

    def read() -> None:
        for tensor in tensors:
            tensor.sum()

    return read


def multiplier(threads: int) -> tuple[Callable[[], object], int]:
    """A function that multiplies and adds in registers on all threads, and how many operations a call of it is."""

    def multiply() -> int:
        return native.multiply_add(FMA_FLOPS_PER_THREAD * threads, num_threads=threads)

    return multiply, multiply()
