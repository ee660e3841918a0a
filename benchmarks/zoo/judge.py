"""What a row of the zoo says: right or wrong, complete or not, and the sums over all rows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.zoo.run import Row

from tests.zoo.exporting import SPECS
from tests.zoo.feeding import tolerance


@dataclass
class Summary:
    """Sums over the exported files that run; broken are those that do not run as exported, whatever the sizes.

    fusable counts the sites of models whose attention the op can express; wrong the files whose outputs differ, or that
    do not run, once fused. For each peer: the sites of the files that it was given, those it fused, and those it fused
    with equal outputs; peers_ahead names the files on which one of them got further.
    """

    files: int = 0
    not_exported: int = 0
    broken: int = 0
    sites: int = 0
    fused: int = 0
    fusable: int = 0
    fusable_fused: int = 0
    wrong: list[str] = field(default_factory=list)
    peers_given: Counter[str] = field(default_factory=Counter)
    peers_fused: Counter[str] = field(default_factory=Counter)
    peers_right: Counter[str] = field(default_factory=Counter)
    peers_ahead: list[str] = field(default_factory=list)


def summary(rows: list[Row]) -> Summary:
    """The sums of these rows."""
    total = Summary()
    for row in rows:
        if "not_exported" in row:
            total.not_exported += 1
            continue
        if "original_fails" in row:
            total.broken += 1
            continue
        total.files += 1
        sites, fused = len(row["sites"]), fused_sites(row)
        total.sites += sites
        total.fused += fused
        if not SPECS[row["model"]].unfusable:
            total.fusable += sites
            total.fusable_fused += fused
        if problem(row):
            total.wrong.append(f"{name(row)}: {problem(row)}")
        for peer in row.get("peers", {}):
            right = peer_sites(row, peer) if is_peer_right(row, peer) else 0
            total.peers_given[peer] += sites
            total.peers_fused[peer] += peer_sites(row, peer)
            total.peers_right[peer] += right
            if right > fused:
                total.peers_ahead.append(f"{name(row)}: {peer} {right}, flashonnx {fused}")
    return total


def name(row: Row) -> str:
    """As the files are called."""
    return "-".join(row[key] for key in ("model", "implementation", "exporter", "dtype"))


def fused_sites(row: Row) -> int:
    """How many of the file's sites were fused."""
    return sum(site["fused"] for site in row["sites"])


def problem(row: Row) -> str:
    """What is wrong with the fused file; empty if nothing is."""
    if "failed" in row:
        return str(row["failed"])
    for kind in ("difference", "portable"):
        for padding, value in row[kind].items():
            if not _is_equal(value, row):
                return f"{kind} {value:.1e} with padding {padding}"
    return ""


def worst(differences: dict[str, float]) -> float:
    """The largest of them; NaN if one is."""
    return math.nan if any(map(math.isnan, differences.values())) else max(differences.values())


def peer_sites(row: Row, peer: str) -> int:
    """The attention operators that the peer made."""
    return int(row["peers"][peer]["fused"])


def is_peer_right(row: Row, peer: str) -> bool:
    """Whether the peer's model gives the original's outputs."""
    found = row["peers"][peer].get("difference")
    return found is not None and all(_is_equal(value, row) for value in found.values())


def remark(row: Row) -> str:
    """What somebody who watches the run wants to know about the file."""
    if "not_exported" in row:
        return f"does not export: {row['not_exported']}"
    if "original_fails" in row:
        return f"the original does not run: {row['original_fails']}"
    if problem(row):
        return f"WRONG: {problem(row)}"
    reasons = Counter(site["reason"] for site in row["sites"] if not site["fused"])
    return "; ".join(f"{count} left alone: {reason}" for reason, count in reasons.items())


def _is_equal(difference: float, row: Row) -> bool:
    return difference <= tolerance(row["dtype"])  # False of NaN
