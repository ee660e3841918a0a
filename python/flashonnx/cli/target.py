"""MODULE:CALLABLE, the way in which a command line names a PyTorch model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from flashonnx.cli.common import TARGET_HELP


class TargetError(Exception):
    """A target does not exist or does not return what it should."""


@dataclass(frozen=True)
class Target:
    """A module, example inputs, and keyword arguments for `flashonnx.export`."""

    module: Any
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


def load_target(text: str) -> Target:
    """Imports the module and calls the callable.

    Raises:
        TargetError: with what is wrong; what the callable itself raises is its cause.
    """
    module_name, colon, attribute = text.rpartition(":")
    if not colon or not module_name or not attribute:
        raise TargetError(f"{text!r} is not {TARGET_HELP}")
    function = _attribute(_import(module_name), attribute, text)
    if not callable(function):
        raise TargetError(f"{text}: {attribute} is not callable; wanted {TARGET_HELP}")
    try:
        made = function()
    except Exception as error:
        raise TargetError(f"{text}: {type(error).__name__}: {error}") from error
    return _checked(made, text)


def is_target(text: str) -> bool:
    """Whether the text names a PyTorch model rather than a file."""
    return ":" in text and not Path(text).exists()


def _import(name: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        raise TargetError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _attribute(module: ModuleType, path: str, text: str) -> Any:
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            raise TargetError(f"{text}: {module.__name__} has no {path}")
        value = getattr(value, name)
    return value


def _checked(made: Any, text: str) -> Target:
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[1], (tuple, list)):
        raise TargetError(f"{text} returned {type(made).__name__}; wanted {TARGET_HELP}")
    options = made[2] if len(made) == 3 else {}
    if not isinstance(options, Mapping):
        raise TargetError(f"{text} returned options that are no mapping; wanted {TARGET_HELP}")
    return Target(made[0], tuple(made[1]), dict(options))
