"""What the GPU does while something runs, as nvidia-smi sees it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def gpu_watched(file: Path) -> Iterator[None]:
    """A line per second of what the GPU does meanwhile, and at the end how busy it was on the average."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    query = "--query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm"
    commands = (
        ["nvidia-smi", "dmon", "-s", "pucm", "-d", "1", "-o", "T"],
        # For where dmon is not to be had: no column for memory's bandwidth.
        ["nvidia-smi", query, "--format=csv", "-l", "1"],
    )
    with file.open("w") as lines:
        for command in commands:
            watcher = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                watcher.wait(2)  # one that is not to be had here ends at once
            if watcher.poll() is None:
                break
        try:
            yield
        finally:
            watcher.kill()
            watcher.wait()
    if busy := _busy(file.read_text(errors="replace")):
        print(f"{file.name}: the GPU had work for {sum(busy) / len(busy):.0f} % of {len(busy)} s")


def _busy(dmon: str) -> list[float]:
    """The column `sm` of nvidia-smi dmon: per cent of a second in which there was a kernel, however small."""
    found: list[float] = []
    names: list[str] = []
    for words in (line.split() for line in dmon.splitlines()):
        if words and words[0].startswith("#"):
            names = words if "sm" in words else names
        elif "sm" in names and len(words) == len(names) and words[names.index("sm")].isdigit():
            found.append(float(words[names.index("sm")]))
    return found
