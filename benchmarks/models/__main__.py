"""Whole models in ONNX Runtime on the CPU: fused, against the original with all of ONNX Runtime's own optimisations,
against what onnxruntime.transformers.optimizer makes of it, and against PyTorch.

    python benchmarks/models make                          exports the models once, and fuses them again
    python benchmarks/models time --model gpt2 --json models.json    adds to the file what it measures
    python benchmarks/models profile --model gpt2 --shape 1x1024     where the time of each file goes, by operator
    python benchmarks/models table models.json             a Markdown table
    python benchmarks/models engines --model gpt2 --json engines.json    as TensorRT engines, and whom they compete with
    python benchmarks/models layers --model gpt2 --shape 4x1024      where the time of each engine goes, by layer
    python benchmarks/models build --model gpt2            the engines alone, for the two above

Weights are random; no input has padding. On the CPU a contestant whose output differs from PyTorch's is not timed; the
JSON file says by how much. All run in one process, in interleaved rounds (flashonnx.bench.timing). What runs as engines
needs a GPU and TensorRT; other shapes are usual there. An engine takes all shapes of the command line, or all of the
model's, and is tuned for the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import files
import profiles
import timings
from table import table

from flashonnx.environment import describe
from flashonnx.files import write_text

_FOLDER = Path(__file__).parents[2] / "build" / "models"
_ON_GPU = ("engines", "layers", "build")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.what == "table":
        _print_table(json.loads(arguments.json.read_text(encoding="utf-8")))
        return 0
    for name in arguments.model or list(files.MODELS):
        model = files.MODELS[name]
        if arguments.what in _ON_GPU:
            _use_engines(model, arguments)
            continue
        shapes = arguments.shape or list(model.shapes)
        if arguments.what == "make":
            files.remove_fused(model, _FOLDER)
        made = files.make_files(model, _FOLDER, _say)
        if arguments.what == "time":
            _time(model, made, shapes, arguments)
        elif arguments.what == "profile":
            for shape in shapes:
                print("\n".join(profiles.by_operator(model, made.paths, shape, arguments.threads)))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_table(result: dict[str, Any]) -> None:
    if "tensorrt" in result["environment"]:
        import engines

        print("\n".join(engines.table(result)))
    else:
        print("\n".join(table(result)))


def _use_engines(model: files.Model, arguments: argparse.Namespace) -> None:
    import engine_files
    import engines

    shapes = arguments.shape or model.gpu_shapes
    if arguments.what == "build":
        for name in engine_files.ENGINES:
            engine_files.EngineFiles(model, _FOLDER, _say).make_engine(name, shapes)
        return
    for shape in shapes:
        if arguments.what == "layers":
            print("\n".join(engines.profile(model, _FOLDER, shapes, shape, _say)), flush=True)
        else:
            row = engines.Contestants(model, _FOLDER, shapes, shape, _say).row()
            print(engines.line(row), flush=True)
            if arguments.json:
                _add(arguments.json, row, engines.environment())


def _time(model: files.Model, made: files.Files, shapes: list[files.Shape], arguments: argparse.Namespace) -> None:
    contestants = timings.Contestants(model, made, arguments.threads)
    for shape in shapes:
        row = contestants.measure(shape, rounds=arguments.rounds, max_seconds=arguments.seconds)
        print(timings.line(row))
        if arguments.json:
            _add(arguments.json, row, {**describe(), "threads": arguments.threads})


def _add(path: Path, row: dict[str, Any], environment: dict[str, Any]) -> None:
    """Puts the row into the file, in place of an earlier one of the same model and shape."""

    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    kept = [old for old in result["rows"] if (old["model"], old["shape"]) != (row["model"], row["shape"])]
    order = list(files.MODELS)
    rows = sorted([*kept, row], key=lambda row: (order.index(row["model"]), row["shape"]))
    write_text(path, json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("make", "time", "profile", *_ON_GPU):
        command = commands.add_parser(what)
        command.add_argument("--model", choices=list(files.MODELS), action="append", help="all if not given")
        command.add_argument("--shape", type=_shape, action="append", help="BATCHxLENGTH; the model's own if not given")
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--rounds", type=int, default=9)
        command.add_argument("--seconds", type=float, default=15.0, help="for one shape; three rounds at least")
        command.add_argument("--json", type=Path, help="a file that the rows are added to")
    commands.add_parser("table").add_argument("json", type=Path)
    return parser


def _shape(text: str) -> files.Shape:
    batch, length = text.split("x")
    return int(batch), int(length)


if __name__ == "__main__":
    sys.exit(main())
