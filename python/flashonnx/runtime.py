"""ONNX Runtime with flashonnx in it: where the library is, and sessions that have it registered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flashonnx

if TYPE_CHECKING:
    import onnxruntime

LIBRARY = "libflashonnx.so"
PLUGIN = "libflashonnx_trt.so"

# These take the place of the installed libraries, for builds that are not installed.
LIBRARY_VARIABLE = "FLASHONNX_LIBRARY"
PLUGIN_VARIABLE = "FLASHONNX_PLUGIN"


def get_library_path() -> str:
    """The path of the library, for SessionOptions.register_custom_ops_library.

    Raises:
        FileNotFoundError: it was not built, or FLASHONNX_LIBRARY names no file.
    """
    return _find(LIBRARY, LIBRARY_VARIABLE, "install flashonnx with `pip install .`, or run `make build`")


def get_plugin_path() -> str:
    """The path of the TensorRT plugin, for trtexec --dynamicPlugins and IPluginRegistry.load_library.

    Raises:
        FileNotFoundError: it was not built, or FLASHONNX_PLUGIN names no file.
    """
    return _find(PLUGIN, PLUGIN_VARIABLE, "it is built where nvcc and TensorRT's headers are; see docs/tensorrt.md")


def _find(name: str, variable: str, advice: str) -> str:
    named = os.environ.get(variable)
    places = [Path(named)] if named else [Path(folder, "lib", name) for folder in flashonnx.__path__]
    for place in places:
        if place.is_file():
            return str(place.resolve())
    raise FileNotFoundError(f"no {name} at {', '.join(map(str, places))}; {advice}")


def session(
    path: str | os.PathLike[str] | bytes,
    providers: Sequence[Any] | None = None,
    *,
    sess_options: onnxruntime.SessionOptions | None = None,
    **arguments: Any,
) -> onnxruntime.InferenceSession:
    """An onnxruntime.InferenceSession that knows FlashAttention.

    Args:
        path: a model file, or a serialised model.
        providers: as InferenceSession takes them; all that are available if None.
        sess_options: the caller's own options; the library is registered in them.
        arguments: passed on to InferenceSession.

    Raises:
        ImportError: ONNX Runtime is not installed.
        FileNotFoundError: the library was not built.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("flashonnx.session needs ONNX Runtime: pip install flashonnx[cpu] or [gpu]") from None
    options = onnxruntime.SessionOptions() if sess_options is None else sess_options
    options.register_custom_ops_library(get_library_path())
    model = path if isinstance(path, bytes) else os.fspath(path)
    chosen = onnxruntime.get_available_providers() if providers is None else list(providers)
    return onnxruntime.InferenceSession(model, sess_options=options, providers=chosen, **arguments)
