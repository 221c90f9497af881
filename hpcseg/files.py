"""Files that matter are written aside, flushed and renamed: a reader, or a crash, sees the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hpcseg.errors import HpcsegError


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; the file there takes its place when the block ends, and goes when it fails.

    Args:
        path: the final name; its folder is made if it is missing.

    Raises:
        HpcsegError: the file system refuses (full, read-only, no permission).
    """
    # No process id: ranks of several hosts may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise HpcsegError(
            f"{path} cannot be written: {error.strerror or error}. Is there space and permission?"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is flushed to the disk and takes its name when the block ends; otherwise as `aside`."""
    with aside(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file with `replacing`."""
    with replacing(path) as file:
        file.write(content)
