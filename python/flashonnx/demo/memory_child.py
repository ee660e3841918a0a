"""Child process of the demo's memory measurement: `python -m flashonnx.demo.memory_child REQUEST` prints bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from flashonnx.bench.memory import peak_above_now
from flashonnx.demo.models import TORCH, onnx_run, torch_run

_WARM_UP_SHAPE = (1, 8)


def main() -> None:
    """Peak of one run above the loaded model, after a small run that starts threads and packs weights."""
    request = json.loads(sys.argv[1])
    threads = request["threads"]
    run = torch_run(threads) if request["contestant"] == TORCH else onnx_run(Path(request["path"]), threads)
    run(_tokens(*_WARM_UP_SHAPE))
    inputs = _tokens(request["batch"], request["length"])
    print(json.dumps(peak_above_now(lambda: run(inputs))))


def _tokens(batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.full((batch, length), 2003, np.int64)  # any word; memory does not depend on it
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


if __name__ == "__main__":
    main()
