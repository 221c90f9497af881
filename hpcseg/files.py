"""Files that matter are written aside, flushed and renamed: a reader, or a crash, sees the old file or the new one.

Nobody but the user may write to what is made here, whatever the umask. What is read is a regular file of a bounded
size, and nothing is written through a link.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

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
        make_folder(path.parent)
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
        private: it is for its owner alone, from the first moment; else others may read it as the umask says.
    """
    opener = functools.partial(_own, mode=0o600 if private else 0o644)
    with aside(path) as temporary, open(temporary, "xb", opener=opener) as file:
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


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder where it is missing, with those above it; the umask may take more rights from it than `mode`."""
    try:
        path.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(mode, exist_ok=True)


def open_regular(path: Path, mode: Literal["rb", "a+b"], most: int | None = None) -> BinaryIO:
    """Open a file to read, or to append to: a regular one, and no link, pipe or device, which may lie or never end.

    Args:
        path: of the file.
        mode: as of `open`.
        most: bytes that it may have; None: any number.

    Raises:
        OSError: it is missing, or no such file.
    """

    def opener(name: str, flags: int) -> int:
        file = _own(name, flags)
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and (most is None or found.st_size <= most):
            return file
        os.close(file)
        if stat.S_ISREG(found.st_mode):
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, and at most {most} are read", name)
        raise OSError(errno.EINVAL, "it is no regular file", name)

    return open(path, mode, opener=opener)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file that `open_regular` opens, of at most so many bytes; raises OSError."""
    with open_regular(path, "rb", most) as file:
        return file.read()


def _own(name: str, flags: int, mode: int = 0o644) -> int:
    """Opens as `os.open`, but through no link, without waiting for a pipe, and with no right to write for others."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(name):
            raise OSError(errno.ELOOP, "it is a link, and not a file", name) from None
        raise
