#!/usr/bin/env python3
"""Runs a fused model in ONNX Runtime's TensorRT execution provider: ort_tensorrt.py fused.onnx inputs.npz outputs.npz

The op's library is registered as well, because the model does not load otherwise; the node goes into the engine.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort

import flashonnx

PROVIDER = "TensorrtExecutionProvider"


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    model, inputs, outputs = sys.argv[1:]
    if PROVIDER not in ort.get_available_providers():
        raise SystemExit(f"this onnxruntime has no {PROVIDER}: pip install onnxruntime-gpu, and TensorRT's libraries")
    options = {"trt_extra_plugin_lib_paths": flashonnx.get_plugin_path()}
    session = flashonnx.session(model, [(PROVIDER, options), "CPUExecutionProvider"])
    with np.load(inputs) as arrays:
        results = session.run(None, dict(arrays))
    np.savez(outputs, **{value.name: array for value, array in zip(session.get_outputs(), results, strict=True)})


if __name__ == "__main__":
    main()
