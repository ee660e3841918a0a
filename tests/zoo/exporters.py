"""PyTorch's exporters, called as the zoo calls them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from tests.zoo.spec import Inputs, Positional, Spec

EXPORTERS = ("dynamo18", "dynamo23", "legacy17")
EXPORTED_BATCH = 2
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def inputs(spec: Spec, batch: int, length: int, dtype: str) -> Inputs:
    """The spec's own, with floating-point inputs in dtype."""
    tensors = spec.inputs(batch, length)
    return {name: value.to(DTYPES[dtype]) if value.is_floating_point() else value for name, value in tensors.items()}


def export(spec: Spec, implementation: str, exporter: str, dtype: str, path: Path) -> None:
    """Writes the model, its example of EXPORTED_BATCH and the first length. Raises whatever the exporter does."""
    module = spec.build(implementation).to(DTYPES[dtype])
    examples = inputs(spec, EXPORTED_BATCH, spec.lengths[0], dtype)
    dims = {name: spec.dynamic(name) for name in examples}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy17":
            torch.onnx.export(
                module,
                tuple(examples.values()),
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=list(examples),
                dynamic_axes=dims,
            )
        else:
            takes_varargs = isinstance(module, Positional)
            torch.onnx.export(
                module,
                tuple(examples.values()),
                str(path),
                dynamo=True,
                opset_version=int(exporter.removeprefix("dynamo")),
                input_names=list(examples),
                dynamic_shapes=(tuple(dims.values()),) if takes_varargs else tuple(dims.values()),
                external_data=False,
                verbose=False,
            )
