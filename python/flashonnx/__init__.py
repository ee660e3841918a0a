"""FlashAttention for PyTorch and ONNX models.

Everything here is loaded on first use, so that `import flashonnx` is cheap and needs no PyTorch or ONNX Runtime.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashonnx.exporter import export as export
    from flashonnx.fusion import FuseResult as FuseResult
    from flashonnx.fusion import fuse as fuse  # type: ignore[no-redef]  # mypy takes it for the module of that name
    from flashonnx.runtime import get_library_path as get_library_path
    from flashonnx.runtime import get_plugin_path as get_plugin_path
    from flashonnx.runtime import session as session
    from flashonnx.validation import validate as validate

_HOMES = {
    "FuseResult": "flashonnx.fusion",
    "export": "flashonnx.exporter",
    "fuse": "flashonnx.fusion",
    "get_library_path": "flashonnx.runtime",
    "get_plugin_path": "flashonnx.runtime",
    "session": "flashonnx.runtime",
    "validate": "flashonnx.validation",
}

__all__ = ["FuseResult", "__version__", "export", "fuse", "get_library_path", "get_plugin_path", "session", "validate"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("flashonnx")
    if name not in _HOMES:
        raise AttributeError(f"module 'flashonnx' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
