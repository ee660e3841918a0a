"""flashonnx info"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashonnx.cli.common import CASE_HELP, DTYPE_HELP, JSON_HELP, console, exit_codes, fail, is_shown, write_json

if TYPE_CHECKING:
    from flashonnx.bench.cases import Case
    from flashonnx.native import Cuda

app = typer.Typer(add_completion=False)


@app.command()
def info(
    case: Annotated[str, typer.Option(help=CASE_HELP)] = "1x12x512x64",
    causal: Annotated[bool, typer.Option("--causal", help="With a causal mask.")] = False,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="A GPU that may be elsewhere, such as 9.0; repeatable.")
    ] = None,
    json: Annotated[str | None, typer.Option(help=JSON_HELP)] = None,
) -> None:
    """Tell what was built, what this machine has, and which kernel would run for a problem, and why."""
    with exit_codes():
        from flashonnx.bench.cases import with_options
        from flashonnx.native import Cuda, parse_compute_capability

        try:
            problem = with_options([case], causal=causal, dtype=dtype)[0]
            elsewhere = {
                text: Cuda(compute_capability=parse_compute_capability(text)) for text in compute_capability or ()
            }
        except ValueError as error:
            fail(str(error))
        facts = _facts(problem, elsewhere)
        if json is not None:
            write_json(facts, json)
        if is_shown(json):
            _print(facts)


def _facts(case: Case, elsewhere: dict[str, Cuda]) -> dict[str, Any]:
    from flashonnx import native
    from flashonnx.environment import describe
    from flashonnx.runtime import get_library_path

    gpus = _gpus()
    here = {f"{name} ({index})": native.Cuda(index) for index, name in enumerate(gpus)}
    return {
        **describe(),
        "library": get_library_path(),
        "build": native.build_info(),
        "execution_providers": _execution_providers(),
        "gpus": gpus,
        "case": str(case),
        "kernel": _kernel(case, None),
        "gpu_kernels": {name: _kernel(case, cuda) for name, cuda in {**here, **elsewhere}.items()},
    }


def _kernel(case: Case, cuda: Cuda | None) -> str:
    """What the library would run on the CPU or a GPU, by shapes alone; or why nothing."""
    from flashonnx import native
    from flashonnx.bench.cases import DTYPES

    element_type = native.element_type(DTYPES[case.dtype])
    q_shape = (case.batch_size, case.q_num_heads, case.q_sequence_length, case.head_size)
    kv_shape = (case.batch_size, case.kv_num_heads, case.kv_sequence_length, case.head_size)
    shapes = {"Q": q_shape, "K": kv_shape, "V": kv_shape}
    inputs = {name: native.NativeTensor(0, element_type, shape) for name, shape in shapes.items()}
    try:
        return native.plan(inputs, {"is_causal": int(case.is_causal)}, cuda=cuda)
    except native.UnavailableError as error:
        return f"none: {error}"


def _execution_providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _gpus() -> list[str]:
    """As PyTorch sees them; none without PyTorch."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _print(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{name.replace('_', ' ')}", escape(_text(value)))
    console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
