"""docs/zoo.md: what a run over the zoo found, for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks.zoo import judge
from benchmarks.zoo.judge import Summary
from benchmarks.zoo.run import Row

from tests.zoo.exporting import SPECS

_PEER_NAMES = {
    "onnxscript": "onnxscript's `optimize_for_ort`",
    "ort": "ONNX Runtime's optimizer, `model_type` of the family",
    "ort_default": "ONNX Runtime's optimizer, default `model_type`",
}
_PEER_COLUMNS = {"onnxscript": "onnxscript", "ort": "ORT", "ort_default": "ORT default"}
_MARKS = {
    "exported length": ("¹", "the exporter wrote the example's length into the file, which was run at that length"),
    "exported": ("²", "the exporter wrote the example's batch into the file, which was run at the exported sizes"),
    "note": ("³", "ONNX Runtime crashes while it optimizes the original: both were run without that"),
}
_INTRODUCTION = """\
# The zoo

Small models with random weights, as PyTorch's exporters write them, fused and compared. This page is written by
`make zoo`, which runs `python -m benchmarks.zoo`; [`tests/zoo`](../tests/zoo) says what the models are. What it takes
minutes to hours to find out is kept under `build/zoo`.

Every file is exported with dynamic shapes at batch 2 and run at batch 3 and another length, with padding on the right,
on the left, on neither side, and with one entry that is padding only. A difference is the largest of |fused - original|
over the largest |original|, of all outputs and paddings; equal means at most 1e-4 in float32 and 1e-2 in float16. Where
the original says NaN, nothing is compared. Both sides run in ONNX Runtime on the CPU, the original without its
optimizations and with `Attention` spelled out as the standard defines it, in float32 also where the file is in float16;
the fused file once with the library and once, as a portable file, without.
"""


def headline(summary: Summary) -> str:
    """One line."""
    return (
        f"{summary.files} files ({summary.not_exported} more do not export, {summary.broken} do not run as exported), "
        f"{len(summary.wrong)} wrong; "
        f"{summary.fused} of {summary.sites} sites fused, "
        f"{_percent(summary.fusable_fused, summary.fusable)} of those that the op can express"
    )


def page(result: dict[str, Any]) -> str:
    """The document, from the run's JSON."""
    rows: list[Row] = result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    running = [row for row in rows if not row.keys() & {"not_exported", "original_fails"}]
    sections = [
        _INTRODUCTION,
        f"Versions: {versions}.\n",
        _incomplete(rows, result["missing"]),
        _summary(judge.summary(rows)),
        _left_alone(running),
        _listed(rows, "not_exported", "Does not export", "PyTorch says"),
        _listed(rows, "original_fails", "Does not run as exported", "ONNX Runtime says"),
        _files(running),
    ]
    return "\n".join(filter(None, sections))


def _incomplete(rows: list[Row], missing: int) -> str:
    """What a reader must know if the page was written before a run had come to its end."""
    notes = []
    if missing:
        notes.append(f"{missing} files of the zoo were not come to yet.")
    if outdated := sum(row.get("outdated", False) for row in rows):
        notes.append(f"{outdated} files were compared with an earlier state of flashonnx.")
    return " ".join(notes) + "\n" if notes else ""


def _summary(summary: Summary) -> str:
    lines = [
        "## Summary",
        "",
        "| | |",
        "|---|---:|",
        f"| files | {summary.files} |",
        f"| attention sites | {summary.sites} |",
        f"| fused | {summary.fused} ({_percent(summary.fused, summary.sites)}) |",
        f"| sites that the op can express | {summary.fusable} |",
        f"| fused of these | {summary.fusable_fused} ({_percent(summary.fusable_fused, summary.fusable)}) |",
        f"| files that are wrong once fused | {len(summary.wrong)} |",
    ]
    for peer, given in summary.peers_given.items():
        name, right = _PEER_NAMES[peer], summary.peers_right[peer]
        text = f"{summary.peers_fused[peer]} of {given}, with equal outputs {right} ({_percent(right, given)})"
        lines.append(f"| fused by {name} | {text} |")
    lines.append(f"| files on which one of them fuses more, rightly | {len(summary.peers_ahead)} |")
    lines += ["", *(f"- {problem}" for problem in (*summary.wrong, *summary.peers_ahead)), ""]
    return "\n".join(lines)


def _left_alone(rows: list[Row]) -> str:
    """Sites that were not fused, those with one reason together."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        for site in row["sites"]:
            if not site["fused"]:
                found[row["model"], site["reason"]][_without_model(row)] += 1
    lines = ["## Left alone", "", "| model | sites | in | reason |", "|---|---:|---|---|"]
    for (model, reason), files in found.items():
        why = f"{SPECS[model].unfusable}. " if SPECS[model].unfusable else ""
        lines.append(f"| {model} | {files.total()} | {', '.join(files)} | {why}{_cell(reason)} |")
    return "\n".join([*lines, ""])


def _listed(rows: list[Row], key: str, title: str, says: str) -> str:
    """The files that have something under that key, those with the same together."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if key in row:
            found[row["model"], row[key]].append(_without_model(row))
    lines = [f"## {title}", "", f"| model | as | {says} |", "|---|---|---|"]
    lines += [f"| {model} | {', '.join(files)} | {_cell(reason)} |" for (model, reason), files in found.items()]
    return "\n".join([*lines, ""])


def _files(rows: list[Row]) -> str:
    peers = " | ".join(_PEER_COLUMNS.values())
    lines = [
        "## Every file",
        "",
        "Sites: fused/found. Peers: attention operators made; ✗ where outputs differ or the file does not run.",
        "",
        *(f"- {mark}: {meaning}" for mark, meaning in _MARKS.values()),
        "",
        f"| model | file | sites | form | mask | difference | portable | {peers} |",
        "|---|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *map(_file, rows), ""])


def _file(row: Row) -> str:
    marks = [_MARKS[sizes][0]] if (sizes := row.get("sizes")) in _MARKS else []
    marks += [_MARKS["note"][0]] if "note" in row else []
    cells = [
        " ".join([row["model"], *marks]),
        " ".join(row[key] for key in ("implementation", "exporter", "dtype")),
        f"{judge.fused_sites(row)}/{len(row['sites'])}",
        _tally(site["form"] for site in row["sites"]),
        _tally(site["mask"] for site in row["sites"]),
        *(_worst(row, kind) for kind in ("difference", "portable")),
        *(_peer(row, peer) for peer in _PEER_COLUMNS),
    ]
    return f"| {' | '.join(map(_cell, cells))} |"


def _worst(row: Row, kind: str) -> str:
    return f"{judge.worst(row[kind]):.0e}" if kind in row else row["failed"]


def _peer(row: Row, peer: str) -> str:
    if peer not in row.get("peers", {}):
        return ""
    found = judge.peer_sites(row, peer)
    return f"{found}{'' if not found or judge.is_peer_right(row, peer) else ' ✗'}"


def _without_model(row: Row) -> str:
    return judge.name(row).removeprefix(row["model"] + "-")


def _tally(values: Iterable[str]) -> str:
    counts = Counter(value for value in values if value)
    return "; ".join(f"{count} x {value}" if len(counts) > 1 else value for value, count in counts.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
