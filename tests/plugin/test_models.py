"""Whole models from PyTorch: exported, fused, parsed and built by TensorRT-RTX for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers

import flashonnx
from flashonnx import contract
from flashonnx.engine import BuildResult, EngineError, build_engine

pytestmark = pytest.mark.slow

LAYERS = 2


class LastHiddenState(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def bert() -> torch.nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 100}
    return transformers.BertModel(transformers.BertConfig(num_hidden_layers=LAYERS, **sizes))


def gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(n_layer=LAYERS, n_embd=64, n_head=4, vocab_size=100, use_cache=False)
    return transformers.GPT2Model(config)


def llama() -> torch.nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 100}
    config = transformers.LlamaConfig(num_hidden_layers=LAYERS, num_key_value_heads=2, use_cache=False, **sizes)
    return transformers.LlamaModel(config)


MODELS: dict[str, Callable[[], torch.nn.Module]] = {"bert": bert, "gpt2": gpt2, "llama": llama}


@pytest.fixture(
    scope="module", params=[(name, kind) for name in MODELS for kind in ("dynamic", "static")], ids="-".join
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that is not fused."""
    name, kind = request.param
    torch.manual_seed(0)
    arguments = (torch.randint(0, 100, (2, 16)), torch.ones(2, 16, dtype=torch.int64))
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    path = tmp_path_factory.mktemp(name) / f"{name}.onnx"
    torch.onnx.export(
        LastHiddenState(MODELS[name]()).eval(),
        arguments,
        path,
        dynamo=True,
        opset_version=18,
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes=(dims, dims) if kind == "dynamic" else None,
        verbose=False,
    )
    return path


def build(model: Path, target: str, precision: str | None = None, **options: Any) -> BuildResult:
    engine = model.with_suffix(f".{target}.{precision}.engine")
    return build_engine(
        model, engine, precision=precision, compute_capabilities=[target], module="tensorrt_rtx", **options
    )


@pytest.fixture
def rtx(trt: Any) -> None:
    if trt.__name__ != "tensorrt_rtx":
        pytest.skip("needs tensorrt_rtx: other TensorRTs build for this machine's GPU only")


def attention_names(path: Path) -> list[str]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return [node.name for node in nodes if node.op_type == contract.OP_TYPE and node.domain == contract.DOMAIN]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(("target", "precision"), [("8.9", "fp16"), ("12.0", "bf16"), ("8.9", None)])
def test_engine_has_every_attention_as_a_plugin(exported: Path, target: str, precision: str | None) -> None:
    given = exported.with_suffix(".trt.onnx")
    result = build(exported, target, precision, onnx_path=given)
    names = attention_names(given)
    assert len(names) == LAYERS
    plan = result.path.read_bytes()
    assert [name for name in names if f"{name}_pluginType".encode() not in plan] == []
    assert result.description.compute_capabilities == (target,)
    assert result.description.precision == (precision or "fp32")


@pytest.mark.usefixtures("rtx")
def test_portable_file_gives_the_same_engine_layers(exported: Path, tmp_path: Path) -> None:
    portable = tmp_path / "portable.onnx"
    assert flashonnx.fuse(exported, portable, portable=True).report.fused == LAYERS
    assert onnx.load(portable, load_external_data=False).functions
    result = build(portable, "8.9")
    assert any("portable function" in note for note in result.notes)
    plan = result.path.read_bytes()
    assert [name for name in attention_names(portable) if f"{name}_pluginType".encode() not in plan] == []


@pytest.mark.usefixtures("rtx")
def test_what_fails_leaves_no_file(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "none.engine"
    target.write_bytes(b"before")
    with pytest.raises(EngineError, match=r"cannot build for 1\.0; allowed: .*8\.9"):
        build_engine(exported, target, compute_capabilities=["1.0"], module="tensorrt_rtx")
    assert target.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.engine"]
