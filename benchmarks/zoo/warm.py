"""Imported once by the server that the steps' processes are forked from: what every export would set up anew.

The exporters fill their registries of operators at first use, which takes seconds. And they make so many objects beside
the millions of the imported libraries that collecting garbage takes a good part of their time; the processes live too
short to need it.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import torch
from benchmarks.zoo import steps as steps

from tests.zoo import exporters
from tests.zoo.exporting import SPECS

torch.set_num_threads(1)  # no pool of threads, which would not survive the fork
with tempfile.TemporaryDirectory() as folder:
    for exporter in exporters.EXPORTERS:
        exporters.export(SPECS["torch_sdpa_causal"], "torch", exporter, "float32", Path(folder, "warm.onnx"))
gc.freeze()
gc.disable()
