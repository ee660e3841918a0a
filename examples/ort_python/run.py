#!/usr/bin/env python3
"""Runs a fused model in ONNX Runtime: run.py fused.onnx [NAME=SIZE ...], sizes for symbolic dimensions (else 2).

The one line that matters is register_custom_ops_library; flashonnx.session(path) is short for it.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort

import flashonnx

DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(bool)": np.bool_}


def example_input(value: ort.NodeArg, sizes: dict[str, int]) -> np.ndarray:
    """Ones of the input's type, its symbolic dimensions taken from `sizes`."""
    if value.type not in DTYPES:
        raise SystemExit(f"input {value.name} is {value.type}; this example makes {', '.join(DTYPES)}")
    return np.ones([dim if isinstance(dim, int) else sizes.get(dim, 2) for dim in value.shape], DTYPES[value.type])


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    path, *pairs = sys.argv[1:]
    sizes = {name: int(size) for name, size in (pair.split("=") for pair in pairs)}

    options = ort.SessionOptions()
    options.register_custom_ops_library(flashonnx.get_library_path())
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    feeds = {value.name: example_input(value, sizes) for value in session.get_inputs()}
    for value, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        print(f"{value.name}: {array.dtype} {list(array.shape)}, mean {array.mean():.6f}")


if __name__ == "__main__":
    main()
