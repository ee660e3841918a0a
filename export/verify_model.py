"""Runs the whole model before and after, once the sites have been compared one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.embedded import without_weights
from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.patterns import patterns
from flashonnx.fusion.run import can_be_lent, run_model
from flashonnx.fusion.sizes import TRACES
from flashonnx.fusion.standard import as_the_standard_says
from flashonnx.fusion.verify import draw

# Relative to an output's largest value: layers amplify the last bits in which two right sums differ.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
_TOLERANCE_BELOW = 5e-2


def verify_model(original: ir.Model, fused: ir.Model, facts: Facts, mask_inputs: Collection[ir.Value]) -> str:
    """How it went, in words. Raises Refusal if an output differs or the fused model does not run.

    mask_inputs: the inputs that get all patterns of padding; the others are random.
    """
    if _count(fused, "GroupQueryAttention") < _count(original, "GroupQueryAttention"):
        return "not compared: GroupQueryAttention leaves rows past an entry's length open"
    unknown = [value.name for value in fused.graph.inputs if value not in facts.traces[0].types]
    if unknown:
        return f"not compared: input {unknown[0]} has no type or no shape"
    said = [_verify_at(trace, original, fused, mask_inputs) for trace in (facts.traces[0], *facts.traces[TRACES:])]
    return "; ".join(said)


def _verify_at(trace: Trace, original: ir.Model, fused: ir.Model, mask_inputs: Collection[ir.Value]) -> str:
    """The same at one assignment of sizes."""
    feeds = _feeds(list(fused.graph.inputs), mask_inputs, trace)
    try:
        before = _outputs(original, feeds)
    except RuntimeError as error:
        return f"not compared: the original does not run at {dict(trace.sizes)}: {error}"
    try:
        after = _outputs(fused, feeds)
    except RuntimeError as error:
        raise Refusal(f"the fused model does not run at {dict(trace.sizes)}: {error}") from error
    names = [str(output.name) for output in original.graph.outputs]
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        for name, expected, found in zip(names, old, new, strict=True):
            worst = max(worst, _relative(name, expected, found))
    return f"equal within {worst:.1e} of each output's largest value, at {dict(trace.sizes)} with {len(feeds)} inputs"


def _feeds(inputs: list[ir.Value], mask_inputs: Collection[ir.Value], trace: Trace) -> list[dict[str, np.ndarray]]:
    """One for each pattern of the masks among the inputs; all are one where there are none."""
    drawn = list(patterns([value for value in inputs if value in mask_inputs], trace))
    feeds = []
    for pattern in drawn if any(drawn) else drawn[:1]:
        generator = np.random.default_rng(0)
        feeds.append({str(value.name): draw(value, trace.with_feeds(pattern), generator) for value in inputs})
    return feeds


def _outputs(model: ir.Model, feeds: Sequence[dict[str, np.ndarray]]) -> list[list[Any]]:
    """What the model makes of each of the feeds; the session's copy of the weights is gone when it returns."""
    proto, weights = without_weights(model, can_be_lent)
    return list(run_model(as_the_standard_says(proto), feeds, weights=weights))


def _count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def _relative(name: str, expected: Any, found: Any) -> float:
    """The largest difference of an output, an array or a sequence of them, over its largest value; 0 for strings.

    Where the original says NaN, from a row without any key, the fused model may say something better.
    """
    if isinstance(expected, list):
        if len(expected) != len(found):
            raise Refusal(f"the fused model's {name} has {len(found)} entries, the original's {len(expected)}")
        return max((_relative(name, *pair) for pair in zip(expected, found, strict=True)), default=0.0)
    if expected.shape != found.shape:
        raise Refusal(f"the fused model's {name} has shape {found.shape}, the original's {expected.shape}")
    if expected.dtype == object:
        if not np.array_equal(expected, found):
            raise Refusal(f"the fused model's {name} is not the original's")
        return 0.0
    tolerance = _TOLERANCE.get(str(expected.dtype), _TOLERANCE_BELOW)
    old, new = expected.astype(np.float64), found.astype(np.float64)
    known = np.isfinite(old)
    scale = max(float(np.abs(old[known]).max(initial=0.0)), 1e-6)
    worst = float(np.abs(new[known] - old[known]).max(initial=0.0)) / scale
    if not worst <= tolerance:
        raise Refusal(f"the fused model's {name} differs by {worst:.1e} of its largest value")
    return worst
