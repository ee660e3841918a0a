"""Files written whole or not at all: into a temporary neighbour first, then renamed over the target."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it takes the place of `path` if the block succeeds, else it is removed.

    Raises:
        OSError: the folder does not exist or cannot be written, or `path` is a folder, a device or a pipe.
    """
    target = Path(path)
    refuse_special(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all; into a device or a pipe as it is.

    Bytes of file names that are no UTF-8 become question marks.
    """
    content = text.encode("utf-8", errors="replace")
    if _is_stream(Path(path)):
        Path(path).write_bytes(content)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def refuse_special(path: Path) -> None:
    """Raises OSError where a file cannot stand: renamed over a device such as /dev/null, it would take its place."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if _is_stream(path):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
