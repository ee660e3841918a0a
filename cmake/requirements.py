#!/usr/bin/env python3
"""Prints what an extra of this project needs, its own extras resolved: requirements.py pyproject.toml EXTRA.

For environments that install the dependencies first and the project itself often.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def requirements(project: dict, extra: str | None) -> list[str]:
    """The dependencies of the project (extra None) or of one of its extras."""
    listed = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = []
    for requirement in listed:
        own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", requirement)
        extras = own.group(1).split(",") if own else []
        found += [name for other in extras for name in requirements(project, other)] or [requirement]
    return found


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    print("\n".join(dict.fromkeys(requirements(project, None) + requirements(project, sys.argv[2]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
