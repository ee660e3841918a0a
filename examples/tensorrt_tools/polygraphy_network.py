"""A network with FlashAttention layers for Polygraphy, whose own --plugins opens a library without registering it.

MODEL=model.trt.onnx polygraphy run polygraphy_network.py --model-type trt-network-script --trt
"""

from __future__ import annotations

import os
from typing import Any

from polygraphy.backend.trt import NetworkFromOnnxPath

from flashonnx.engine.tensorrt import import_tensorrt, load_plugin


def load_network() -> Any:
    """Called by Polygraphy: the network of the file that the environment variable MODEL names."""
    load_plugin(import_tensorrt())
    return NetworkFromOnnxPath(os.environ["MODEL"], strongly_typed=True)()
