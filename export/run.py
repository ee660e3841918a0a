"""Models run plainly: no optimisations that would hide or move what is compared. Feeds may hold more than is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from flashonnx.fusion.contrib_reference import CONTRIB_OPS
from flashonnx.reference import FlashAttention


def run_model(
    model: onnx.ModelProto | str,
    feeds: Iterable[dict[str, np.ndarray]],
    *,
    optimize: bool = False,
    weights: Mapping[str, ir.TensorProtocol] | None = None,
) -> Iterator[list[np.ndarray]]:
    """The outputs for each of the feeds. Raises RuntimeError, with the first line of what ONNX Runtime said.

    weights: those that the model refers to without having them; all of them can_be_lent.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    lent = {name: ort.OrtValue.ortvalue_from_numpy(weight.numpy()) for name, weight in (weights or {}).items()}
    if lent:
        options.add_external_initializers(list(lent), list(lent.values()))
        options.add_session_config_entry("session.disable_prepacking", "1")  # another copy of every matrix
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        source = model if isinstance(model, str) else model.SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        for feed in feeds:
            yield session.run(None, {name: feed[name] for name in names})
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise RuntimeError(str(error).strip().splitlines()[0]) from error


def can_be_lent(weight: ir.TensorProtocol) -> bool:
    """Whether ONNX Runtime takes the weight as an array: NumPy has to know its type by itself."""
    return weight.dtype.numpy().isbuiltin == 1


def run_reference(model: onnx.ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """The same by ONNX's reference operators: slow, and the definition of what they mean."""
    try:
        evaluator = ReferenceEvaluator(model, new_ops=[FlashAttention, *CONTRIB_OPS])
        for feed in feeds:
            with np.errstate(all="ignore"):
                arrays = evaluator.run(None, {name: feed[name] for name in evaluator.input_names})
            yield [np.asarray(array) for array in arrays]
    except Exception as error:  # whatever NumPy raises
        raise RuntimeError(str(error).strip().splitlines()[0]) from error
