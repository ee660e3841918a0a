"""What is timed: attention problems by shape, dtype and mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

MASKS = ("none", "bool", "float")


@dataclass(frozen=True)
class Case:
    """One attention: Q is (batch_size, q_num_heads, q_sequence_length, head_size), K and V likewise.

    Causal means that query i sees keys 0..i, as in ONNX Attention without a past and in PyTorch. `mask`, one of MASKS,
    has shape (1, 1, q_sequence_length, kv_sequence_length).
    """

    batch_size: int
    q_num_heads: int
    kv_num_heads: int
    q_sequence_length: int
    kv_sequence_length: int
    head_size: int
    is_causal: bool = False
    dtype: str = "float32"
    mask: str = "none"

    @property
    def flops(self) -> int:
        """Useful ones: two products over the allowed (query, key) pairs only, a multiplication and an addition each.

        A mask counts as if it allowed every pair: nobody can know before reading it.
        """
        pairs = self.q_sequence_length * self.kv_sequence_length
        if self.is_causal:
            seen = np.minimum(np.arange(1, self.q_sequence_length + 1), self.kv_sequence_length)
            pairs = int(seen.sum())
        return 4 * self.batch_size * self.q_num_heads * pairs * self.head_size

    @property
    def input_bytes(self) -> int:
        """Of Q, K and V."""
        queries = self.q_num_heads * self.q_sequence_length
        keys = 2 * self.kv_num_heads * self.kv_sequence_length
        return self.batch_size * (queries + keys) * self.head_size * DTYPES[self.dtype].itemsize

    @property
    def output_bytes(self) -> int:
        elements = self.batch_size * self.q_num_heads * self.q_sequence_length * self.head_size
        return elements * DTYPES[self.dtype].itemsize

    @property
    def is_decoding(self) -> bool:
        """Few queries over many keys: reading K and V is what takes the time."""
        return self.q_sequence_length <= 8 and self.kv_sequence_length >= 1024

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every dimension."""
        heads = (self.q_num_heads, self.kv_num_heads)
        return (self.batch_size, *heads, self.q_sequence_length, self.kv_sequence_length, self.head_size)

    def with_length(self, length: int) -> Case:
        """The same problem with `length` queries and keys."""
        return replace(self, q_sequence_length=length, kv_sequence_length=length)

    def __str__(self) -> str:
        heads = _pair(self.q_num_heads, self.kv_num_heads)
        lengths = _pair(self.q_sequence_length, self.kv_sequence_length)
        kind = "causal" if self.is_causal else "full" if self.mask == "none" else f"{self.mask} mask"
        return f"B{self.batch_size} H{heads} N{lengths} D{self.head_size} {kind} {self.dtype}"


def _pair(queries: int, keys: int) -> str:
    return f"{queries}" if queries == keys else f"{queries}/{keys}"


def parse_case(text: str) -> Case:
    """'1x12x512x64' is batch, heads, length, head size; 8x32/8x1/4096x128 has 8 KV heads and 4096 keys for one query.

    Raises:
        ValueError: with what is expected.
    """
    try:
        batch, heads, lengths, head_size = text.split("x")
        q_heads, _, kv_heads = heads.partition("/")
        q_length, _, kv_length = lengths.partition("/")
        case: Case | None = Case(
            batch_size=int(batch),
            q_num_heads=int(q_heads),
            kv_num_heads=int(kv_heads or q_heads),
            q_sequence_length=int(q_length),
            kv_sequence_length=int(kv_length or q_length),
            head_size=int(head_size),
        )
    except ValueError:
        case = None
    if case is None or min(case.sizes) < 1 or case.q_num_heads % case.kv_num_heads:
        raise ValueError(f"{text!r} is not a case such as 1x12x512x64 or 8x32/8x1/4096x128")
    return case


def with_options(texts: Iterable[str], *, causal: bool | None = None, dtype: str = "float32") -> list[Case]:
    """Each case in a dtype, full or causal; both, in this order, if `causal` is None.

    Raises:
        ValueError: a text is no case, or there is no such dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}; there are {', '.join(DTYPES)}")
    kinds = (False, True) if causal is None else (causal,)
    return [replace(parse_case(text), is_causal=is_causal, dtype=dtype) for text in texts for is_causal in kinds]


SPEED_CASES = ("1x12x128x64", "1x12x512x64", "1x8x2048x64", "1x8x4096x64", "1x8x2048x128", "8x12x256x64")
# Over lengths of these the time and the peak memory are followed, on the CPU and on a GPU.
SCALING_CASE = parse_case("1x8x1024x64")
CUDA_SCALING_CASE = replace(parse_case("1x16x1024x128"), dtype="bfloat16")
SCALING_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


def prefill_cases(dtype: str) -> list[Case]:
    """On a GPU: 16,384 tokens, heads of 2,048 columns together, full and causal."""
    tokens, columns = 16384, 2048
    shapes = [(length, size) for size in (64, 128, 256) for length in (512, 1024, 2048, 4096, 8192, 16384)]
    return with_options([f"{tokens // n}x{columns // size}x{n}x{size}" for n, size in shapes], dtype=dtype)


def decode_cases(dtype: str) -> list[Case]:
    """On a GPU: one query a head, 32 heads on 8, over long caches."""
    shapes = [(1, 8192, 128), (16, 8192, 128), (1, 131072, 128), (64, 2048, 128), (16, 8192, 64)]
    texts = [f"{batch}x32/8x1/{keys}x{size}" for batch, keys, size in shapes]
    return with_options(texts, causal=False, dtype=dtype)


def cpu_decode_cases(dtype: str) -> list[Case]:
    """On the CPU: 1 to 8 queries a head, 32 heads on 8, over 4,096 keys."""
    texts = [f"{batch}x32/8x{queries}/4096x128" for batch in (1, 8) for queries in (1, 2, 4, 8)]
    return with_options(texts, causal=False, dtype=dtype)


def grouped_cases(dtype: str) -> list[Case]:
    """On a GPU: prefill with fewer key/value heads."""
    return with_options(["4x32/8x2048x128", "1x32/4x8192x128"], dtype=dtype)


def masked_cases(dtype: str) -> list[Case]:
    """On a GPU: the same problem without a mask and with each kind of it."""
    (plain,) = with_options(["8x16x2048x128"], causal=False, dtype=dtype)
    return [replace(plain, mask=mask) for mask in MASKS]


def random_mask(case: Case, seed: int = 0) -> np.ndarray | None:
    """The mask of a case, (1, 1, q_sequence_length, kv_sequence_length): bool, one key in five disallowed, or normal
    numbers in the case's dtype; None if it has none."""
    if case.mask == "none":
        return None
    rng = np.random.default_rng(seed)
    shape = (1, 1, case.q_sequence_length, case.kv_sequence_length)
    if case.mask == "bool":
        allowed: np.ndarray = rng.random(shape) < 0.8
        allowed[..., 0] = True  # a row without keys is 0 to some and NaN to others
        return allowed
    return rng.standard_normal(shape, dtype=np.float32).astype(DTYPES[case.dtype])


def random_inputs(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard normal Q, K and V of a case, in its dtype."""
    rng = np.random.default_rng(seed)
    q_shape = (case.batch_size, case.q_num_heads, case.q_sequence_length, case.head_size)
    kv_shape = (case.batch_size, case.kv_num_heads, case.kv_sequence_length, case.head_size)
    dtype = DTYPES[case.dtype]
    q, k, v = (rng.standard_normal(shape, dtype=np.float32).astype(dtype) for shape in (q_shape, kv_shape, kv_shape))
    return q, k, v
