#!/usr/bin/env python3
"""Finds ONNX Runtime's C API headers and prints the folder that holds onnxruntime_c_api.h.

    find_ort_headers.py --cache DIR [--include DIR]

ONNX Runtime's Python wheels have no headers, so they are looked for in this order: the folder that the user names
(--include, or FLASHONNX_ORT_INCLUDE), the system, DIR from an earlier run, the machine's Debian or Ubuntu archive,
npm, and at last ONNX Runtime's own release archive. Nothing is installed on the machine; what is fetched stays in DIR.
Any version from MIN_API_VERSION on will do: the library asks for whatever API the runtime that loads it has.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HEADER = "onnxruntime_c_api.h"
MIN_API_VERSION = 18  # the first with KernelContext_GetScratchBuffer

SYSTEM_PREFIXES = ("/usr", "/usr/local", "/opt/onnxruntime", "/opt/homebrew")
# Releases of each distribution that have the package; its headers need no other library, so they fit older ones too.
SUITES = {"debian": ("trixie", "forky"), "ubuntu": ("questing", "plucky")}
APT_PACKAGE = "libonnxruntime-dev"
NPM_PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
# The headers are the same for every processor.
RELEASE = "https://github.com/microsoft/onnxruntime/releases/download/v1.22.0/onnxruntime-linux-x64-1.22.0.tgz"
RELEASE_SHA256 = "8344d55f93d5bc5021ce342db50f62079daf39aaafb5d311a451846228be49b3"
TIMEOUT_S = 600


class NotFoundError(Exception):
    """Why a source has no headers."""


def api_version(include: Path) -> int:
    match = re.search(r"#define\s+ORT_API_VERSION\s+(\d+)", (include / HEADER).read_text(encoding="utf-8"))
    return int(match.group(1)) if match else 0


def in_folder(folder: Path) -> Path:
    """The folder under `folder` that holds usable headers."""
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    too_old = []
    for header in sorted(folder.rglob(HEADER)):
        version = api_version(header.parent)
        if version >= MIN_API_VERSION:
            return header.parent
        too_old.append(f"{header.parent} has API version {version}, {MIN_API_VERSION} or later is needed")
    raise NotFoundError("; ".join(too_old) or f"no {HEADER} under {folder}")


def from_system(_: Path) -> Path:
    prefixes = [*os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep), os.environ.get("CONDA_PREFIX", "")]
    folders = [Path(prefix, "include", "onnxruntime") for prefix in (*prefixes, *SYSTEM_PREFIXES) if prefix]
    reasons = []
    for folder in folders:
        try:
            return in_folder(folder)
        except NotFoundError as error:
            reasons.append(str(error))
    raise NotFoundError("; ".join(reasons))


def run(*command: str, cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise NotFoundError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise NotFoundError(f"{command[0]} took more than {TIMEOUT_S} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise NotFoundError(f"{' '.join(command[:2])} failed: {last}")


def distribution() -> str:
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    match = re.search(r"^ID=\"?(\w+)", text, re.MULTILINE)
    return match.group(1) if match else "unknown"


def apt_sources() -> Iterator[str]:
    """The machine's own package sources as `deb [options] URI`, suite and components left off."""
    etc = Path("/etc/apt")
    for file in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.+)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and "URIs" in fields:
                options = f"[signed-by={fields['Signed-By']}] " if "Signed-By" in fields else ""
                yield f"deb {options}{fields['URIs'].split()[0]}"
    for file in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        if file.exists():
            yield from re.findall(r"^deb (?:\[[^]]*\] )?\S+", file.read_text(encoding="utf-8"), re.MULTILINE)


def from_apt(cache: Path) -> Path:
    suites = SUITES.get(distribution())
    source = next(apt_sources(), None)
    if suites is None or source is None:
        raise NotFoundError("this machine has no Debian or Ubuntu package sources")
    component = "main" if distribution() == "debian" else "main universe"
    reasons = []
    for suite in suites:
        try:
            return in_folder(apt_unpack(f"{source} {suite} {component}\n", cache))
        except NotFoundError as error:
            reasons.append(f"{suite}: {error}")
    raise NotFoundError("; ".join(reasons))


