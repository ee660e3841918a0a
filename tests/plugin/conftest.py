"""TensorRT with the plugin loaded; without a GPU that is TensorRT-RTX, which parses and builds for named GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flashonnx.engine import EngineError
from flashonnx.engine.tensorrt import Messages, import_tensorrt, listening, load_plugin


@pytest.fixture(scope="session")
def trt() -> Any:
    try:
        module = import_tensorrt()
        load_plugin(module)
    except EngineError as error:
        pytest.skip(f"needs TensorRT and the plugin: {error}")
    return module


@pytest.fixture
def messages(trt: Any) -> Iterator[Messages]:
    with listening(trt) as heard:
        yield heard
