"""A Markdown table of a benchmark's JSON file: `python benchmarks/table.py speed.json`.

Each cell is a contestant's time over flashonnx's, the median of the ratios within rounds: above 1, flashonnx is faster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(result: dict[str, Any]) -> Iterator[str]:
    """The table's lines, for the cases of topic "speed"."""
    timings, (ours, *_) = result["timings"], result["ours"]
    peers = list(dict.fromkeys(name for timing in timings for name in timing["seconds"] if name not in result["ours"]))
    yield str(result["where"])
    yield ""
    yield f"| case | {' | '.join(peers)} | GFLOP/s |"
    yield f"|---|{'---:|' * (len(peers) + 1)}"
    for timing in timings:
        ratios = timing["time_over_ours"]
        cells = [f"{ratios[peer]:.2f}" if peer in ratios else "" for peer in peers]
        yield f"| {timing['name']} | {' | '.join(cells)} | {timing['gflops'][ours]:.0f} |"


def main() -> int:
    """Prints the table of the file named on the command line."""
    if len(sys.argv) != 2:
        print("usage: python benchmarks/table.py RESULT.json", file=sys.stderr)
        return 2
    try:
        result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        print("\n".join(rows(result)))
    except (OSError, ValueError, KeyError) as error:
        print(f"{sys.argv[1]}: not a result of `flashonnx bench --json` ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
