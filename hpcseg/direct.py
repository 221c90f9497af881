"""Large writes that skip the kernel's page cache, where the disk is this machine's own.

What is written once and not read soon gains nothing from lying there, and copying it costs several times the processor
time of all else about writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import math
import mmap
import os
from pathlib import Path

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
"""What direct I/O is aligned to, in the file and in memory. Within a page it must not meet other ways of writing."""
_CACHED_PIECE_BYTES = 2**20  # one call for all of a large slice takes longer on ext4, up to ten times
_SYNC_FILE_RANGE_WRITE = 2


def page_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros that begins with a page of memory."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).reshape(shape)


class DirectFile:
    """A file that is there, for writes at any place of it; many processes may write at a time.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b", buffering=0)
        # Network file systems have no device of this machine. They keep their cache: direct writes are round trips.
        self._direct = os.major(os.fstat(self._file.fileno()).st_dev) != 0 and self._switch(direct=True)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of it.

        Args:
            data: bytes; of `page_aligned` memory and whole pages, or the page cache is used.
            offset: of the first byte in the file, likewise.

        Raises:
            OSError: the file system refuses (full, quota).
        """
        if self._direct and (offset % PAGE_BYTES or len(data) % PAGE_BYTES):
            self._direct = self._switch(direct=False)
        while data:
            try:
                written = os.pwrite(self._file.fileno(), data if self._direct else data[:_CACHED_PIECE_BYTES], offset)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                # Of a file system that takes the flag and nothing more; or a full disk has cut the last write short.
                self._direct = self._switch(direct=False)
                continue
            if not self._direct:
                self._begin_writing(offset, written)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        """Close the file; what was written is at the disk after a flush only."""
        self._file.close()

    def _switch(self, *, direct: bool) -> bool:
        """Whether writes are direct now."""
        flag = getattr(os, "O_DIRECT", 0)  # Linux
        try:
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | flag if direct else flags & ~flag)
        except OSError:  # the file system has no such way
            return False
        return direct and flag != 0

    def _begin_writing(self, offset: int, size: int) -> None:
        """Have the kernel begin to bring these bytes to the disk, so that a flush at the end waits for little."""
        # posix_fadvise, which Python knows, does so too, but Linux then has other cores give up their page lists first.
        with contextlib.suppress(OSError, AttributeError):  # no such call outside of Linux
            ctypes.CDLL(None).sync_file_range(
                self._file.fileno(), ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE
            )
