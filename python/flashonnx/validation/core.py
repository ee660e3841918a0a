"""`flashonnx.validate`: does a file still compute what its reference does?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from flashonnx.validation.compare import (
    CLOSENESS,
    Verdict,
    difference,
    is_floating,
    judge_against_oracle,
    judge_closeness,
    judge_equal,
    worst,
)
from flashonnx.validation.inputs import InputError, InputSet, InputSpec, check_arrays, generate, input_specs, load_npz
from flashonnx.validation.oracle import OnnxOracle, torch_oracle
from flashonnx.validation.result import Comparison, Measurement, ValidationResult
from flashonnx.validation.runners import OnnxRunner, RunError, Runner, TorchRunner
from flashonnx.validation.sites import Site, find_sites

if TYPE_CHECKING:
    from flashonnx.engine import Engine

Reference = str | Path | Callable[..., Any]
Progress = Callable[[str], None]

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
# By what an engine computes in, whatever the type of its outputs.
ENGINE_CLOSENESS = {"fp32": CLOSENESS["float32"], "fp16": CLOSENESS["float16"], "bf16": CLOSENESS["bfloat16"]}


def validate(
    reference: Reference,
    model: str | Path | Engine,
    *,
    inputs: Sequence[str | Path | Mapping[str, np.ndarray]] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    sites: bool = False,
    device: str = "cpu",
    atol: float | None = None,
    rtol: float | None = None,
    oracle: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> ValidationResult:
    """Runs `reference` and `model` on the same inputs and compares every output.

    A floating-point output passes if its largest error against a float64 evaluation of the reference is at most 1.5
    times the reference's own, plus one unit in the last place of the output's largest magnitude. Both errors are
    maxima over all input sets, because a maximum over few elements scatters. The float64 evaluation is the reference
    itself in wider arithmetic: a PyTorch module's `.double()`, or an ONNX file with every floating-point type
    replaced. If that cannot be run (an op outside ONNX, a model over 1 GiB), or `oracle` is false, then the outputs
    are compared with the reference's: their difference stays within 1e-4 (float32; 1e-2 float16, 5e-2 bfloat16) of
    the reference's largest magnitude. Given `atol` or `rtol`, that difference stays within atol + rtol * magnitude.
    Integer and bool outputs must be equal. A NaN or infinity on one side only fails. A TensorRT engine is compared with
    the reference's outputs, by the limit of the type that it computes in.

    Args:
        reference: path of an ONNX file, or a PyTorch module or function that takes the model's inputs by name or by
            position and returns its outputs.
        model: path of the ONNX file to validate, which runs in ONNX Runtime with the flashonnx op registered; or an
            `Engine`, or path of one (.engine, .plan, .trt), which TensorRT runs.
        inputs: .npz files or mappings of arrays by input name, each an input set. If empty, inputs are generated
            (`flashonnx.validation.inputs.generate`): one set, or one per kind of padding if the model takes a mask.
        shapes: shape by input name, for generated inputs.
        dims: size by dynamic dimension, for generated inputs.
        sites: also compare every FlashAttention node with the value it replaced; `reference` must be the ONNX file
            that `model` was fused from.
        device: where ONNX files run, "cpu" or "cuda".
        atol, rtol: replace the tolerance rule.
        oracle: evaluate the reference in float64 too.
        seed: of generated inputs.
        progress: called with a line before each step.

    Raises:
        InputError: the inputs do not fit the model, `sites` with a reference or model that is no ONNX file, an unknown
            device, or a tolerance that is negative or no number.
        RunError: a model does not load.
        OSError: a file cannot be read.
    """
    say = progress or (lambda line: None)
    for name, tolerance in (("atol", atol), ("rtol", rtol)):
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise InputError(f"{name} is {tolerance}; allowed: 0 and positive numbers")
    if sites and (callable(reference) or not isinstance(model, (str, Path)) or is_engine(model)):
        raise InputError("sites can only be compared between an ONNX file and the one that it was fused from")
    found = find_sites(str(reference), str(model)) if sites and not callable(reference) else []
    exposed = [site.shared for site in found if site.shared]
    say("loading the model")
    tested, specs, output_names = open_model(model, device, exposed)
    if atol is None and rtol is None and not isinstance(tested, OnnxRunner):
        rtol = ENGINE_CLOSENESS[tested.precision]
    sets = _input_sets(inputs, specs) if inputs else generate(specs, shapes=shapes, dims=dims, seed=seed)
    say("loading the reference")
    original = _reference_runner(reference, output_names, exposed, device)
    result = ValidationResult(original.label, tested.label)
    needs_oracle = oracle and atol is None and rtol is None
    wide = _oracle_runner(reference, output_names, exposed, result) if needs_oracle else None
    runs = _run_all(original, tested, wide, sets, result, say)

    result.outputs = [c for name in output_names if (c := _compare(name, runs, result, atol, rtol))]
    result.sites = [c for site in found if (c := _compare_site(site, runs, result, atol, rtol))]
    return result


def open_model(
    model: str | Path | Engine, device: str = "cpu", expose: Sequence[str] = ()
) -> tuple[OnnxRunner | Engine, list[InputSpec], list[str]]:
    """What runs the model, its inputs and the names of its outputs; `expose`: inner values of an ONNX file to show.

    Raises:
        RunError: it does not load.
        OSError: the file cannot be read.
    """
    if isinstance(model, (str, Path)) and not is_engine(model):
        proto = load_model(model)
        runner = OnnxRunner(model, device=device, expose=expose)
        return runner, input_specs(proto), [output.name for output in proto.graph.output]
    from flashonnx.engine import Engine

    if not isinstance(model, Engine):
        model = Engine(model)
    return model, model.input_specs(), model.outputs


def is_engine(path: str | Path) -> bool:
    """Whether a file is taken for a TensorRT engine, by its name."""
    return Path(path).suffix in ENGINE_SUFFIXES


def load_model(path: str | Path) -> onnx.ModelProto:
    """The model without its external data.

    Raises:
        OSError: the file cannot be read.
        RunError: it is no ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise RunError(f"{path}: not an ONNX file ({error})") from error
    if not model.graph.output:
        raise RunError(f"{path}: not an ONNX model, it has no outputs")
    return model


