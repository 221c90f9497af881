"""Files that matter are written aside, flushed and renamed: a reader, or a crash, sees the old file or the new one.

Nobody but the user may write to what is made here, whatever the umask. What is read is a regular file of a bounded
size, and nothing is written through a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import os
import re
import stat
import struct
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from hpcseg.errors import HpcsegError


class NotWrittenError(HpcsegError):
    """The file system refuses what is to be written: it is full, read-only, or not the user's."""


def not_written(path: Path | str, error: OSError) -> NotWrittenError:
    """What to raise where the file system refuses a file so."""
    return NotWrittenError(f"{path} cannot be written: {error.strerror or error}. Is there space and permission?")


_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_SECONDS_TO_BE_LEFT = 3600.0
_NOT_MADE: list[Path] = []
"""Folders at and below which `make_folder` makes nothing now."""


@contextlib.contextmanager
def aside(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends, and goes when it fails.

    Args:
        path: the final name; its folder is made if it is missing.
        private: it is for its owner alone, from the first moment; else others may read it as the umask says.

    Raises:
        NotWrittenError: the file system refuses (full, read-only, no permission), or there is a folder of that name.
    """
    try:
        if path.is_dir():  # which the rename would meet only when all is written
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        make_folder(path.parent)
        with _beside(path, 0o600 if private else 0o644) as temporary:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise not_written(path, error) from None


@contextlib.contextmanager
def _beside(path: Path, mode: int) -> Iterator[Path]:
    """A new file beside `path`, which is removed at the end, and locked until then: `remove_left` leaves it."""
    while True:
        # No process id: ranks of several hosts may write the same file.
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        with open(temporary, "xb", opener=functools.partial(_own, mode=mode)) as file:
            try:
                if _lock(file) is not False and os.fstat(file.fileno()).st_nlink:
                    yield temporary
                    return
                # `remove_left` of another process came between its making and its lock.
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()


def is_left(path: Path) -> bool:
    """Whether a file has a name that `aside` gives while it is written; as long as it is, it is locked."""
    return _ASIDE.fullmatch(path.name) is not None


def left_of(path: Path) -> Iterator[Path]:
    """Files beside `path` that `aside` has made for it, and did not give its name yet."""
    return path.parent.glob(f".{glob.escape(path.name)}.????????.tmp")


def remove_left(paths: Iterable[Path]) -> None:
    """Remove what killed processes have left of files that they wrote `aside`; others, and what is written, stay."""
    for path in filter(is_left, paths):
        with contextlib.suppress(OSError), open_regular(path, "a+b") as file:  # to write: NFS locks no other
            locked = _lock(file)
            if locked or (locked is None and time.time() - os.fstat(file.fileno()).st_mtime > _SECONDS_TO_BE_LEFT):
                path.unlink()


def _lock(file: BinaryIO) -> bool | None:
    """Lock a file until it is closed; False where another process has it, None where the file system has no locks."""
    try:
        # No flock, since HDF5 takes one of what it writes wherever it was loaded before it could be told not to; and no
        # lock of the process, which goes as soon as anything in it closes the file.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes its name when the block ends; otherwise as `aside`.

    Args:
        path: the final name.
        durable: bring it to the disk first. Without, a loss of power may leave an empty file; thousands of small files
            that can be made again are not worth the wait.
        private: as of `aside`.
    """
    with aside(path, private=private) as temporary, open(temporary, "wb", opener=_own) as file:
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


@contextlib.contextmanager
def not_made_anew(folder: Path) -> Iterator[None]:
    """While this lasts, nothing in this process makes this folder, or one below: who writes there finds it gone.

    A run that is moved away while its cells write would else stand at its old path again, as a stump.
    """
    _NOT_MADE.append(folder)
    try:
        yield
    finally:
        _NOT_MADE.remove(folder)


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder where it is missing, with those above it; the umask may take more rights from it than `mode`."""
    if any(path.is_relative_to(folder) for folder in _NOT_MADE):
        return
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
