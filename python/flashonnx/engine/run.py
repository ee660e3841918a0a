"""Engines on the GPU: loaded from a file, run on named arrays. Device memory and streams are PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashonnx.arrays import BFLOAT16, from_torch, to_torch
from flashonnx.engine.description import Description, describe_gpu
from flashonnx.engine.tensorrt import EngineError, describe, get_logger, import_tensorrt, listening, load_plugin
from flashonnx.validation.inputs import InputSpec

if TYPE_CHECKING:
    import torch


class Engine:
    """An engine file, ready to run.

    One object runs one input at a time; `clone` gives another with its own execution context, for another thread.

    Raises:
        EngineError: there is no GPU, PyTorch or TensorRT, or the file is not an engine for them.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | Path, *, description: Description | None = None) -> None:
        self.path = Path(path)
        self.description = description or Description.load(self.path)
        plan = self.path.read_bytes()
        if not plan:
            raise EngineError(f"{self.path}: empty file")
        if not describe_gpu().name:
            raise EngineError("engines run on an NVIDIA GPU, and PyTorch sees none")
        self._trt = import_tensorrt(self.description.runtime if self.description else None)
        load_plugin(self._trt)
        self.label = f"{self.path.name} ({describe(self._trt)})"
        self._runtime = self._trt.Runtime(get_logger(self._trt))
        with listening(self._trt) as messages:
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = messages.explain("not an engine, or damaged")
            raise EngineError(f"{self.path}: {reason}{self._made()}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs: list[str] = [name for name in names if self._mode(name) == self._trt.TensorIOMode.INPUT]
        self.outputs: list[str] = [name for name in names if name not in self.inputs]
        self._context = self._new_context()

    @property
    def precision(self) -> str:
        """What it computes in, as far as is known: fp32, fp16 or bf16."""
        return self.description.precision if self.description else "fp16"

    def input_specs(self) -> list[InputSpec]:
        """The inputs as the ONNX file declared them, or as the engine has them if that is not known."""
        if self.description is None:
            return [self._spec(name) for name in self.inputs]
        return [
            InputSpec(row["name"], _numpy_dtype(row["dtype"]), tuple(row["dims"]), row["limit"])
            for row in self.description.inputs
        ]

    def clone(self) -> Engine:
        """The same engine with an execution context of its own; weights are shared."""
        other = object.__new__(Engine)
        other.__dict__.update(self.__dict__)
        other._context = other._new_context()
        return other

    def layers(self) -> str:
        """The engine's layers as JSON, by TensorRT's inspector."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, as arrays on the CPU.

        Raises:
            EngineError: an input is missing, unknown, of another type, or outside the engine's shapes.
        """
        import torch

        tensors = {name: to_torch(array).cuda() for name, array in inputs.items()}
        outputs = self.run_tensors(tensors)
        torch.cuda.current_stream().synchronize()
        return {name: from_torch(tensor) for name, tensor in outputs.items()}

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Enqueues on PyTorch's current stream, and does not wait: outputs by name, on the GPU, as inputs are."""
        outputs = self.bind(inputs)
        self.enqueue()
        return outputs

    def bind(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sets the context's inputs and allocates its outputs, which `enqueue` reads and writes."""
        import torch

        if set(inputs) != set(self.inputs):
            raise EngineError(f"{self.label}: given {', '.join(inputs)}; it takes {', '.join(self.inputs)}")
        self._bound = {name: tensor.contiguous() for name, tensor in inputs.items()}
        for name, tensor in self._bound.items():
            self._bind_input(name, tensor)
        outputs = {}
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(dim < 0 for dim in shape):
                raise EngineError(f"{self.label}: the shape of output {name!r} depends on data")
            outputs[name] = torch.empty(shape, dtype=self._torch_dtype(name), device="cuda")
            self._context.set_tensor_address(name, _address(outputs[name]))
        self._bound.update(outputs)
        return outputs

    def enqueue(self) -> None:
        """Runs what is bound on PyTorch's current stream; may be captured in a CUDA graph."""
        import torch

        with listening(self._trt) as messages:
            done = self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        if not done:
            raise EngineError(f"{self.label}: {messages.explain('the run failed')}")

    def profile(self, inputs: Mapping[str, torch.Tensor], runs: int = 10) -> dict[str, float]:
        """Mean milliseconds of each layer by name, in the order in which they run; in an execution context of its own.

        TensorRT waits after each layer, so that they take more in all than a run does.
        """
        profiler = _new_profiler(self._trt)
        profiled = self.clone()
        profiled.bind(inputs)
        profiled.enqueue()
        profiled._context.profiler = profiler
        for _ in range(runs):
            profiled.enqueue()
        return {name: total / runs for name, total in profiler.totals.items()}

    def _bind_input(self, name: str, tensor: torch.Tensor) -> None:
        wanted = self._torch_dtype(name)
        if tensor.dtype != wanted:
            raise EngineError(f"{self.label}: input {name!r} is {tensor.dtype}; allowed: {wanted}")
        if not self._context.set_input_shape(name, tuple(tensor.shape)):
            shapes = self._engine.get_tensor_profile_shape(name, 0)
            allowed = " .. ".join("x".join(map(str, shape)) for shape in (shapes[0], shapes[2]))
            raise EngineError(f"{self.label}: input {name!r} has shape {tuple(tensor.shape)}; allowed: {allowed}")
        self._context.set_tensor_address(name, _address(tensor))

    def _spec(self, name: str) -> InputSpec:
        dims = tuple("?" if dim < 0 else dim for dim in self._engine.get_tensor_shape(name))
        return InputSpec(name, _numpy_dtype(str(self._torch_dtype(name)).removeprefix("torch.")), dims)

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _torch_dtype(self, name: str) -> torch.dtype:
        import torch

        names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32"}
        names |= {"INT64": "int64", "BOOL": "bool", "UINT8": "uint8"}
        dtype: torch.dtype = getattr(torch, names[self._engine.get_tensor_dtype(name).name])
        return dtype

    def _new_context(self) -> Any:
        with listening(self._trt) as messages:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"{self.label}: {messages.explain('no execution context, perhaps for want of memory')}")
        return context

    def _made(self) -> str:
        made = self.description
        if made is None:
            return ""
        return (
            f" (built by {made.runtime} {made.runtime_version} for {made.gpu or ', '.join(made.compute_capabilities)})"
        )


def _new_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.totals: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.totals[layer_name] = self.totals.get(layer_name, 0.0) + ms

    return Profiler()


def _numpy_dtype(name: str) -> np.dtype:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def _address(tensor: torch.Tensor) -> int:
    """An empty tensor has no memory of its own, and TensorRT takes no null: any address will do."""
    import torch

    return tensor.data_ptr() or torch.empty(256, dtype=torch.uint8, device="cuda").data_ptr()
