"""TensorRT's builder: from an ONNX file that it can take to the bytes of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flashonnx.engine.profile import Range
from flashonnx.engine.tensorrt import EngineError, Messages, describe, get_logger
from flashonnx.files import replacing

# Takes a phase's name, how many of its steps are done, and how many it has.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuilderOptions:
    """See `flashonnx.engine.build_engine`.

    strongly_typed: compute in the types of the file. If not, TensorRT may take float16 in place of float32 wherever it
    finds that faster; it knows nothing of a plugin's accuracy, so this is for models without.
    """

    strongly_typed: bool = True
    tf32: bool = False
    timing_cache: str | Path | None = None
    workspace_mib: int | None = None
    compute_capabilities: tuple[str, ...] = ()


class Builder:
    """Builds one engine."""

    def __init__(
        self, trt: ModuleType, messages: Messages, options: BuilderOptions, progress: Progress | None = None
    ) -> None:
        self._trt = trt
        self._messages = messages
        self._options = options
        self._progress = progress
        self._builder = trt.Builder(get_logger(trt))

    def build(self, path: Path, profile: Mapping[str, Range]) -> bytes:
        """The engine of the ONNX file, for inputs of the profile's shapes.

        Raises:
            EngineError: TensorRT refuses the model, a shape or an option.
            OSError: the timing cache cannot be read or written.
        """
        network = self._parse(path)
        config = self._configure(profile)
        cache = self._options.timing_cache
        if cache is not None:
            self._start_cache(config, Path(cache))
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(self._messages.explain(f"{describe(self._trt)} built no engine and gave no reason"))
        if cache is not None:
            with replacing(cache) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        return bytes(plan)

    def _parse(self, path: Path) -> Any:
        strongly_typed = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(strongly_typed if self._options.strongly_typed else 0)
        self._parser = self._trt.OnnxParser(network, get_logger(self._trt))  # the network's weights are the parser's
        if not self._parser.parse_from_file(str(path)):
            reasons = [self._parser.get_error(index).desc() for index in range(self._parser.num_errors)]
            raise EngineError(self._messages.explain("; ".join(reasons) or f"{path} cannot be parsed"))
        return network

    def _configure(self, profile: Mapping[str, Range]) -> Any:
        trt, options = self._trt, self._options
        config = self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names of layers, for the engine inspector
        if not options.strongly_typed:
            self._allow_half(config)
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.compute_capabilities:
            self._set_targets(config)
        if profile:
            self._set_profile(config, profile)
        if self._progress is not None:
            config.progress_monitor = _new_monitor(trt, self._progress)
        return config

    def _allow_half(self, config: Any) -> None:
        flag = getattr(self._trt.BuilderFlag, "FP16", None)
        if flag is None:
            raise EngineError(f"{describe(self._trt)} builds strongly typed engines only")
        config.set_flag(flag)

    def _set_targets(self, config: Any) -> None:
        known = getattr(self._trt, "ComputeCapability", None)
        if known is None:
            raise EngineError(f"{describe(self._trt)} builds for this machine's GPU only")
        config.num_compute_capabilities = len(self._options.compute_capabilities)
        for index, text in enumerate(self._options.compute_capabilities):
            target = getattr(known, "SM" + text.replace(".", ""), None)
            if target is None:
                names = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in dir(known) if name.startswith("SM"))
                raise EngineError(f"{describe(self._trt)} cannot build for {text}; allowed: {names}")
            config.set_compute_capability(target, index)

    def _set_profile(self, config: Any, profile: Mapping[str, Range]) -> None:
        optimization = self._builder.create_optimization_profile()
        for name, shapes in profile.items():
            optimization.set_shape(name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(optimization) < 0:
            raise EngineError(self._messages.explain("TensorRT refuses the shapes of the inputs"))

    def _start_cache(self, config: Any, path: Path) -> None:
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise EngineError(f"{path} is no timing cache of {describe(self._trt)} on this GPU; remove it")


def _new_monitor(trt: ModuleType, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, 0))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 0)
            progress(phase_name, steps, steps)

    return Monitor()
