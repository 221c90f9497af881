"""Where a job's logs are, and their last lines. submitit writes one file per rank and appends after a requeue."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_SECONDS_BETWEEN_LOOKS = 0.5
# What submitit writes when a rank begins.
_BEGINNING = "Starting with JobEnvironment("


def rank_logs(folder: Path, job_id: str) -> dict[int, Path]:
    """The log files of a job by rank, in order; empty where it has written none yet."""
    pattern = re.compile(rf"{re.escape(job_id)}_(\d+)_log\.out")
    found = {
        int(match[1]): path for path in folder.glob(f"{job_id}_*_log.out") if (match := pattern.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def tail(path: Path) -> str:
    """The last 64 KiB of a log, from the beginning of a line; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if size <= _TAIL_BYTES else text.partition("\n")[2]


def last_attempt(path: Path) -> str:
    """The tail of a log since its rank began last."""
    return tail(path).rpartition(_BEGINNING)[2]


def follow(path: Path, goes_on: Callable[[], bool]) -> Iterator[str]:
    """A log's lines, and those that come as long as `goes_on` says so."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            elif goes_on():
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            else:
                return
