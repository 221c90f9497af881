"""The lines of submissions.jsonl as types.

    {"event": "announced", "token": T, "stage": S, "cells": [...]}     just before sbatch, which gets T as its comment
    {"event": "submitted", "token": T, "stage": S, "cells": [...], "job": "123", "user": U}      task i is cells[i]
    {"event": "announced", "token": T, ..., "template": H}             the same for a job by a user's template
    {"event": "submitted", "token": T, ..., "template": H, "job": "123"}   and the number that it got there
    {"event": "withdrawn", "token": T}                                 its answer was lost, or the job was taken back
    {"event": "started", "stage": S, "cells": [TASK], "job": "4711", "host": H}                  on this machine
    {"event": "cancelled", "cells": [...]}                             by the user, so not to be tried again unasked

Announced and submitted lines have "run" as well, the path of the folder then (`ledger_place`).

A task is the id of its cell, or a list of ids where it takes several cells one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from hpcseg.runs.schema import Record, as_record
from hpcseg.runs.told import time_of

TAG = "hpcseg-"
"""How tokens begin."""
Task = str | list[str]
"""The id of a task's cell, or the ids of its cells."""


class _Line(Record, frozen=True, kw_only=True):
    """A line of the file, but for its event.

    A job counts whatever is wrong with the time and the command of its line, which are there to be read by people.
    """

    time: Any = UNSET

    @property
    def seconds(self) -> float:
        """When it was written, in UTC seconds; 0 where it does not say so."""
        return time_of({"time": self.time}) or 0.0


class _Handed(_Line, frozen=True, kw_only=True):
    """What the lines of a job have in common; each kind of them has some of the optional ones."""

    token: str | UnsetType = UNSET
    stage: str
    cells: list[Task]
    job: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    host: str | UnsetType = UNSET
    run: str | UnsetType = UNSET
    command: Any = UNSET
    template: str | UnsetType = UNSET

    @property
    def tasks(self) -> list[tuple[str, ...]]:
        """The cells of each task."""
        return [(task,) if isinstance(task, str) else tuple(task) for task in self.cells]


class Announced(_Handed, frozen=True, kw_only=True):
    """A job that is about to be submitted."""

    token: str


class Submitted(_Handed, frozen=True, kw_only=True):
    """A job that a scheduler took."""

    job: str


class Started(_Handed, frozen=True, kw_only=True):
    """A job on this machine."""

    job: str
    host: str


class Withdrawn(_Line, frozen=True, kw_only=True):
    """An announcement that came to nothing."""

    token: str


class Cancelled(_Line, frozen=True, kw_only=True):
    """Cells that the user does not want any more."""

    cells: list[str]
    command: Any = UNSET


Line = Announced | Submitted | Started | Withdrawn | Cancelled
_KINDS: Mapping[object, type[Line]] = {
    kind.__name__.lower(): kind for kind in (Announced, Submitted, Started, Withdrawn, Cancelled)
}


def read_line(content: Mapping[str, Any] | None, announced: Mapping[str, Announced]) -> Line:
    """A line; raises ValueError where it is none that a command has written."""
    event = content.get("event") if content else None
    if content is None or not isinstance(event, str) or event not in _KINDS:
        raise ValueError("it is of no event")
    line = as_record(_KINDS[event], content)
    if "template" in content and not _is_by_a_template(line):
        raise ValueError("it is of no job by a template")
    if not isinstance(line, _Handed):
        return line
    if [] in line.cells:
        raise ValueError("its cells have no ids")
    # What carries the token of an announcement is cancelled, and a job without a comment has "(null)".
    if isinstance(line, Announced) and not line.token.startswith(TAG):
        raise ValueError("its token is none of ours")
    if isinstance(line, Submitted | Started):
        if not re.fullmatch(r"[0-9]+", line.job):
            raise ValueError("its job has no number")
        # A report is for no cell, and an array has a task for each of its cells.
        if (line.stage == "report") == bool(line.cells):
            raise ValueError("its cells are not those of its stage")
        said = announced.get(line.token or "", line)
        if (said.stage, said.cells) != (line.stage, line.cells):
            raise ValueError("it was announced otherwise")
    return line


def _is_by_a_template(line: Line) -> bool:
    """Whether a line with a template is one that a command has written: of one task, under a token of ours."""
    return (
        isinstance(line, Announced | Submitted)
        and (line.token or "").startswith(TAG)
        and line.stage != "report"
        and len(line.cells) == 1
    )
