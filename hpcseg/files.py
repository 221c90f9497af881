"""Files that matter are written aside, flushed and renamed: a reader, or a crash, sees the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
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
        HpcsegError: the file system refuses (full, read-only, no permission), or there is a folder of that name.
    """
    # No process id: ranks of several hosts may write the same file.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if path.is_dir():  # which the rename would meet only when all is written
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
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
def replacing(path: Path, *, durable: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes its name when the block ends; otherwise as `aside`.

    Args:
        path: the final name.
        durable: bring it to the disk first. Without, a loss of power may leave an empty file; thousands of small files
            that can be made again are not worth the wait.
        private: it is for its owner alone, from the first moment; else the umask says for whom.
    """

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o600 if private else 0o666)

    with aside(path) as temporary, open(temporary, "xb", opener=create) as file:
        try:
            yield file
        except RuntimeError as error:
            # torch.save ends with an error of its own on the way out of the one that it met (full disk).
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes, *, durable: bool = True, private: bool = False) -> None:
    """Write a whole file with `replacing`."""
    with replacing(path, durable=durable, private=private) as file:
        file.write(content)
