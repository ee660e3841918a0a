"""Child process of the memory benchmark: `python -m flashonnx.bench.memory_child REQUEST` prints the peak in bytes."""

from __future__ import annotations

import json
import sys

from flashonnx.bench.cases import Case, random_inputs
from flashonnx.bench.devices import find_device
from flashonnx.bench.memory import peak_above_now

_WARM_UP_LENGTH = 64


def main() -> None:
    """Peak of one call above inputs and output, after a small call that loads libraries and starts threads."""
    request = json.loads(sys.argv[1])
    case = Case(**request["case"])
    contestant = next(c for c in find_device(request["device"]).contestants if c.name == request["contestant"])
    small = case.with_length(_WARM_UP_LENGTH)
    contestant.prepare(small, random_inputs(small), request["threads"]).run()
    prepared = contestant.prepare(case, random_inputs(case), request["threads"])
    peak = peak_above_now(prepared.run)
    # The output is allocated by the call itself, by every contestant.
    print(json.dumps(max(0, peak - case.output_bytes)))


if __name__ == "__main__":
    main()
