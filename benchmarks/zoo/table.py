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
_INTRODUCTION = """\
# The zoo

Small models with random weights, as PyTorch's exporters write them, fused and compared. This page is written by
`make zoo`, which runs `python -m benchmarks.zoo`; [`tests/zoo`](../tests/zoo) says what the models are. What it takes
minutes to hours to find out is kept under `build/zoo`.

Every file is exported with dynamic shapes at batch 2 and run at batch 3 and another length, with padding on the right,
on the left, on neither side, and with one entry that is padding only. A difference is the largest of |fused - original|
over the largest |original|, of all outputs and paddings; equal means at most 1e-4 in float32 and 1e-2 in float16. Where
the original says NaN, nothing is compared. Both sides run in ONNX Runtime on the CPU, the original without its
optimizations and with `Attention` spelled out as the standard defines it, the fused file once with the library and
once, as a portable file, without.
"""


def headline(summary: Summary) -> str:
    """One line."""
    return (
        f"{summary.files} files ({summary.not_exported} more do not export), {len(summary.wrong)} wrong; "
        f"{summary.fused} of {summary.sites} sites fused, "
        f"{_percent(summary.fusable_fused, summary.fusable)} of those that the op can express"
    )


def page(result: dict[str, Any]) -> str:
    """The document, from the run's JSON."""
    rows: list[Row] = result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    exported = [row for row in rows if "not_exported" not in row]
    sections = [
        _INTRODUCTION,
        f"Versions: {versions}.\n",
        _incomplete(rows, result["missing"]),
        _summary(judge.summary(rows)),
        _left_alone(exported),
        _not_exported(rows),
        _files(exported),
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
    for peer, name in _PEER_NAMES.items():
        right = summary.peers_right[peer]
        text = f"{summary.peers[peer]}, with equal outputs {right} ({_percent(right, summary.sites)})"
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
                found[row["model"], site["reason"]][judge.name(row).removeprefix(row["model"] + "-")] += 1
    lines = ["## Left alone", "", "| model | sites | in | reason |", "|---|---:|---|---|"]
    for (model, reason), files in found.items():
        why = f"{SPECS[model].unfusable}. " if SPECS[model].unfusable else ""
        lines.append(f"| {model} | {files.total()} | {', '.join(files)} | {why}{_cell(reason)} |")
    return "\n".join([*lines, ""])


def _not_exported(rows: list[Row]) -> str:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if "not_exported" in row:
            found[row["model"], row["not_exported"]].append(judge.name(row).removeprefix(row["model"] + "-"))
    lines = ["## Does not export", "", "| model | as | PyTorch says |", "|---|---|---|"]
    lines += [f"| {model} | {', '.join(files)} | {_cell(reason)} |" for (model, reason), files in found.items()]
    return "\n".join([*lines, ""])


def _files(rows: list[Row]) -> str:
    lines = [
        "## Every file",
        "",
        "Sites: fused/found. Peers: attention operators made; ✗ where outputs differ or the file does not run.",
        "¹ The exporter wrote the example's length into the file: run at that length.",
        "² ONNX Runtime crashes while it optimizes the original: both were run without that.",
        "³ ONNX Runtime refuses the original, so that there is nothing to compare with.",
        "",
        "| model | file | sites | form | mask | difference | portable | onnxscript | ORT | ORT default |",
        "|---|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *map(_file, rows), ""])


def _file(row: Row) -> str:
    mark = (" ¹" if row.get("only_at_exported_length") else "") + (" ²" if "note" in row else "")
    cells = [
        row["model"] + mark,
        " ".join(row[key] for key in ("implementation", "exporter", "dtype")),
        f"{judge.fused_sites(row)}/{len(row['sites'])}",
        _tally(site["form"] for site in row["sites"]),
        _tally(site["mask"] for site in row["sites"]),
        *(_worst(row, kind) for kind in ("difference", "portable")),
        *(_peer(row, peer) for peer in row.get("peers", {})),
    ]
    return f"| {' | '.join(map(_cell, cells))} |"


def _worst(row: Row, kind: str) -> str:
    if kind in row:
        return f"{judge.worst(row[kind]):.0e}"
    return row.get("failed", "³")


def _peer(row: Row, peer: str) -> str:
    found = judge.peer_sites(row, peer)
    return f"{found}{'' if not found or judge.is_peer_right(row, peer) else ' ✗'}"


def _tally(values: Iterable[str]) -> str:
    counts = Counter(value for value in values if value)
    return "; ".join(f"{count} x {value}" if len(counts) > 1 else value for value, count in counts.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
