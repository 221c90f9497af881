"""How this process keeps host memory between steps."""

from __future__ import annotations

import ctypes

# mallopt(3)'s numbers.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 256 * 2**20
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it is glibc.

    By default it maps every large array anew and gives it back at once, and the kernel clears the same pages again for
    each step or slice: 5 to 10 % of a training step on a CPU. The price is that a process stays as large as it was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # musl, macOS: another allocator with habits of its own
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _LARGEST_INT)
    mallopt(_TOP_PAD, _TOP_PAD_BYTES)
