"""One file of the zoo through its steps: what is kept, what is done again, and what a crash leaves in the row."""

from __future__ import annotations

import pytest
from benchmarks.zoo import isolated, run

from tests.zoo import exporting
from tests.zoo.exporting import Variant

BERT = Variant("bert", "sdpa", "dynamo18")
COMPARED = {"sites": [], "difference": {"none": 0.0}, "portable": {"none": 0.0}}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Answers by step, in place of the steps; calls are noted."""
    answers = {"compare": [COMPARED], "compare_peer": [{"fused": 0}] * 3, "run_original": [None], "calls": []}
    monkeypatch.setattr(exporting, "FOLDER", tmp_path)

    def export(variant):
        if answers.get("crash"):
            raise isolated.Failed(answers["crash"])
        variant.path.write_bytes(b"")

    def call(step, variant, *arguments, **limits):
        answers["calls"].append(step.__name__)
        if step.__name__ == "export":
            return export(variant)
        answer = answers[step.__name__].pop(0)
        if isinstance(answer, str):
            raise isolated.Failed(answer)
        return answer

    monkeypatch.setattr(isolated, "call", call)
    return answers


def test_a_second_run_does_nothing_again(steps):
    first = run.row(BERT)
    assert steps["calls"] == ["export", "compare", *["compare_peer"] * 3]
    assert run.row(BERT) == first
    assert len(steps["calls"]) == 5


def test_another_version_of_the_pass_compares_again(steps, monkeypatch):
    run.row(BERT, with_peers=False)
    monkeypatch.setattr(run, "_own_version", lambda: "newer")
    steps["compare"] = [COMPARED | {"sites": ["one"]}]
    assert run.kept_row(BERT)["outdated"]
    assert run.row(BERT, with_peers=False)["sites"] == ["one"]
    assert steps["calls"] == ["export", "compare", "compare"]


def test_nothing_is_kept_of_a_file_that_no_run_came_to(steps):
    assert run.kept_row(BERT) is None


def test_an_exporter_that_crashes_is_noted_once(steps):
    steps["crash"] = "killed by SIGSEGV"
    assert run.row(BERT)["not_exported"] == "killed by SIGSEGV"
    assert run.row(BERT)["not_exported"] == run.kept_row(BERT)["not_exported"] == "killed by SIGSEGV"
    assert steps["calls"] == ["export"]


def test_a_crash_of_the_fused_model_alone_is_a_failure(steps):
    steps["compare"] = ["killed by SIGSEGV"]
    assert run.row(BERT, with_peers=False)["failed"] == "killed by SIGSEGV"


def test_a_crash_of_the_original_too_is_noted_and_compared_without_optimizing(steps):
    steps["compare"] = ["killed by SIGSEGV", COMPARED]
    steps["run_original"] = ["killed by SIGSEGV"]
    row = run.row(BERT, with_peers=False)
    assert "failed" not in row
    assert "SIGSEGV" in row["note"]


def test_a_peer_that_crashes_fuses_nothing(steps):
    steps["compare_peer"] = ["killed by SIGSEGV", {"fused": 0}, {"fused": 0}]
    assert run.row(BERT)["peers"]["onnxscript"] == {"fused": 0, "reason": "killed by SIGSEGV"}
