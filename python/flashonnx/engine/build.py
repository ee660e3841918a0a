"""`build_engine`: from an ONNX file to a TensorRT engine that computes the same."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import flashonnx
from flashonnx.engine.builder import Builder, BuilderOptions, Progress
from flashonnx.engine.description import Description, describe_gpu
from flashonnx.engine.packing import pack_qkv
from flashonnx.engine.precision import convert, least_precision
from flashonnx.engine.prepare import close_gaps, is_fused, strip_functions
from flashonnx.engine.profile import Range, Shapes, make_profile
from flashonnx.engine.run import Engine
from flashonnx.engine.tensorrt import EngineMismatchError, Log, describe, import_tensorrt, listening, load_plugin
from flashonnx.files import replacing
from flashonnx.validation.core import load_model, validate
from flashonnx.validation.inputs import InputSpec, input_specs

if TYPE_CHECKING:
    from types import ModuleType

    import onnx_ir as ir

    from flashonnx.validation import ValidationResult


@dataclass
class BuildResult:
    """An engine file that was written, and what is known of it."""

    path: Path
    description: Description
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    check: ValidationResult | None = None  # None: not asked for, or no GPU here that the engine is for


def build_engine(
    model: str | Path,
    engine: str | Path,
    *,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    precision: str | None = None,
    tf32: bool = False,
    timing_cache: str | Path | None = None,
    workspace_mib: int | None = None,
    compute_capabilities: Sequence[str] = (),
    onnx_path: str | Path | None = None,
    check: bool = True,
    module: str | None = None,
    say: Log | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Builds an engine in which attention is the FlashAttention plugin, and compares it with ONNX Runtime.

    Args:
        model: the ONNX file; fused first if it has no FlashAttention node.
        engine: the file to write, whole or not at all. `<engine>.json` beside it says how it was made.
        min_shapes, opt_shapes, max_shapes: shape by input name, for inputs with dynamic dimensions; for what is not
            given see `flashonnx.engine.profile`.
        precision: "fp32", "fp16" or "bf16", to which a float32 model is converted; as the file is if None.
        tf32: let TensorRT round the factors of float32 products to 10 bits, as it does by default.
        timing_cache: file of kernel timings to start from and to write back.
        workspace_mib: the most scratch memory of a layer, in MiB; all there is if None.
        compute_capabilities: GPUs to build for, such as "8.9"; TensorRT-RTX only. This machine's if empty.
        onnx_path: also write the ONNX file as TensorRT gets it, for trtexec and Polygraphy.
        check: compare the engine's outputs with ONNX Runtime's of `model` before the file is written.
        module: Python module of the TensorRT to use, "tensorrt" or "tensorrt_rtx"; what is installed if None.
        say: takes TensorRT's warnings and the steps.
        progress: takes the builder's progress.

    Raises:
        EngineError: TensorRT or the plugin is missing, or TensorRT refuses the model.
        EngineMismatchError: the engine computes something else than ONNX Runtime.
        flashonnx.fusion.ModelError: the ONNX file cannot be read.
        OSError: a file cannot be read or written.
    """
    started = time.monotonic()
    say = say or (lambda line: None)
    specs = input_specs(load_model(model))
    profile = make_profile(specs, (min_shapes or {}, opt_shapes or {}, max_shapes or {}))
    trt = import_tensorrt(module)
    load_plugin(trt)
    prepared, notes = _prepare(model, precision, say)
    options = BuilderOptions(
        tf32=tf32,
        timing_cache=timing_cache,
        workspace_mib=workspace_mib,
        compute_capabilities=tuple(compute_capabilities),
    )
    with _written(prepared, onnx_path) as path, listening(trt, say) as messages:
        say(f"building with {describe(trt)}")
        plan = Builder(trt, messages, options, progress).build(path, profile)
    used = precision or least_precision(prepared)
    result = BuildResult(Path(engine), _describe(trt, model, specs, profile, options, used), notes=notes)
    with replacing(engine) as temporary:
        temporary.write_bytes(plan)
        if check:
            _check(model, temporary, profile, result, say)
    result.description.save(result.path)
    result.seconds = time.monotonic() - started
    return result


def _prepare(model: str | Path, precision: str | None, say: Log) -> tuple[ir.Model, list[str]]:
    """The model as TensorRT takes it, and what had to be done for that."""
    from flashonnx.fusion import model_io
    from flashonnx.fusion.fuse import fuse

    prepared = model_io.load(model)
    notes = []
    if not is_fused(prepared):
        say("fusing")
        fused = fuse(prepared, portable=False)
        prepared = fused.ir_model
        notes.append(f"fused {fused.report.fused} of {fused.report.total} attention sites")
        notes += [f"{site.name} was not fused: {site.reason}" for site in fused.report.sites if not site.fused]
    notes += strip_functions(prepared)
    if precision is not None:
        say(f"converting to {precision}")
        convert(prepared, precision)
    notes += pack_qkv(prepared)
    notes += close_gaps(prepared)
    return prepared, notes


@contextmanager
def _written(model: ir.Model, keep: str | Path | None) -> Iterator[Path]:
    """The model as a file: the parser finds weights in other files by their place beside it."""
    from flashonnx.fusion import model_io

    if keep is not None:
        model_io.save(model, keep)
        yield Path(keep)
        return
    with tempfile.TemporaryDirectory(prefix="flashonnx-engine-") as folder:
        path = Path(folder, "model.onnx")
        model_io.save(model, path)
        yield path


def _describe(
    trt: ModuleType,
    model: str | Path,
    specs: Sequence[InputSpec],
    profile: Mapping[str, Range],
    options: BuilderOptions,
    precision: str,
) -> Description:
    gpu = describe_gpu()
    return Description(
        runtime=trt.__name__,
        runtime_version=trt.__version__,
        flashonnx_version=flashonnx.__version__,
        gpu="" if options.compute_capabilities else gpu.name,
        compute_capabilities=options.compute_capabilities or (gpu.compute_capability,),
        precision=precision,
        inputs=[{**asdict(spec), "dtype": spec.dtype.name} for spec in specs],
        profile={name: asdict(shapes) for name, shapes in profile.items()},
        source=Path(model).name,
        source_sha256=_sha256(Path(model)),
    )


def _check(model: str | Path, engine: Path, profile: Mapping[str, Range], result: BuildResult, say: Log) -> None:
    """Usual shapes, random inputs.

    Raises:
        EngineMismatchError: an output differs.
    """
    if not result.description.gpu:
        result.notes.append("not compared with ONNX Runtime: there is no GPU here that the engine was built for")
        return
    say("comparing with ONNX Runtime")
    loaded = Engine(engine, description=result.description)
    result.check = validate(model, loaded, shapes={name: shapes.opt for name, shapes in profile.items()}, progress=say)
    if not result.check.passed:
        wrong = [f"{output.name}: {output.verdict.reason}" for output in result.check.outputs if output.verdict.reason]
        raise EngineMismatchError(f"the engine computes something else: {'; '.join([*result.check.failures, *wrong])}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