class _Runs:
    """The outputs of one input set: of the reference, the model, and the oracle where there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.expected: dict[str, np.ndarray] = {}
        self.actual: dict[str, np.ndarray] = {}
        self.truth: dict[str, np.ndarray] = {}


def _input_sets(inputs: Sequence[str | Path | Mapping[str, np.ndarray]], specs: Sequence[Any]) -> list[InputSet]:
    return [
        InputSet(f"given {index}", check_arrays(item, specs)) if isinstance(item, Mapping) else load_npz(item, specs)
        for index, item in enumerate(inputs, start=1)
    ]


def _reference_runner(reference: Reference, output_names: list[str], exposed: list[str], device: str) -> Runner:
    if callable(reference):
        return TorchRunner(reference, output_names)
    load_model(reference)
    return OnnxRunner(reference, device=device, expose=exposed)


def _oracle_runner(
    reference: Reference, output_names: list[str], exposed: list[str], result: ValidationResult
) -> Runner | None:
    try:
        if callable(reference):
            return torch_oracle(reference, output_names)
        return OnnxOracle(reference, exposed)
    except RunError as error:
        result.notes.append(f"no float64 oracle: {error}")
        return None


def _run_all(
    original: Runner, tested: Runner, wide: Runner | None, sets: list[InputSet], result: ValidationResult, say: Progress
) -> list[_Runs]:
    """Runs everything on each set; a set on which either side fails is reported and left out."""
    all_runs = []
    for inputs in sets:
        runs = _Runs(inputs.name)
        try:
            say(f"{inputs.name}: reference")
            runs.expected = original.run(inputs.arrays)
            say(f"{inputs.name}: model")
            runs.actual = tested.run(inputs.arrays)
        except RunError as error:
            result.failures.append(f"{inputs.name}: {error}")
            continue
        if wide is not None:
            say(f"{inputs.name}: float64")
            try:
                runs.truth = wide.run(inputs.arrays)
            except RunError as error:
                result.notes.append(f"no float64 oracle for {inputs.name}: {error}")
        all_runs.append(runs)
    return all_runs


def _compare_site(
    site: Site, runs: list[_Runs], result: ValidationResult, atol: float | None, rtol: float | None
) -> Comparison | None:
    if site.shared is None:
        result.notes.append(f"site {site.name}: its output {site.output!r} has no counterpart in the reference")
        return None
    return _compare(site.shared, runs, result, atol, rtol)


def _compare(
    name: str, runs: list[_Runs], result: ValidationResult, atol: float | None, rtol: float | None
) -> Comparison | None:
    """One value over all input sets; what makes it incomparable goes to the result's failures."""
    measurements = []
    for run in runs:
        problem = _incomparable(name, run)
        if problem:
            result.failures.append(f"{run.name}: {problem}")
            return None
        measurements.append(_measure(name, run))
    if not measurements:
        return None
    dtype = runs[0].actual[name].dtype
    return Comparison(name, dtype.name, tuple(measurements), _judge(measurements, dtype, atol, rtol))


def _incomparable(name: str, run: _Runs) -> str | None:
    if name not in run.expected:
        return f"the reference has no output {name!r}; it has {', '.join(run.expected)}"
    expected, actual = run.expected[name], run.actual[name]
    if expected.dtype != actual.dtype:
        return f"output {name!r} is {actual.dtype.name}, the reference's is {expected.dtype.name}"
    if expected.shape != actual.shape:
        return f"output {name!r} has shape {actual.shape}, the reference's has {expected.shape}"
    return None


def _measure(name: str, run: _Runs) -> Measurement:
    expected, actual, truth = run.expected[name], run.actual[name], run.truth.get(name)
    distance = difference(actual, expected)
    if truth is None or truth.shape != actual.shape:
        return Measurement(run.name, actual.shape, distance)
    return Measurement(run.name, actual.shape, distance, difference(actual, truth), difference(expected, truth))


def _judge(measurements: list[Measurement], dtype: np.dtype, atol: float | None, rtol: float | None) -> Verdict:
    distance = worst([m.distance for m in measurements])
    if not is_floating(dtype):
        return judge_equal(distance)
    errors = [m.error for m in measurements if m.error]
    reference_errors = [m.reference_error for m in measurements if m.reference_error]
    if len(errors) < len(measurements):
        return judge_closeness(distance, dtype, atol, rtol)
    return judge_against_oracle(worst(errors), worst(reference_errors), distance, dtype)
