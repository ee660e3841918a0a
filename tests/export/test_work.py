"""How much the pass does for a deep model, counted, not timed: its work grows with the nodes and no faster."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from benchmarks.fusion.decoder_stack import NODES_PER_BLOCK, DecoderStack

from flashonnx.fusion import fuse
from flashonnx.fusion.evaluate import Operators


def _stack(blocks: int, folder: Path) -> Path:
    path = folder / f"{blocks}.onnx"
    DecoderStack(256, path).write(blocks * NODES_PER_BLOCK, gibibytes=blocks * 2e-3)
    return path


def _calls_of_fuse(path: Path) -> int:
    """Python calls, a generator's every step among them: a pass over all nodes counts as many."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        report = fuse(path, verify=False).report
    finally:
        sys.setprofile(None)
    assert report.fused == report.total > 0
    return calls


def test_work_grows_with_the_number_of_nodes_and_no_faster(tmp_path: Path) -> None:
    _calls_of_fuse(_stack(1, tmp_path))  # what is imported or cached on first use
    few, some, many = (_calls_of_fuse(_stack(blocks, tmp_path)) for blocks in (2, 6, 14))
    # One pass over all nodes for each site would make it more by two in a hundred.
    assert many - some <= 1.01 * 2 * (some - few)


def test_layers_share_what_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, calls = Operators.evaluate, []
    monkeypatch.setattr(Operators, "evaluate", lambda *arguments: calls.append(1) or evaluate(*arguments))
    counts = []
    for blocks in (2, 6):
        calls.clear()
        fuse(_stack(blocks, tmp_path), verify=False)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
