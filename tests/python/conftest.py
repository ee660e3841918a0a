"""Models that several tests here use, made once."""

from pathlib import Path

import onnx
import pytest

from flashonnx.bench import graphs
from flashonnx.bench.cases import with_options


@pytest.fixture(scope="session")
def attention_files(tmp_path_factory) -> dict[str, Path]:
    """One causal attention as plain nodes and as FlashAttention; and the plain nodes without the mask."""
    folder = tmp_path_factory.mktemp("attention")
    full, causal = with_options(["2x4x48x32"])
    models = {
        "unfused": graphs.unfused(causal),
        "fused": graphs.flash_attention(causal),
        "unmasked": graphs.unfused(full),
    }
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in models}
