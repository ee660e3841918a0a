"""Runs the whole model before and after, once the sites have been compared one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.embedded import without_weights
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.patterns import patterns
from flashonnx.fusion.run import as_the_standard_says, can_be_lent, run_model
from flashonnx.fusion.verify import draw

# Relative to an output's largest value: layers amplify the last bits in which two right sums differ.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
_TOLERANCE_BELOW = 5e-2


def verify_model(original: ir.Model, fused: ir.Model, facts: Facts) -> str:
    """How it went, in words. Raises Refusal if an output differs or the fused model does not run."""
    if _count(fused, "GroupQueryAttention") < _count(original, "GroupQueryAttention"):
        return "not compared: GroupQueryAttention leaves rows past an entry's length open"
    trace, inputs = facts.traces[0], list(fused.graph.inputs)
    unknown = [value.name for value in inputs if value not in trace.types]
    if unknown:
        return f"not compared: input {unknown[0]} has no type or no shape"
    drawn = list(patterns(inputs, trace))
    feeds = []
    for pattern in drawn if any(drawn) else drawn[:1]:  # without masks all are one
        generator = np.random.default_rng(0)
        feeds.append({str(value.name): draw(value, trace.with_feeds(pattern), generator) for value in inputs})
    try:
        before = _outputs(original, feeds)
    except RuntimeError as error:
        return f"not compared: the original does not run at {dict(trace.sizes)}: {error}"
    try:
        after = _outputs(fused, feeds)
    except RuntimeError as error:
        raise Refusal(f"the fused model does not run: {error}") from error
    names = [str(output.name) for output in original.graph.outputs]
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        for name, expected, found in zip(names, old, new, strict=True):
            worst = max(worst, _relative(name, expected, found))
    return f"equal within {worst:.1e} of each output's largest value, at {dict(trace.sizes)} with {len(feeds)} inputs"


def _outputs(model: ir.Model, feeds: Sequence[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """What the model makes of each of the feeds; the session's copy of the weights is gone when it returns."""
    proto, weights = without_weights(model, can_be_lent)
    return list(run_model(as_the_standard_says(proto), feeds, weights=weights))


def _count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


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
