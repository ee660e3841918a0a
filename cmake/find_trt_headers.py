#!/usr/bin/env python3
"""Finds TensorRT's headers and prints the folder that holds NvInferRuntime.h.

    find_trt_headers.py --cache DIR [--include DIR] [--version 10.16|11.0|11.4|rtx-1.7]

They are looked for in this order: the folder that the user names (--include, or FLASHONNX_TENSORRT_INCLUDE), the
system, DIR from an earlier run, and the Rust crate trtx-sys, which carries them and which cargo unpacks into DIR.
Nothing is installed on the machine. The plugin links no TensorRT library, and IPluginV3 has kept its binary interface,
so that any version from MIN_VERSION on gives a plugin for TensorRT 10.6 and later and for TensorRT-RTX.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from find_ort_headers import NotFoundError, first_found, run

HEADER = "NvInferRuntime.h"
MIN_VERSION = (10, 0)  # the first with IPluginV3; TensorRT-RTX, which counts from 1 again, has had it from its start

# The crate's version and the folder in it, by TensorRT's version.
CRATE = "trtx-sys"
CRATES = {
    "10.16": ("0.5.0", "TRT-Enterprise-10.16"),
    "11.0": ("0.7.1+rtx1.5", "TRT-Enterprise-11.0"),
    "11.4": ("0.9.1+rtx1.7", "TRT-Enterprise-11.4"),
    "rtx-1.7": ("0.9.1+rtx1.7", "TRT-RTX-1.7"),
}
DEFAULT_VERSION = "10.16"


def version(include: Path) -> tuple[tuple[int, int], bool]:
    """Major and minor version of the headers, and whether they are TensorRT-RTX's."""
    text = (include / "NvInferVersion.h").read_text(encoding="utf-8", errors="replace")

    def number(*names: str) -> int | None:
        for name in names:
            match = re.search(rf"#define\s+{name}\s+(\d+)", text)
            if match:
                return int(match.group(1))
        return None

    rtx = number("TRT_MAJOR_RTX") is not None
    major = number("TRT_MAJOR_RTX", "TRT_MAJOR_ENTERPRISE", "NV_TENSORRT_MAJOR") or 0
    minor = number("TRT_MINOR_RTX", "TRT_MINOR_ENTERPRISE", "NV_TENSORRT_MINOR") or 0
    return (major, minor), rtx


def in_folder(folder: Path) -> Path:
    """`folder`, if it holds usable headers."""
    if not (folder / HEADER).is_file() or not (folder / "NvInferVersion.h").is_file():
        raise NotFoundError(f"no {HEADER} in {folder}")
    found, rtx = version(folder)
    if not rtx and found < MIN_VERSION:
        raise NotFoundError(f"{folder} has version {found[0]}.{found[1]}, {MIN_VERSION[0]}.{MIN_VERSION[1]} is needed")
    return folder


def from_system() -> Path:
    roots = [os.environ.get("TENSORRT_ROOT", ""), os.environ.get("CONDA_PREFIX", "")]
    roots += [*os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep), "/usr/local/tensorrt", "/opt/tensorrt"]
    folders = [Path(root, "include") for root in roots if root]
    folders += [Path("/usr/include/x86_64-linux-gnu"), Path("/usr/include/aarch64-linux-gnu"), Path("/usr/include")]
    reasons = []
    for folder in folders:
        try:
            return in_folder(folder)
        except NotFoundError as error:
            reasons.append(str(error))
    raise NotFoundError("; ".join(reasons))


def from_cache(cache: Path, wanted: str) -> Path:
    crate, folder = CRATES[wanted]
    found = sorted(cache.glob(f"registry/src/*/{CRATE}-{crate}/TensorRT-Headers/{folder}"))
    if not found:
        raise NotFoundError(f"nothing under {cache}")
    return in_folder(found[0])


def from_crate(cache: Path, wanted: str) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    # `cargo info` unpacks the crate it describes, and compiles nothing.
    run("env", f"CARGO_HOME={cache}", "cargo", "info", "--quiet", f"{CRATE}@{CRATES[wanted][0]}", cwd=cache)
    return from_cache(cache, wanted)


def find(include: str | None, cache: Path, wanted: str | None) -> Path:
    """The headers' folder; NotFoundError says what every source answered. A wanted version is not the system's."""
    if include:
        return in_folder(Path(include))
    crate = wanted or DEFAULT_VERSION
    sources: dict[str, Callable[[Path], Path]] = {
        "earlier run": partial(from_cache, wanted=crate),
        f"crate {CRATE}": partial(from_crate, wanted=crate),
    }
    if wanted is None:
        sources = {"system": lambda _: from_system(), **sources}
    return first_found("TensorRT", sources, cache)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is fetched")
    parser.add_argument(
        "--include", default=os.environ.get("FLASHONNX_TENSORRT_INCLUDE"), help="folder that has the headers"
    )
    parser.add_argument("--version", choices=CRATES, help="take the crate's headers of this version")
    arguments = parser.parse_args()
    try:
        print(find(arguments.include, arguments.cache.resolve(), arguments.version))
    except NotFoundError as error:
        print(
            f"No TensorRT headers (NvInferRuntime.h, 10.0 or later): {error}\n"
            "Install libnvinfer-headers-dev, or unpack a TensorRT release and set FLASHONNX_TENSORRT_INCLUDE to its "
            "include folder.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
