"""The files of the engine benchmark: each model in float16, fused and not, and TensorRT engines of them.

TensorRT's own is built twice: strongly typed, from the file in float16, and from the file in float32 with TensorRT left
free to choose float16.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
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

    def make_engine(self, name: str, shapes: Sequence[Shape]) -> tuple[Path, float]:
        """The engine of that name in ENGINES, tuned for the first of the shapes and fit for all, and the seconds that
        its build took.

        Raises:
            EngineError: TensorRT refuses.
        """
        engines = self._folder / "engines"
        engines.mkdir(exist_ok=True)
        of_shapes = "_".join(f"{batch}x{length}" for batch, length in shapes)
        path = engines / f"{self._model.name}-{of_shapes}-{ENGINES[name]}.engine"
        seconds = path.with_suffix(".seconds.json")
        if not seconds.exists():
            self.make_half()
            self._say(f"{self._model.name}: building, {name}")
            started = time.monotonic()
            self._build(name, path, self._profile(shapes))
            write_text(seconds, json.dumps(time.monotonic() - started))
        return path, json.loads(seconds.read_text(encoding="utf-8"))

    def _profile(self, shapes: Sequence[Shape]) -> dict[str, Range]:
        batches, lengths = zip(*shapes, strict=True)
        ends = (min(batches), min(lengths)), shapes[0], (max(batches), max(lengths))
        least, usual, most = (self._model.inputs(*shape) for shape in ends)
        return {
            name: Range(tuple(least[name].shape), tuple(usual[name].shape), tuple(most[name].shape)) for name in usual
        }

    def _build(self, name: str, path: Path, profile: dict[str, Range]) -> None:
        if name == FUSED:
            least, usual, most = (
                {name: getattr(dims, end) for name, dims in profile.items()} for end in ("min", "opt", "max")
            )
            build_engine(self.fused_half, path, min_shapes=least, opt_shapes=usual, max_shapes=most, check=False)
            return
        is_strong = name == STRONG
        build_peer(self.half if is_strong else self.original, path, profile, strongly_typed=is_strong)


def tensorrt_version() -> str:
    """Of the Python module that builds and runs the engines."""
    return str(import_tensorrt().__version__)
