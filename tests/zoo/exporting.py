"""The zoo as ONNX files, exported once and kept under build/zoo."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.zoo.language import LANGUAGE
from tests.zoo.modules import MODULES
from tests.zoo.spec import Positional, Spec
from tests.zoo.vision import AUDIO, VISION

SPECS: dict[str, Spec] = {spec.name: spec for spec in (*LANGUAGE, *VISION, *AUDIO, *MODULES)}
EXPORTERS = ("dynamo18", "dynamo23", "legacy17")

_FOLDER = Path(__file__).parents[2] / "build" / "zoo"


class ExportError(Exception):
    """PyTorch's exporter does not take this model."""


def exported(name: str, implementation: str, exporter: str) -> Path:
    """The file, made if it is not there. Raises ExportError, from a kept note if it failed before."""
    path = _FOLDER / _version() / f"{name}-{implementation}-{exporter}.onnx"
    note = path.with_suffix(".failed")
    if note.exists():
        raise ExportError(note.read_text())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            _export(SPECS[name], implementation, exporter, temporary)
        except Exception as error:  # the exporters raise all kinds
            note.write_text(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
            raise ExportError(note.read_text()) from error
        finally:
            if temporary.exists() and not note.exists():
                temporary.rename(path)
            temporary.unlink(missing_ok=True)
    return path


def _version() -> str:
    """Changes with the exporter, the model library and the zoo itself."""
    sources = b"".join(
        path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")) if path.name != Path(__file__).name
    )
    return f"torch{torch.__version__}-transformers{transformers.__version__}-{hashlib.sha256(sources).hexdigest()[:8]}"


def _export(spec: Spec, implementation: str, exporter: str, path: Path) -> None:
    module = spec.build(implementation)
    inputs = spec.inputs(2, spec.lengths[0])
    dims = {name: spec.dynamic(name) for name in inputs}
    arguments = tuple(inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy17":
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=list(inputs),
                dynamic_axes=dims,
            )
        else:
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=True,
                opset_version=int(exporter.removeprefix("dynamo")),
                input_names=list(inputs),
                dynamic_shapes=(tuple(dims.values()),) if _takes_varargs(module) else tuple(dims.values()),
                external_data=False,
                verbose=False,
            )


def _takes_varargs(module: torch.nn.Module) -> bool:
    return isinstance(module, Positional)


def feeds(spec: Spec, batch: int, length: int) -> dict[str, np.ndarray]:
    """The spec's own inputs as arrays."""
    return {name: tensor.numpy() for name, tensor in spec.inputs(batch, length).items()}


def variants() -> list[tuple[str, str, str]]:
    """(name, implementation, exporter) of the whole zoo."""
    return [
        (spec.name, implementation, exporter)
        for spec in SPECS.values()
        for implementation in spec.implementations
        for exporter in EXPORTERS
    ]