def apt_unpack(source: str, cache: Path) -> Path:
    """Fetches and unpacks the package with lists and caches of our own, so that nothing on the machine changes."""
    target = (cache / "apt").resolve()
    with tempfile.TemporaryDirectory(prefix="flashonnx-apt-") as temporary:
        private = Path(temporary)
        for name in ("parts", "lists/partial", "cache/archives/partial"):
            (private / name).mkdir(parents=True)
        (private / "parts" / "one.list").write_text(source, encoding="utf-8")
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": private / "parts",
            "Dir::State::lists": private / "lists",
            "Dir::Cache": private / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "",
        }
        flags = [f"-o{key}={value}" for key, value in options.items()]
        run("apt-get", "update", *flags, cwd=private)
        run("apt-get", "download", APT_PACKAGE, *flags, cwd=private)
        package = next(private.glob("*.deb"), None)
        if package is None:
            raise NotFoundError(f"apt-get downloaded no {APT_PACKAGE}")
        target.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "-x", str(package), str(target), cwd=private)
    return target


def from_npm(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="flashonnx-npm-") as temporary:
        run("npm", "pack", "--silent", NPM_PACKAGE, cwd=Path(temporary))
        package = next(Path(temporary).glob("*.tgz"), None)
        if package is None:
            raise NotFoundError(f"npm downloaded no {NPM_PACKAGE}")
        return unpack_headers(package, cache / "npm")


def from_release(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="flashonnx-ort-") as temporary:
        archive = Path(temporary, "onnxruntime.tgz")
        try:
            with urllib.request.urlopen(RELEASE, timeout=30) as response, archive.open("wb") as file:
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise NotFoundError(f"{RELEASE}: {error}") from None
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != RELEASE_SHA256:
            raise NotFoundError(f"{RELEASE} has SHA-256 {found}, expected {RELEASE_SHA256}")
        return unpack_headers(archive, cache / "release")


def unpack_headers(archive: Path, target: Path) -> Path:
    """Writes the folder of the archive's first HEADER, flat, into `target`."""
    try:
        with tarfile.open(archive) as tar:
            headers = [member for member in tar if member.isfile() and member.name.endswith(".h")]
            folders = [os.path.dirname(member.name) for member in headers if os.path.basename(member.name) == HEADER]
            target.mkdir(parents=True, exist_ok=True)
            for member in headers:
                content = tar.extractfile(member)
                if folders and content and os.path.dirname(member.name) == folders[0]:
                    (target / os.path.basename(member.name)).write_bytes(content.read())
    except (tarfile.TarError, EOFError) as error:
        raise NotFoundError(f"{archive.name} is damaged: {error}") from None
    return in_folder(target)


def find(include: str | None, cache: Path) -> Path:
    """The headers' folder; NotFoundError says what every source answered."""
    if include:
        return in_folder(Path(include))
    sources: dict[str, Callable[[Path], Path]] = {
        "system": from_system,
        "earlier run": in_folder,
        "apt": from_apt,
        "npm": from_npm,
        "release archive": from_release,
    }
    return first_found("ONNX Runtime", sources, cache)


def first_found(package: str, sources: Mapping[str, Callable[[Path], Path]], cache: Path) -> Path:
    """What the first source that has something gives; NotFoundError says what every one answered."""
    reasons = []
    for name, source in sources.items():
        print(f"{package} headers: {name} ...", file=sys.stderr, flush=True)
        try:
            return source(cache)
        except NotFoundError as error:
            reasons.append(f"  {name}: {error}")
    raise NotFoundError("\n" + "\n".join(reasons))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is fetched")
    parser.add_argument(
        "--include", default=os.environ.get("FLASHONNX_ORT_INCLUDE"), help="folder that has the headers"
    )
    arguments = parser.parse_args()
    try:
        print(find(arguments.include, arguments.cache))
    except NotFoundError as error:
        print(
            f"No ONNX Runtime headers (onnxruntime_c_api.h, API version {MIN_API_VERSION} or later): {error}\n"
            f"Install your distribution's {APT_PACKAGE}, or unpack an ONNX Runtime release and set "
            "FLASHONNX_ORT_INCLUDE to its include folder.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
