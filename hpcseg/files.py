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
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when the block ends, and leaves nothing behind when the block fails.

    Args:
        path: the final name; its folder is made if it is missing.

    Raises:
        HpcsegError: the file system refuses (full, read-only, no permission).
    """
    # No process id: ranks of several hosts may write the same file.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise HpcsegError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file with `replacing`."""
    with replacing(path) as file:
        file.write(content)
