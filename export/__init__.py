"""The fusion pass: rewrites a model's attention, however it is spelled, to FlashAttention.

Imported as flashonnx.fusion. docs/fusion.md explains how it works; `fuse` and `explain` are where to start reading.
"""

from flashonnx.fusion.explain import Explanation, explain
from flashonnx.fusion.fuse import FuseResult, NotAllFused, fuse
from flashonnx.fusion.model_io import ModelError
from flashonnx.fusion.report import FuseReport, Site

__all__ = ["Explanation", "FuseReport", "FuseResult", "ModelError", "NotAllFused", "Site", "explain", "fuse"]
