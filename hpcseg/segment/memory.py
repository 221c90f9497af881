"""How much memory this process may still take, and how much of it a network takes per pixel of a slice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

# Values that a pass holds at its fullest, per pixel and channel of the first block (measured on a CPU: 3.9 to 4.8 on
# 1024 x 1024 pixels and more), and besides them per class.
_VALUES_PER_CHANNEL = 6
_FLOATS_PER_CLASS = 8


def bytes_per_pixel(*, width: int, classes: int, precision: str) -> float:
    """What a pass through a U-Net takes per pixel, of `width` channels in its first block."""
    size = 2 if precision in ("bf16", "fp16") else 4
    return _VALUES_PER_CHANNEL * width * size + _FLOATS_PER_CLASS * classes * 4


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take: of its GPU, or of the host and of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return min(_limits(), default=4 * 2.0**30)


def _limits() -> Iterator[float]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            # What the last slice took is kept for the next one.
            yield float(line.split()[1]) * 1024 + _resident_bytes()
    for line in _lines(Path("/proc/self/cgroup")):
        group = line.split(":", 2)[-1].lstrip("/")
        # The group itself and those that it is in; Slurm sets its limit on the job's or the step's.
        for folder in (Path("/sys/fs/cgroup", group), *Path("/sys/fs/cgroup", group).parents):
            for text in _lines(folder / "memory.max"):
                if text.strip().isdigit():
                    yield float(text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _resident_bytes() -> int:
    words = " ".join(_lines(Path("/proc/self/statm"))).split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0
