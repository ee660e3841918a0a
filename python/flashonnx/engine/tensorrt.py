"""The TensorRT module that is installed, its log, and the FlashAttention plugin in its registry."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flashonnx.contract import OP_TYPE
from flashonnx.runtime import get_plugin_path
from flashonnx.validation.runners import RunError

MODULES = ("tensorrt", "tensorrt_rtx")

Log = Callable[[str], None]


class EngineError(RunError):
    """An engine cannot be built, loaded or run; the message says why, in TensorRT's words where it has any."""


class EngineMismatchError(EngineError):
    """An engine computes something else than the model that it was built from."""


@cache
def import_tensorrt(name: str | None = None) -> ModuleType:
    """TensorRT's Python module: the one named, or the first of MODULES that is installed.

    Raises:
        EngineError: there is none.
    """
    names = (name,) if name else MODULES
    for candidate in names:
        if importlib.util.find_spec(candidate) is None:
            continue
        if candidate == "tensorrt_rtx":
            _link_rtx_library()
        try:
            return importlib.import_module(candidate)
        except ImportError as error:
            raise EngineError(f"the module {candidate} does not load: {error}") from error
    raise EngineError(
        f"no Python module {' or '.join(names)}; install TensorRT 10.6 or later, with its Python bindings"
    )


def describe(trt: ModuleType) -> str:
    """Name and version, such as 'tensorrt 10.6.0'."""
    return f"{trt.__name__} {trt.__version__}"


@dataclass
class Messages:
    """What TensorRT logs while somebody listens; `say` takes warnings and errors as they come."""

    errors: list[str] = field(default_factory=list)
    say: Log | None = None

    def explain(self, otherwise: str) -> str:
        """What went wrong: the plugin's own messages if it has any, else the first error of TensorRT's."""
        ours = [message for message in self.errors if message.startswith(OP_TYPE)]
        return "\n".join(dict.fromkeys(ours)) if ours else next(iter(self.errors), otherwise)


@contextmanager
def listening(trt: ModuleType, say: Log | None = None) -> Iterator[Messages]:
    """Collects what is logged during the block, by any thread."""
    listeners = get_logger(trt).listeners
    messages = Messages(say=say)
    listeners.append(messages)
    try:
        yield messages
    finally:
        listeners.remove(messages)


@cache
def get_logger(trt: ModuleType) -> Any:
    """The one ILogger of the process: TensorRT keeps a pointer to the first that it gets, and plugins log to that."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: list[Messages] = []

        def log(self, severity: Any, message: str) -> None:
            # The parser warns of each attribute that a node leaves to its default.
            if severity > trt.ILogger.WARNING or "not found in plugin node" in message:
                return
            for messages in tuple(self.listeners):
                if severity <= trt.ILogger.ERROR:
                    messages.errors.append(message)
                if messages.say is not None:
                    messages.say(message)

    return Logger()


@cache
def load_plugin(trt: ModuleType) -> None:
    """Registers the plugin's creator, once in a process.

    Raises:
        EngineError: the plugin was not built, or does not load.
    """
    try:
        path = get_plugin_path()
    except FileNotFoundError as error:
        raise EngineError(str(error)) from error
    registry = trt.get_plugin_registry()
    registry.load_library(path)
    if registry.get_creator(OP_TYPE, "1", "") is None:
        raise EngineError(f"{describe(trt)} found no {OP_TYPE} plugin in {path}")


def _link_rtx_library() -> None:
    """The wheel has its library under the versioned name alone; the ONNX parser opens the other one, or aborts."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    for folder in spec.submodule_search_locations or () if spec else ():
        link = Path(folder, "libtensorrt_rtx.so")
        for library in Path(folder).glob("libtensorrt_rtx.so.*"):
            if link.exists():
                return
            try:
                link.symlink_to(library.name)
            except FileExistsError:  # another process was faster
                return
            except OSError as error:
                raise EngineError(f"TensorRT-RTX needs a link; run: ln -s {library.name} {link} ({error})") from error
