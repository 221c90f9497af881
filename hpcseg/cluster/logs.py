"""Where a job's logs are, and which of their lines are whose.

submitit writes one file per rank and appends after a requeue. A job that takes several cells says where each begins
and how it ends.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hpcseg.files import open_regular

# Of a log: a job of many cells and many starts has hardly ever more.
_MOST_BYTES = 8 * 1024**2
_SECONDS_BETWEEN_LOOKS = 0.5
# What submitit writes when a rank begins.
_BEGINNING = "Starting with JobEnvironment("
_ROUTINE = "submitit INFO ("
# So does it of a signal that Slurm, or whoever stops a local cell, sends beside the one that it waits for.
_PASSED_ON = "Bypassing signal"
_MARK = re.compile(r"^== (?P<cell>[A-Za-z0-9._-]+): (?P<what>\w+)$")
# A job of Slurm's or of this machine has a number, and one by a user's template the token of its announcement.
_NAME = re.compile(r"(\d+(?:_\d+)?|hpcseg-[0-9a-f]{8}-[0-9a-f]{12})_(\d+)_log\.out")

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


def mark(cell: str, what: str) -> str:
    """The line that says which stage of a cell begins, or as which state it has ended."""
    return f"== {cell}: {what}"


def read_mark(line: str) -> tuple[str, str] | None:
    """Of `mark`'s line the cell and what it says; None where it is another line."""
    found = _MARK.match(line.rstrip("\n"))
    return (found["cell"], found["what"]) if found else None


def _tail(path: Path) -> str:
    """The last 8 MiB of a log, from the beginning of a line; empty where it cannot be read."""
    try:
        with open_regular(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MOST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if size <= _MOST_BYTES else text.partition("\n")[2]


class Attempt:
    """What a rank has written, since it began last or ever.

    Args:
        text: of it.
    """

    def __init__(self, text: str) -> None:
        self.marks: list[tuple[str, str]] = []
        """As `read_mark` has them."""
        self._lines: dict[str | None, list[str]] = {}
        cell = None
        for line in text.splitlines():
            if found := read_mark(line):
                self.marks.append(found)
                cell = found[0]
            self._lines.setdefault(cell, []).append(line)

    def lines(self, cell: str) -> list[str]:
        """Those of a cell and those before any cell has begun."""
        return [*self._lines.get(None, ()), *self._lines.get(cell, ())]


def last_attempt(path: Path) -> Attempt:
    """The last attempt in a log; one without a line where it cannot be read."""
    try:
        of = path.stat()
    except OSError:
        return Attempt("")
    return _attempt(path, of.st_size, of.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _attempt(path: Path, size: int, changed: int) -> Attempt:
    """Of a job of many cells it is asked for each of them, one after the other."""
    return Attempt(_tail(path).rpartition(_BEGINNING)[2])


def tail(path: Path, cell: str) -> list[str]:
    """A cell's lines in a log; none where it cannot be read."""
    return Attempt(_tail(path)).lines(cell)


def spoken(lines: Iterable[str]) -> list[str]:
    """Lines of a log without those that every job has."""
    return [line for line in lines if not (line.startswith(_ROUTINE) or _PASSED_ON in line or read_mark(line))]


def follow(path: Path | None, cell: str, goes_on: Callable[[], bool]) -> Iterator[list[str]]:
    """A cell's lines of a log, and then what has come at every look, perhaps nothing, as long as `goes_on` says so.

    Args:
        path: of the log; None: there is none to look into.
        cell: its id.
        goes_on: asked before every look.
    """
    log = io.TextIOWrapper(open_regular(path, "rb"), "utf-8", "replace") if path else contextlib.nullcontext()
    with log as file:
        alive, own = True, True
        while alive:
            alive, lines = goes_on(), list[str]()
            for line in file or ():
                if found := read_mark(line):
                    own = found[0] == cell
                lines += [line.rstrip("\n")] if own else []
            yield lines
            if alive:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
