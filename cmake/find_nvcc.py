#!/usr/bin/env python3
"""Prints the path of nvcc: CUDACXX, PATH's, an installed CUDA toolkit's, or that of this Python's own packages.

The packages (extra `cuda-build`) lie as a toolkit does, but for two names that CMake and the linker look for; links of
those names are made beside them.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def from_packages() -> Path | None:
    toolkits = sorted(Path(sysconfig.get_paths()["purelib"], "nvidia").glob("cu*/bin/nvcc"))
    if not toolkits:
        return None
    nvcc = toolkits[-1]
    toolkit = nvcc.parents[1]
    runtime = next(iter(sorted((toolkit / "lib").glob("libcudart.so.*"))), None)
    links = {toolkit / "lib64": "lib"}
    if runtime is not None:
        links[toolkit / "lib" / "libcudart.so"] = runtime.name
    for link, target in links.items():
        if not link.exists():
            link.symlink_to(target)
    return nvcc


def find() -> Path | None:
    named = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if named:
        return Path(named)
    installed = Path("/usr/local/cuda/bin/nvcc")
    return installed if installed.exists() else from_packages()


def main() -> int:
    nvcc = find()
    if nvcc is None:
        print("No nvcc: install CUDA 12.8 or later, set CUDACXX, or pip install flashonnx[cuda-build]", file=sys.stderr)
        return 1
    print(nvcc)
    return 0


if __name__ == "__main__":
    sys.exit(main())
