"""What is written beside an engine: the file itself tells little, and that only to the TensorRT that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flashonnx.files import write_text


@dataclass(frozen=True)
class Gpu:
    """Empty strings where there is no GPU, or no PyTorch to ask."""

    name: str = ""
    compute_capability: str = ""


@cache
def describe_gpu() -> Gpu:
    """The GPU that would be used."""
    try:
        import torch
    except ImportError:
        return Gpu()
    if not torch.cuda.is_available():
        return Gpu()
    major, minor = torch.cuda.get_device_capability()
    return Gpu(torch.cuda.get_device_name(), f"{major}.{minor}")


@dataclass(frozen=True)
class Description:
    """How an engine was made; `<engine>.json`."""

    runtime: str  # Python module: tensorrt or tensorrt_rtx
    runtime_version: str
    flashonnx_version: str
    gpu: str  # that it was built on; empty if it was built for others
    compute_capabilities: tuple[str, ...]
    precision: str  # fp32, fp16 or bf16; of a model that was not converted, the least of its weights
    inputs: Sequence[Mapping[str, Any]] = ()  # fields of an InputSpec: dimensions by name, and the range of ids
    profile: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    source: str = ""  # the ONNX file
    source_sha256: str = ""

    @staticmethod
    def path_beside(engine: Path) -> Path:
        return engine.with_name(engine.name + ".json")

    def save(self, engine: Path) -> None:
        write_text(self.path_beside(engine), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, engine: Path) -> Description | None:
        """None where there is none that can be read: an engine may come from elsewhere, such as trtexec."""
        try:
            data = json.loads(cls.path_beside(engine).read_text(encoding="utf-8"))
            return cls(**{**data, "compute_capabilities": tuple(data["compute_capabilities"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
