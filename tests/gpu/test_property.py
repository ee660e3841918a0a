"""Any sizes, layout, type and feature together: the kernel that dispatch picks, against float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.gpu import problems, test_features  # noqa: E402

head_sizes = st.one_of(st.integers(1, 256), st.sampled_from([64, 96, 128, 192, 256]))


@settings(max_examples=400)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    queries=st.integers(1, 400),
    keys=st.integers(6, 700),
    sizes=st.tuples(head_sizes, head_sizes),
    layout=st.sampled_from(["bhsd", "bshd", "odd"]),
    feature=st.sampled_from(test_features.FEATURES),
    seed=st.integers(0, 2**31),
)
def test_any_problem(
    dtype: torch.dtype, kv_heads: int, group: int, queries: int, keys: int, sizes: tuple[int, int], layout: str,
    feature: tuple, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    problem = test_features.make(dtype, (kv_heads * group, kv_heads, queries, keys), sizes, layout, feature)
    problems.assert_close(problems.run(problem)["Y"], problems.expected(problem))
