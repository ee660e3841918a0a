"""What the zoo's rows add up to, and the page that they make."""

from __future__ import annotations

import math

import pytest
from benchmarks.zoo import judge, table

FUSED = {"form": "softmax, rank 3", "mask": "causal", "fused": True, "reason": ""}
LEFT = {"form": "", "mask": "", "fused": False, "reason": "Tanh | at node_7 is not understood"}


def row(model="bert", sites=(FUSED,), difference=1e-6, portable=1e-6, dtype="float32", **more):
    return {
        "model": model,
        "implementation": "sdpa",
        "exporter": "dynamo18",
        "dtype": dtype,
        "sites": list(sites),
        "difference": {"none": difference, "left": 0.0},
        "portable": {"none": portable, "left": 0.0},
        **more,
    }


def peers(fused, difference):
    return {"peers": {"onnxscript": {"fused": fused, "difference": {"none": difference}}}}


@pytest.mark.parametrize("kind", ["difference", "portable"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float16", 1e-2)])
def test_a_difference_over_the_limit_is_wrong(kind, dtype, limit):
    assert judge.problem(row(**{kind: limit}, dtype=dtype)) == ""
    assert kind in judge.problem(row(**{kind: 1.1 * limit}, dtype=dtype))
    assert "nan" in judge.problem(row(**{kind: math.nan}, dtype=dtype))


def test_a_file_that_fails_is_wrong():
    assert judge.problem({**row(), "failed": "killed by SIGSEGV"}) == "killed by SIGSEGV"


def test_a_file_that_does_not_run_as_exported_is_not_wrong():
    refused = {**row(difference=1.0), "original_fails": "no kernel"}
    total = judge.summary([refused])
    assert (total.files, total.broken, total.sites, total.wrong) == (0, 1, 0, [])
    assert judge.remark(refused) == "the original does not run: no kernel"


def test_worst_of_differences():
    assert judge.worst({"none": 1e-6, "left": 2e-6}) == 2e-6
    assert math.isnan(judge.worst({"none": math.nan, "left": 2e-6}))


def test_sums():
    rows = [
        row(sites=[FUSED, LEFT], **peers(2, 1e-6)),
        row(sites=[FUSED], **peers(1, 1.0)),
        row(model="longformer", sites=[LEFT]),  # nothing that the op could express
        row(difference=1.0),
        {**row(), "not_exported": "ValueError: no"},
    ]
    total = judge.summary(rows)
    assert (total.files, total.not_exported) == (4, 1)
    assert (total.sites, total.fused, total.fusable, total.fusable_fused) == (5, 3, 4, 3)
    assert len(total.wrong) == 1
    counts = (total.peers_given, total.peers_fused, total.peers_right)
    assert [count["onnxscript"] for count in counts] == [3, 3, 2]
    assert total.peers_ahead == ["bert-sdpa-dynamo18-float32: onnxscript 2, flashonnx 1"]


def test_a_peer_without_outputs_is_not_right():
    crashed = row(peers={"ort": {"fused": 2, "reason": "does not load"}})
    assert not judge.is_peer_right(crashed, "ort")


def test_remarks():
    assert judge.remark(row()) == ""
    assert judge.remark(row(sites=[LEFT, LEFT])) == f"2 left alone: {LEFT['reason']}"
    assert judge.remark(row(difference=1.0)).startswith("WRONG")
    assert "does not export" in judge.remark({**row(), "not_exported": "ValueError: no"})


def test_page_lists_every_file_once_and_every_reason():
    rows = [
        row(sites=[FUSED, LEFT], **peers(2, 1.0)),
        row(model="gpt2", sizes="exported length"),
        {**row(model="t5"), "not_exported": "TypeError: no"},
    ]
    page = table.page({"versions": {"torch": "2.15"}, "missing": 0, "rows": rows})
    lines = page.splitlines()
    (bert,) = [line for line in lines if line.startswith("| bert | sdpa dynamo18 float32")]
    assert "| 1/2 | softmax, rank 3 | causal | 1e-06 | 1e-06 | 2 ✗ |" in bert
    assert sum(line.startswith("| gpt2 ¹ |") for line in lines) == 1
    assert "torch 2.15" in page
    assert "Tanh \\| at node_7" in page
    assert "| t5 | sdpa-dynamo18-float32 | TypeError: no |" in page


def test_page_says_that_it_is_incomplete():
    complete, outdated = row(), row(outdated=True)
    result = {"versions": {}, "rows": [complete, outdated]}
    assert "not come to" not in table.page(result | {"missing": 0})
    page = table.page(result | {"missing": 3})
    assert "3 files of the zoo were not come to yet. 1 files were compared with an earlier state" in page
