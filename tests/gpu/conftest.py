"""GPU tests: `pytest -m gpu`. They need an NVIDIA GPU, PyTorch with CUDA, and a library that was built with nvcc."""

from __future__ import annotations

from pathlib import Path

import pytest


def _why_not() -> str:
    try:
        import torch
    except ImportError:
        return "needs PyTorch"
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU that PyTorch can use"
    from flashonnx import native

    try:
        return "" if native.build_info()["cuda"] else "the library was built without CUDA"
    except FileNotFoundError as error:
        return str(error)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _why_not() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
