"""Takes files of the zoo through all steps, keeping what each step found until what it depends on changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.zoo import isolated, steps

import flashonnx
from flashonnx.files import write_text
from tests.zoo import exporting, feeding
from tests.zoo.exporting import Variant

Row = dict[str, Any]
PEERS = ("onnxscript", "ort", "ort_default")

# Seconds of processor time; by the clock ten times that, since others may be at work too.
_LIMIT = 120


def row(variant: Variant, *, with_peers: bool = True) -> Row:
    """Everything about one file, or why it does not export."""
    if reason := _export(variant):
        return _identity(variant) | {"not_exported": reason}
    found = _identity(variant) | _found(variant, "flashonnx", _own_version(), partial(_compare, variant))
    if with_peers:
        found["peers"] = {peer: _found(variant, peer, _peer_version(), partial(_peer, variant, peer)) for peer in PEERS}
    return found


def kept_row(variant: Variant) -> Row | None:
    """What earlier runs found, by whatever version of the pass; None if they did not come to this file."""
    note = exporting.failure_note(variant)
    if note.exists():
        return _identity(variant) | {"not_exported": note.read_text()}
    own = _kept(variant, "flashonnx")
    if own is None:
        return None
    peers = {peer: kept["found"] for peer in PEERS if (kept := _kept(variant, peer))}
    return _identity(variant) | own["found"] | {"outdated": own["version"] != _own_version(), "peers": peers}


def _identity(variant: Variant) -> Row:
    return {
        "model": variant.name,
        "implementation": variant.implementation,
        "exporter": variant.exporter,
        "dtype": variant.dtype,
    }


def _export(variant: Variant) -> str:
    """Why there is no file; empty if there is."""
    note = exporting.failure_note(variant)
    if not note.exists() and not variant.path.exists():
        variant.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _isolated(variant, steps.export, variant)
        except isolated.Failed as failure:
            if not note.exists():  # the exporter itself crashed or hung
                write_text(note, str(failure))
    return note.read_text() if note.exists() else ""


def _compare(variant: Variant) -> Row:
    """The comparison, and if the fused model crashes ONNX Runtime, whether the original does too."""
    try:
        return _isolated(variant, steps.compare, variant, True)
    except isolated.Failed as failure:
        reason = str(failure)
    try:
        _isolated(variant, steps.run_original, variant)
    except isolated.Failed as failure:
        note = f"ONNX Runtime, optimizing, fails on the original as well ({failure}): compared without optimizing"
        try:
            return _isolated(variant, steps.compare, variant, False) | {"note": note}
        except isolated.Failed as again:
            reason = str(again)
    return {"sites": [], "failed": reason}


def _peer(variant: Variant, peer: str) -> Row:
    try:
        return _isolated(variant, steps.compare_peer, variant, peer)
    except isolated.Failed as failure:
        return {"fused": 0, "reason": str(failure)}


def _isolated(variant: Variant, step: Callable[..., Any], *arguments: Any) -> Any:
    log = variant.path.with_suffix(".log")
    return isolated.call(step, *arguments, log=log, cpu_seconds=_LIMIT, wall_seconds=10 * _LIMIT)


def _found(variant: Variant, what: str, version: str, find: Callable[[], Row]) -> Row:
    """What an earlier run found with this version, else what `find` finds now."""
    kept = _kept(variant, what)
    if kept is None or kept["version"] != version:
        kept = {"version": version, "found": find()}
        write_text(_kept_path(variant, what), json.dumps(kept))
    return kept["found"]


def _kept(variant: Variant, what: str) -> Row | None:
    path = _kept_path(variant, what)
    return json.loads(path.read_text()) if path.exists() else None


def _kept_path(variant: Variant, what: str) -> Path:
    return variant.path.with_suffix(f".{what}.json")


@cache
def _own_version() -> str:
    """Changes with the pass, the library and how they are compared."""
    folder = Path(flashonnx.__file__).parent
    files = [*sorted((folder / "fusion").glob("*.py")), folder / "flash_attention.json"]
    files += [Path(flashonnx.get_library_path()), Path(str(steps.__file__)), Path(str(feeding.__file__))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@cache
def _peer_version() -> str:
    sources = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("peers.py", "steps.py"))
    packages = "-".join(metadata.version(name) for name in ("onnxruntime", "onnxscript"))
    return f"{packages}-{hashlib.sha256(sources).hexdigest()[:8]}"
