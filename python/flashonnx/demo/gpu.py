"""The demo on a GPU: the model in PyTorch, ONNX Runtime's CUDA provider and TensorRT, fused and not.

Inputs and outputs stay on the GPU. In float32 nothing is rounded to TF32; TensorRT computes in float16.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashonnx.bench import cuda
from flashonnx.bench.timing import Times
from flashonnx.demo import minilm, models
from flashonnx.demo.accuracy import TOKENS, differences
from flashonnx.validation.compare import Difference, worst

if TYPE_CHECKING:
    import torch

TORCH = "PyTorch CUDA"
FUSED_CUDA = "fused, ORT CUDA"
ORIGINALS_CUDA = {f"{name}, ORT CUDA": name for name in models.ORIGINALS}
TORCH_HALF = "PyTorch CUDA, float16"
FUSED_TENSORRT = "fused, TensorRT, float16"
ORIGINAL_TENSORRT = "original, TensorRT, float16"
# TensorRT's parser knows no Attention, which the original of opset 23 has.
_TENSORRT_SOURCE = "original, opset 18"

Tensors = Mapping[str, "torch.Tensor"]
# What queues a run on given inputs, and the tensors by output name that it writes.
Bound = tuple[Callable[[], object], Callable[[], Tensors]]
Bind = Callable[[Tensors], Bound]
Shape = tuple[int, int]


@dataclass
class GpuResult:
    """Seconds by shape and contestant; the worst difference of tokens' embeddings from PyTorch's in float32."""

    environment: dict[str, object]
    times: dict[Shape, Times] = field(default_factory=dict)
    accuracy: dict[str, Difference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # who is missing, and why

    @property
    def names(self) -> list[str]:
        return list(self.accuracy)

    def median(self, shape: Shape, name: str) -> float:
        """Seconds of a run."""
        return statistics.median(self.times[shape][name])

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's types."""
        return {
            "environment": self.environment,
            "accuracy": {name: asdict(found) for name, found in self.accuracy.items()},
            "seconds": [
                {"batch": batch, "length": length, "rounds": times} for (batch, length), times in self.times.items()
            ],
            "notes": self.notes,
        }


def measure(
    contestants: Mapping[str, Bind],
    shapes: Sequence[Shape],
    tokenizer: Any,
    result: GpuResult,
    say: Callable[[str], None],
    *,
    device: str = "cuda",
    interleave: Callable[..., Times] = cuda.interleave,
) -> None:
    """Fills the result; the first contestant is what the others are compared with.

    device, interleave: other than a GPU's for tests.
    """
    found: dict[str, list[Difference]] = {}
    for batch, length in shapes:
        say(f"GPU, batch {batch}, length {length}")
        arrays = minilm.encode(tokenizer, minilm.batch_of_texts(batch, length), length)
        inputs = _tensors(arrays, device)
        runs, outputs = {}, {}
        for name, bind in contestants.items():
            runs[name], output = bind(inputs)
            runs[name]()
            outputs[name] = {key: tensor.float().cpu().numpy() for key, tensor in output().items()}
        expected = next(iter(outputs.values()))
        for name, values in outputs.items():
            of_tokens = differences(values, expected, arrays["attention_mask"])[TOKENS]
            found.setdefault(name, []).append(of_tokens)
        result.times[batch, length] = interleave(runs)
    result.accuracy = {name: worst(each) for name, each in found.items()}


def run(paths: Mapping[str, Path], shapes: Sequence[Shape], tokenizer: Any, say: Callable[[str], None]) -> GpuResult:
    """All contestants that this machine has; needs a GPU (`cuda.why_not`)."""
    import torch

    result = GpuResult(cuda.describe())
    contestants: dict[str, Bind] = {}
    for name, prepare in _preparations(paths, shapes).items():
        say(f"GPU, preparing {name}")
        try:
            contestants[name] = prepare()
        except Exception as error:  # those of ONNX Runtime, TensorRT and PyTorch share no class
            result.notes.append(f"{name} is missing: {str(error).strip().splitlines()[0]}")
    with torch.cuda.stream(cuda.stream()):
        measure(contestants, shapes, tokenizer, result, say)
    return result


def _preparations(paths: Mapping[str, Path], shapes: Sequence[Shape]) -> dict[str, Callable[[], Bind]]:
    files = {FUSED_CUDA: paths[models.FUSED], **{name: paths[source] for name, source in ORIGINALS_CUDA.items()}}
    source = paths[_TENSORRT_SOURCE]
    return {
        TORCH: partial(_torch, "float32"),
        **{name: partial(_onnxruntime, path) for name, path in files.items()},
        TORCH_HALF: partial(_torch, "float16"),
        FUSED_TENSORRT: partial(_tensorrt, source, shapes, fused=True),
        ORIGINAL_TENSORRT: partial(_tensorrt, source, shapes, fused=False),
    }


def _torch(dtype: str) -> Bind:
    import torch

    model = minilm.load_model().to(device="cuda", dtype=getattr(torch, dtype))

    def bind(inputs: Tensors) -> Bound:
        latest: dict[str, torch.Tensor] = {}

        @torch.inference_mode()
        def run() -> None:
            outputs = model(*(inputs[name] for name in minilm.INPUTS))
            latest.update(zip(minilm.OUTPUTS, outputs, strict=True))

        return run, lambda: latest

    return bind


def _onnxruntime(path: Path) -> Bind:
    import torch

    session = cuda.new_session(path, use_tf32="0")

    def bind(inputs: Tensors) -> Bound:
        batch, length = inputs[minilm.INPUTS[0]].shape
        shapes = ((batch, length, minilm.FEATURES), (batch, minilm.FEATURES))
        outputs = {name: torch.empty(shape, device="cuda") for name, shape in zip(minilm.OUTPUTS, shapes, strict=True)}
        return cuda.BoundRun(session, inputs, outputs), lambda: outputs

    return bind


def _tensorrt(source: Path, shapes: Sequence[Shape], *, fused: bool) -> Bind:
    from flashonnx.engine import Engine, build_engine
    from flashonnx.engine.peer import build_peer
    from flashonnx.engine.profile import Range

    least, most = (1, 1), (max(batch for batch, _ in shapes), max(length for _, length in shapes))
    usual = shapes[len(shapes) // 2]
    path = source.with_name("fused.engine" if fused else "original.engine")
    if fused:
        ranges = [dict.fromkeys(minilm.INPUTS, shape) for shape in (least, usual, most)]
        build_engine(
            source,
            path,
            min_shapes=ranges[0],
            opt_shapes=ranges[1],
            max_shapes=ranges[2],
            precision="fp16",
            check=False,
        )
    else:
        build_peer(source, path, dict.fromkeys(minilm.INPUTS, Range(least, usual, most)), precision="fp16")
    engine = Engine(path)

    def bind(inputs: Tensors) -> Bound:
        # A context keeps the shapes of its last run: one for each of the inputs that are timed.
        context = engine.clone()
        outputs = context.bind(inputs)
        return context.enqueue, lambda: outputs

    return bind


def _tensors(arrays: Mapping[str, Any], device: str) -> dict[str, torch.Tensor]:
    from flashonnx.arrays import to_torch

    return {name: to_torch(array).to(device) for name, array in arrays.items()}
