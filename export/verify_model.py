"""Runs the whole model before and after, once the sites have been compared one by one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.patterns import patterns
from flashonnx.fusion.run import as_the_standard_says, run_model
from flashonnx.fusion.verify import draw

# Relative to an output's largest value: layers amplify the last bits in which two right sums differ.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
_TOLERANCE_BELOW = 5e-2


def verify_model(original: onnx.ModelProto, fused: onnx.ModelProto, inputs: list[ir.Value], facts: Facts) -> str:
    """How it went, in words. Raises Refusal if an output differs or the fused model does not run."""
    if _count(fused, "GroupQueryAttention") < _count(original, "GroupQueryAttention"):
        return "not compared: GroupQueryAttention leaves rows past an entry's length open"
    trace = facts.traces[0]
    unknown = [value.name for value in inputs if value not in trace.types]
    if unknown:
        return f"not compared: input {unknown[0]} has no type or no shape"
    feeds = []
    for pattern in patterns(inputs, trace):
        generator = np.random.default_rng(0)
        feeds.append({str(value.name): draw(value, trace.with_feeds(pattern), generator) for value in inputs})
    try:
        before = list(run_model(as_the_standard_says(original), feeds))
    except RuntimeError as error:
        return f"not compared: the original does not run at {dict(trace.sizes)}: {error}"
    try:
        after = list(run_model(as_the_standard_says(fused), feeds))
    except RuntimeError as error:
        raise Refusal(f"the fused model does not run: {error}") from error
    names = [output.name for output in original.graph.output]
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        for name, expected, found in zip(names, old, new, strict=True):
            worst = max(worst, _relative(name, expected, found))
    return f"equal within {worst:.1e} of each output's largest value, at {dict(trace.sizes)} with {len(feeds)} inputs"


def _count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph.node)


def _relative(name: str, expected: np.ndarray, found: np.ndarray) -> float:
    """Where the original says NaN, from a row without any key, the fused model may say something better."""
    if expected.shape != found.shape:
        raise Refusal(f"the fused model's {name} has shape {found.shape}, the original's {expected.shape}")
    tolerance = _TOLERANCE.get(str(expected.dtype), _TOLERANCE_BELOW)
    old, new = expected.astype(np.float64), found.astype(np.float64)
    known = np.isfinite(old)
    scale = max(float(np.abs(old[known]).max(initial=0.0)), 1e-6)
    worst = float(np.abs(new[known] - old[known]).max(initial=0.0)) / scale
    if not worst <= tolerance:
        raise Refusal(f"the fused model's {name} differs by {worst:.1e} of its largest value")
    return worst
