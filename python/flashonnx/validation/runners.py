"""What can be run on named arrays: an ONNX model in ONNX Runtime, and a PyTorch callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime

from flashonnx.arrays import from_ort, from_torch, to_ort, to_torch
from flashonnx.runtime import session
from flashonnx.validation.inputs import InputError

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class RunError(RuntimeError):
    """A model did not load or did not run; the message says which and what its runtime said."""


class Runner(Protocol):
    """Computes a model's outputs."""

    label: str

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named outputs, in the model's order.

        Raises:
            RunError: the model rejected the inputs or failed.
        """
        ...


class OnnxRunner:
    """An ONNX file in ONNX Runtime, with the flashonnx library registered and, if asked, inner values as outputs."""

    def __init__(self, path: str | Path, *, device: str = "cpu", expose: Iterable[str] = ()) -> None:
        """Raises InputError for a device that is not in PROVIDERS, RunError if the model does not load."""
        if device not in PROVIDERS:
            raise InputError(f"device {device!r} is not {' or '.join(map(repr, PROVIDERS))}")
        self.label = f"{Path(path).name} (ONNX Runtime {onnxruntime.__version__}, {device})"
        providers = PROVIDERS[device]
        if providers[0] not in onnxruntime.get_available_providers():
            raise RunError(f"this ONNX Runtime has no {providers[0]}; it has {_available()}")
        try:
            model = onnx.load(path, load_external_data=False)
            _expose(model.graph, expose)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            # The bytes alone do not say where the file's external data lie.
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(Path(path).resolve().parent)
            )
            self._session = session(model.SerializeToString(), providers, sess_options=options)
        except Exception as error:  # protobuf, ONNX Runtime and the file system each raise their own kinds
            raise RunError(f"{path}: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {name: to_ort(array) for name, array in inputs.items()}
        try:
            values = self._session.run_with_ort_values(self._outputs, feeds)
        except Exception as error:
            raise RunError(f"{self.label}: {error}") from error
        return dict(zip(self._outputs, map(from_ort, values), strict=True))


class TorchRunner:
    """A PyTorch module or function, called with tensors and without gradients.

    Inputs go by name if every one of them is a parameter of the callable, else by position. The result may be a
    tensor, a sequence or a mapping of tensors (such as a transformers ModelOutput); None entries are skipped. Outputs
    take `output_names` by position, unless the result is a mapping whose keys include them all.
    """

    def __init__(self, function: Callable[..., Any], output_names: Sequence[str], *, widen: bool = False) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        self.label = f"{name} (PyTorch{', float64' if widen else ''})"
        self._function = function
        self._names = list(output_names)
        self._widen = widen

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        tensors = {name: to_torch(array) for name, array in inputs.items()}
        if self._widen:
            tensors = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
        try:
            with torch.no_grad():
                if _takes(self._function, tensors):
                    result = self._function(**tensors)
                else:
                    result = self._function(*tensors.values())
        except Exception as error:
            raise RunError(f"{self.label}: {error}") from error
        return {name: from_torch(tensor) for name, tensor in self._named(result).items()}

    def _named(self, result: Any) -> dict[str, Any]:
        if isinstance(result, Mapping) and set(self._names) <= set(result):
            return {name: result[name] for name in self._names}
        tensors = _flatten(result)
        if len(tensors) < len(self._names):
            raise RunError(f"{self.label}: returned {len(tensors)} tensors; the file has {len(self._names)} outputs")
        return dict(zip(self._names, tensors, strict=False))


def _flatten(result: Any) -> list[Any]:
    if result is None:
        return []
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [tensor for item in result for tensor in _flatten(item)]
    return [result]


def _takes(function: Callable[..., Any], names: Iterable[str]) -> bool:
    parameters = inspect.signature(getattr(function, "forward", function)).parameters
    return all(name in parameters for name in names)


def _expose(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Makes inner values outputs; ONNX Runtime finds their types itself."""
    present = {output.name for output in graph.output}
    for name in names:
        if name not in present:
            graph.output.append(onnx.ValueInfoProto(name=name))
            present.add(name)


def _available() -> str:
    return ", ".join(onnxruntime.get_available_providers())
