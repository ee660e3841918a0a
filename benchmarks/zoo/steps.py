"""What is done with one file of the zoo. Each step runs in a process of its own and returns plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from benchmarks.zoo.peers import PEERS, attention_nodes

import flashonnx.fusion
from flashonnx.fusion.run import run_model
from flashonnx.fusion.standard import as_the_standard_says
from tests.zoo.exporters import EXPORTED_BATCH
from tests.zoo.exporting import Variant, exported
from tests.zoo.feeding import Feeds, paddings, relative_difference

OTHER_BATCH = 3


def export(variant: Variant) -> None:
    """Writes the file. Raises ExportError."""
    torch.set_num_threads(1)
    exported(variant)


def compare(variant: Variant, optimize: bool) -> dict[str, Any]:
    """Fuses the file and runs it before and after, with the library and without.

    optimize: let ONNX Runtime optimize the fused model as it does by default. Returns the sites, the sizes that the
    models ran at, and the relative difference for each kind of padding, fused and portable; or, if the original does
    not run, why. Raises what ONNX Runtime does if the fused model does not run.
    """
    result = flashonnx.fusion.fuse(variant.path)
    sites = [
        {"form": site.form, "mask": site.mask, "fused": site.fused, "reason": site.reason}
        for site in result.report.sites
    ]
    try:
        sizes, given, expected = reference(variant)
    except RuntimeError as error:
        return {"sites": sites, "original_fails": str(error)}
    fused = as_the_standard_says(result.model)
    return {
        "sites": sites,
        "sizes": sizes,
        "difference": _differences(expected, given, _with_library(fused.SerializeToString(), given, optimize)),
        "portable": _differences(expected, given, run_model(fused, given.values())),
    }


def run_original(variant: Variant) -> None:
    """The original as ONNX Runtime optimizes it by default, to see whether it runs at all."""
    feeds = paddings(variant.feeds(OTHER_BATCH, variant.spec.lengths[1]))
    for _ in run_model(str(variant.path), feeds.values(), optimize=True):
        pass


def compare_peer(variant: Variant, peer: str) -> dict[str, Any]:
    """What the peer fuses, and whether its model's outputs stay; entries of padding only are not asked of it.

    Returns the attention operators that it made, and the relative difference for each kind of padding or the reason
    why there is none.
    """
    before = onnx.load(variant.path)
    after = PEERS[peer](variant.path, variant.name)
    found = attention_nodes(after) - attention_nodes(before)
    if found <= 0:
        return {"fused": 0}
    _, given, expected = reference(variant)
    given.pop("dead", None)
    try:
        runs = run_model(as_the_standard_says(after), given.values(), optimize=True)
        return {"fused": found, "difference": _differences(expected, given, runs)}
    except (RuntimeError, ValueError) as error:
        return {"fused": found, "reason": str(error)}


def reference(variant: Variant) -> tuple[str, dict[str, Feeds], dict[str, list[np.ndarray]]]:
    """Sizes, and for each kind of padding inputs of these and the original's outputs by the standard's definitions.

    They are not the sizes that the file was exported at, unless it cannot run at others: exporters write the example's
    length, or even its batch, into some files. Raises RuntimeError if it does not run at all.
    """
    model = as_the_standard_says(onnx.load(variant.path))
    exported_at, other = variant.spec.lengths
    for batch, length, sizes in (
        (OTHER_BATCH, other, "other"),
        (OTHER_BATCH, exported_at, "exported length"),
        (EXPORTED_BATCH, exported_at, "exported"),
    ):
        given = paddings(variant.feeds(batch, length))
        try:
            return sizes, given, dict(zip(given, run_model(model, given.values()), strict=True))
        except RuntimeError as error:
            reason = error
    raise reason


def _with_library(model: bytes, given: dict[str, Feeds], optimize: bool) -> Iterator[list[np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = flashonnx.session(model, ["CPUExecutionProvider"], sess_options=options)
    names = [value.name for value in session.get_inputs()]
    for feed in given.values():
        yield session.run(None, {name: feed[name] for name in names})


def _differences(
    expected: dict[str, list[np.ndarray]], given: dict[str, Feeds], runs: Iterator[list[np.ndarray]]
) -> dict[str, float]:
    """By kind of padding."""
    return {kind: relative_difference(expected[kind], found) for kind, found in zip(given, runs, strict=True)}
