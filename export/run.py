"""Models run in ONNX Runtime's CPU provider, plainly: no optimisations that would hide or move what is compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx


def run_model(
    model: onnx.ModelProto | str, feeds: Iterable[dict[str, np.ndarray]], *, optimize: bool = False
) -> Iterator[list[np.ndarray]]:
    """The outputs for each of the feeds. Raises RuntimeError, with the first line of what ONNX Runtime said."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        source = model if isinstance(model, str) else model.SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            yield session.run(None, feed)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise RuntimeError(str(error).strip().splitlines()[0]) from error
