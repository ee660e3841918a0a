"""A model repository for NVIDIA Triton Inference Server.

Layout and fields are those of Triton's model repository and model configuration documents; the configuration is the
text form of its ModelConfig message.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from flashonnx.runtime import get_library_path, get_plugin_path
from flashonnx.validation.core import is_engine, load_model
from flashonnx.validation.inputs import InputSpec, input_specs, is_batch

LIBRARIES = "flashonnx"  # folder beside the models' that holds the libraries they need

_TYPES = {
    "bfloat16": "TYPE_BF16",
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
}


@dataclass(frozen=True)
class Repository:
    """What was written, and how to serve it."""

    folder: Path
    models: tuple[str, ...]
    command: str


class Word(str):
    """An enumerator, which the text form has without quotes."""


def write_repository(
    model: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    engine: str | Path | None = None,
    max_batch_size: int = 8,
    mount: str | None = None,
) -> Repository:
    """Writes a repository that serves the model by ONNX Runtime, and by TensorRT if an engine is given.

    Args:
        model: ONNX file, fused.
        folder: where the repository goes; the folders of its models must not exist yet.
        name: of the model; the file's if None. The engine's gets "_tensorrt" appended.
        engine: TensorRT engine of the same model.
        max_batch_size: of Triton's dynamic batching, for models whose every input and output starts with a dynamic
            batch dimension; others get no batching.
        mount: path of `folder` as the server sees it; its absolute path if None.

    Raises:
        FileExistsError: there is such a model already.
        OSError: a file cannot be read or written.
        RunError: the model is no ONNX file.
        ValueError: `engine` does not look like one, or `name` is not that of a folder.
    """
    if engine is not None and not is_engine(engine):
        raise ValueError(f"{engine} is no engine by its name")
    root, seen_as = Path(folder), Path(mount) if mount else Path(folder).absolute()
    name = name or Path(model).stem
    if name in (".", "..", LIBRARIES) or Path(name).name != name:
        raise ValueError(f"{name!r} cannot be a model's name: it has to be that of a folder, other than {LIBRARIES}")
    proto = load_model(model)
    libraries = seen_as / LIBRARIES
    library = {"op_library_filename": [str(libraries / Path(get_library_path()).name)]}
    onnx_config = model_config(proto, name, "onnxruntime", max_batch_size, {"model_operations": library})
    models = {name: (onnx_config, {"model.onnx": Path(model), **_external_data(proto, Path(model))})}
    command = f"tritonserver --model-repository={seen_as}"
    sources = [Path(get_library_path())]
    if engine is not None:
        plan_name = f"{name}_tensorrt"
        config = model_config(proto, plan_name, "tensorrt", max_batch_size)
        models[plan_name] = (config, {"model.plan": Path(engine)})
        sources.append(Path(get_plugin_path()))
        command += f" --backend-config=tensorrt,plugins={libraries / sources[-1].name}"
    for model_name, (text, files) in models.items():
        _write_model(root / model_name, text, files)
    (root / LIBRARIES).mkdir(exist_ok=True)
    for source in sources:
        shutil.copy2(source, root / LIBRARIES / source.name)
    return Repository(root, tuple(models), command)


def model_config(
    model: onnx.ModelProto,
    name: str,
    backend: str,
    max_batch_size: int,
    more: Mapping[str, Any] | None = None,
) -> str:
    """The config.pbtxt of a model."""
    inputs = input_specs(model)
    outputs = input_specs(_with_outputs_as_inputs(model))
    batched = max_batch_size > 0 and all(_is_batched(spec) for spec in (*inputs, *outputs))
    fields: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch_size if batched else 0,
        "input": [_tensor(spec, batched) for spec in inputs],
        "output": [_tensor(spec, batched) for spec in outputs],
        **(more or {}),
    }
    if batched:
        fields["dynamic_batching"] = {"max_queue_delay_microseconds": 1000}
    fields["model_warmup"] = [_warmup(inputs, batched)]
    return _text(fields)


def _with_outputs_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = onnx.GraphProto(input=model.graph.output)
    return onnx.ModelProto(graph=graph)


def _is_batched(spec: InputSpec) -> bool:
    return len(spec.dims) > 0 and isinstance(spec.dims[0], str) and is_batch(spec.dims[0], 0)


def _tensor(spec: InputSpec, batched: bool) -> dict[str, Any]:
    dims = [dim if isinstance(dim, int) else -1 for dim in spec.dims[1 if batched else 0 :]]
    return {"name": spec.name, "data_type": Word(_TYPES[spec.dtype.name]), "dims": dims}


def _warmup(inputs: Sequence[InputSpec], batched: bool) -> dict[str, Any]:
    """One request before the model is said to be ready. Zeros, which are valid ids; lengths are as short as can be."""
    entries = []
    for spec in inputs:
        tensor = _tensor(spec, batched)
        dims = [max(dim, 1) for dim in tensor["dims"]]
        source = "zero_data" if np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_ else "random_data"
        entries.append({"key": spec.name, "value": {"data_type": tensor["data_type"], "dims": dims, source: True}})
    return {"name": "warmup", "batch_size": 1 if batched else 0, "inputs": entries}


def _external_data(model: onnx.ModelProto, path: Path) -> dict[str, Path]:
    """The files beside the model that hold its weights, by the names under which it looks for them."""
    names = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return {name: path.parent / name for name in sorted(names)}


def _write_model(folder: Path, config: str, files: Mapping[str, Path]) -> None:
    """Whole or not at all."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary, folder.name)
        (new / "1").mkdir(parents=True)
        for name, source in files.items():
            (new / "1" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / "1" / name)
        (new / "config.pbtxt").write_text(config, encoding="utf-8")
        new.rename(folder)


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    """Protobuf's text form: repeated fields are lists, messages are mappings."""
    lines = []
    for key, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{key} {{\n{_text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
