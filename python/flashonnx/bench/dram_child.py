"""Runs one call of a contestant under ncu: `ncu ... python -m flashonnx.bench.dram_child REQUEST`; see dram.py."""

from __future__ import annotations

import json
import sys

from flashonnx.bench import cuda
from flashonnx.bench.cases import Case, random_inputs
from flashonnx.bench.devices import find_device


def main() -> None:
    """Only the call itself lies between the profiler's start and stop."""
    import torch

    request = json.loads(sys.argv[1])
    case = Case(**request["case"])
    contestant = next(c for c in find_device("cuda").contestants if c.name == request["contestant"])
    prepared = contestant.prepare(case, random_inputs(case), 1)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    with torch.cuda.stream(cuda.stream()):
        prepared.run()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main()
