"""A Markdown table of what `python benchmarks/models time` measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from files import FUSED, OPTIMIZER, ORIGINALS
from timings import ORT_BEST, TORCH, best


def table(result: dict[str, Any]) -> Iterator[str]:
    """Milliseconds of each contestant, and how often as fast as the best of each kind the fused file is."""
    names = [*ORIGINALS, OPTIMIZER, TORCH, *FUSED]
    environment, packages = result["environment"], result["environment"]["packages"]
    yield (
        f"{environment['cpu']}, {environment['threads']} threads, ONNX Runtime {packages['onnxruntime']}, "
        f"PyTorch {packages['torch']}; milliseconds, medians"
    )
    yield ""
    yield f"| model | batch x length | {' | '.join(names)} | ORT's best / ours | PyTorch / ours |"
    yield f"|---|---|{'---:|' * (len(names) + 2)}"
    for row in result["rows"]:
        seconds = row["seconds"]
        fastest = best(seconds, names)
        cells = [_cell(seconds.get(name), name == fastest) for name in names]
        ratios = row["over_ours"]
        shape = "x".join(map(str, row["shape"]))
        yield (
            f"| {row['model']} | {shape} | {' | '.join(cells)} "
            f"| {ratios.get(ORT_BEST, float('nan')):.2f} | {ratios[TORCH]:.2f} |"
        )


def _cell(seconds: list[float] | None, is_fastest: bool) -> str:
    """An empty one is a file that does not run or gives other results."""
    if seconds is None:
        return ""
    text = f"{statistics.median(seconds) * 1e3:,.1f}"
    return f"**{text}**" if is_fastest else text
