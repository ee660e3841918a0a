"""TensorRT engines of ONNX models with FlashAttention: built, checked, loaded and run.

`build_engine` is where to start reading. TensorRT is imported on first use; TensorRT-RTX serves in its place.
"""

from flashonnx.engine.build import BuildResult, build_engine
from flashonnx.engine.run import Engine
from flashonnx.engine.tensorrt import EngineError, EngineMismatchError

__all__ = ["BuildResult", "Engine", "EngineError", "EngineMismatchError", "build_engine"]
