"""How much host memory this process may still take and has held, and how it keeps what it has between steps."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

# mallopt(3)'s numbers.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 256 * 2**20
_LARGEST_INT = 2**31 - 1
# proc_pid_clear_refs(5): with this number the peak becomes what the process holds now.
_CLEAR_REFS, _CLEAR_PEAK = Path("/proc/self/clear_refs"), "5"
_GROUPS, _ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


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


def forget_peak() -> None:
    """Let `peak_bytes` tell of what comes from now on, where the system can: memory that is kept free is given back."""
    with contextlib.suppress(OSError, AttributeError):  # as above
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # a kernel without it, or a container that may not write there
        _CLEAR_REFS.write_text(_CLEAR_PEAK)


def peak_bytes() -> int:
    """The most host memory that this process has held since `forget_peak`; where that cannot be, since its start."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_host_bytes() -> float:
    """Memory that this process may still take, of the host and of its control group."""
    return min(_limits(), default=4 * 2.0**30)


def _limits() -> Iterator[float]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            # What the last slice took is kept for the next one.
            yield float(line.split()[1]) * 1024 + _resident_bytes()
    for file in _limit_files():
        for text in _lines(file):
            if text.strip().isdigit():
                yield float(text)


@functools.cache
def _limit_files() -> tuple[Path, ...]:
    """Of the control group and those that it is in; Slurm sets its limit on the job's or the step's."""
    # Looked for once: asked before each slice, and a process stays in its group.
    files = dict[Path, None]()
    for line in _lines(_GROUPS):
        _, controllers, place = line.split(":", 2)
        is_v1 = "memory" in controllers.split(",")  # cgroups(7): of the second version no controller is named
        root, name = (_ROOT / "memory", "memory.limit_in_bytes") if is_v1 else (_ROOT, "memory.max")
        group = root / place.lstrip("/")
        files |= dict.fromkeys(folder / name for folder in (group, *group.parents) if (folder / name).is_file())
    return tuple(files)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _resident_bytes() -> int:
    words = " ".join(_lines(Path("/proc/self/statm"))).split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0
