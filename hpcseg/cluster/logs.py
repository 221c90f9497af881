"""Where a job's logs are, and their last lines. submitit writes one file per rank and appends after a requeue."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hpcseg.files import open_regular

_TAIL_BYTES = 64 * 1024
_SECONDS_BETWEEN_LOOKS = 0.5
# What submitit writes when a rank begins.
_BEGINNING = "Starting with JobEnvironment("
_ROUTINE = "submitit INFO ("
# So does it of a signal that Slurm, or whoever stops a local cell, sends beside the one that it waits for.
_PASSED_ON = "Bypassing signal"
_NAME = re.compile(r"(\d+(?:_\d+)?)_(\d+)_log\.out")

Logs = Mapping[str, Mapping[int, Path]]
"""Log files by job id and rank."""


def find_logs(folder: Path) -> Logs:
    """All logs in a folder, which is listed once: with ten thousand cells it holds as many files."""
    found: dict[str, dict[int, Path]] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = folder / name
    return {job_id: dict(sorted(ranks.items())) for job_id, ranks in found.items()}


def tail(path: Path) -> str:
    """The last 64 KiB of a log, from the beginning of a line; empty where it cannot be read."""
    try:
        with open_regular(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if size <= _TAIL_BYTES else text.partition("\n")[2]


def last_attempt(path: Path) -> str:
    """The tail of a log since its rank began last."""
    return tail(path).rpartition(_BEGINNING)[2]


def spoken(lines: Iterable[str]) -> list[str]:
    """Lines of a log without those that submitit writes of every job."""
    return [line for line in lines if not line.startswith(_ROUTINE) and _PASSED_ON not in line]


def follow(path: Path | None, goes_on: Callable[[], bool]) -> Iterator[list[str]]:
    """A log's lines, and then what has come at every look, perhaps nothing, as long as `goes_on` says so.

    Args:
        path: of the log; None: there is none to look into.
        goes_on: asked before every look.
    """
    log = io.TextIOWrapper(open_regular(path, "rb"), "utf-8", "replace") if path else contextlib.nullcontext()
    with log as file:
        alive = True
        while alive:
            alive = goes_on()
            yield [line.rstrip("\n") for line in file] if file else []
            if alive:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
