"""The files of the engine benchmark: each model in float16, fused and not, and TensorRT engines of them.

TensorRT's own is built twice: strongly typed, from the file in float16, and from the file in float32 with TensorRT left
free to choose float16.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from files import Model, Shape, make_original

from flashonnx.engine import build_engine
from flashonnx.engine.peer import build_peer
from flashonnx.engine.precision import convert
from flashonnx.engine.profile import Range
from flashonnx.engine.tensorrt import import_tensorrt
from flashonnx.files import write_text
from flashonnx.fusion import fuse, model_io

FUSED = "flashonnx plugin"
STRONG = "TensorRT, float16 file"
FREE = "TensorRT, free to choose float16"
ENGINES = {FUSED: "plugin", STRONG: "strong", FREE: "free"}

_OPSET = 18  # the newest that TensorRT 10.6 parses whole: it has no Attention

Say = Callable[[str], None]
Shapes = dict[str, tuple[int, ...]]


class EngineFiles:
    """Of one model; what is there already is not made again."""

    def __init__(self, model: Model, folder: Path, say: Say) -> None:
        self._model = model
        self._folder = folder
        self._say = say
        self.original = make_original(model, folder, _OPSET, say)
        self.half = folder / f"{model.name}-fp16.onnx"
        self.fused_half = folder / f"{model.name}-fp16-fused.onnx"

    def make_half(self) -> None:
        """The files in float16."""
        for path, is_fused in ((self.half, False), (self.fused_half, True)):
            if path.exists():
                continue
            self._say(f"{self._model.name}: making {path.name}")
            model = model_io.load(self.original)
            if is_fused:
                model = fuse(model, require_all=True, portable=False).ir_model
            convert(model, "fp16")
            model_io.save(model, path)

    def make_engine(self, name: str, shape: Shape) -> tuple[Path, float]:
        """The engine of that name in ENGINES for inputs of this shape alone, and the seconds that its build took.

        Raises:
            EngineError: TensorRT refuses.
        """
        engines = self._folder / "engines"
        engines.mkdir(exist_ok=True)
        path = engines / f"{self._model.name}-{shape[0]}x{shape[1]}-{ENGINES[name]}.engine"
        seconds = path.with_suffix(".seconds.json")
        if not seconds.exists():
            self.make_half()
            self._say(f"{self._model.name}: building, {name}")
            started = time.monotonic()
            shapes = {input_: tuple(tensor.shape) for input_, tensor in self._model.inputs(*shape).items()}
            self._build(name, path, shapes)
            write_text(seconds, json.dumps(time.monotonic() - started))
        return path, json.loads(seconds.read_text(encoding="utf-8"))

    def _build(self, name: str, path: Path, shapes: Shapes) -> None:
        if name == FUSED:
            build_engine(self.fused_half, path, min_shapes=shapes, opt_shapes=shapes, max_shapes=shapes, check=False)
            return
        profile = {input_: Range(dims, dims, dims) for input_, dims in shapes.items()}
        is_strong = name == STRONG
        build_peer(self.half if is_strong else self.original, path, profile, strongly_typed=is_strong)


def tensorrt_version() -> str:
    """Of the Python module that builds and runs the engines."""
    return str(import_tensorrt().__version__)
