"""TensorRT's own engine of a model as it is: what an engine with the plugin is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from flashonnx.engine.builder import Builder, BuilderOptions
from flashonnx.engine.precision import convert
from flashonnx.engine.profile import Range
from flashonnx.engine.tensorrt import import_tensorrt, listening
from flashonnx.files import replacing


def build_peer(
    model: str | Path,
    engine: str | Path,
    profile: Mapping[str, Range],
    *,
    precision: str | None = None,
    strongly_typed: bool = True,
) -> None:
    """Builds as `trtexec` does: TF32 allowed, nothing fused by us.

    Args:
        model: the ONNX file.
        engine: the file to write, whole or not at all.
        profile: shapes by input name.
        precision: "fp16" or "bf16", to which a float32 model is converted first; as the file is if None.
        strongly_typed: compute in the types of the file; if not, in float16 too where TensorRT finds that faster.

    Raises:
        EngineError: TensorRT is missing, or refuses the model.
        flashonnx.fusion.ModelError: the ONNX file cannot be read.
        OSError: a file cannot be read or written.
    """
    from flashonnx.fusion import model_io

    trt = import_tensorrt()
    options = BuilderOptions(strongly_typed=strongly_typed, tf32=True)
    with tempfile.TemporaryDirectory(prefix="flashonnx-engine-") as folder:
        source = Path(model)
        if precision is not None:
            converted = model_io.load(source)
            convert(converted, precision)
            source = Path(folder, "model.onnx")
            model_io.save(converted, source)
        with listening(trt) as messages, replacing(engine) as temporary:
            temporary.write_bytes(Builder(trt, messages, options).build(source, profile))
