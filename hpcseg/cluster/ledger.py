"""submissions.jsonl: which job was handed out for which cells, and the lock under which it grows.

    {"event": "announced", "token": T, "stage": S, "cells": [...]}     just before sbatch, which gets T as its comment
    {"event": "submitted", "token": T, "stage": S, "cells": [...], "job": "123", "user": U}      task i is cells[i]
    {"event": "withdrawn", "token": T}                                 an announcement whose answer was lost, tidied up
    {"event": "started", "stage": S, "cells": [CELL], "job": "4711", "host": H}                  on this machine
    {"event": "cancelled", "cells": [...]}                             by the user, so not to be tried again unasked

Jobs are looked up by these lines, so a state needs neither a database nor a process that stays alive.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hpcseg.errors import SchedulerError
from hpcseg.runs.gate import claim
from hpcseg.runs.provenance import command_line
from hpcseg.runs.record import RunFolder, append_event, check_types, read_all_lines

_SECONDS_FOR_LOCK = 120.0
_MOST_LINES = 10
_TAG = "hpcseg-"
# What a line of each kind must have.
_KEYS: Mapping[object, Mapping[str, type]] = {
    "announced": {"token": str, "stage": str, "cells": list},
    "submitted": {"stage": str, "cells": list, "job": str},
    "withdrawn": {"token": str},
    "started": {"stage": str, "cells": list, "job": str, "host": str},
    "cancelled": {"cells": list},
}


@dataclass(frozen=True)
class Booked:
    """The job that was handed out last for one stage of one cell."""

    job_id: str
    """As squeue shows it ("123", "123_4"); of a local job the process id."""
    host: str | None
    """Of a local job; None: Slurm has it."""
    cancelled: bool
    """The user has cancelled it."""


@dataclass(frozen=True)
class Ledger:
    """What submissions.jsonl says."""

    jobs: Mapping[tuple[str, str], Booked]
    """By (cell id, stage)."""
    owners: Mapping[str, frozenset[str]]
    """Cells of every job that ever was, by the job's id, and of an array also by the array's."""
    tries: Mapping[tuple[str, str], int]
    """How many jobs were handed out for (cell id, stage)."""
    reports: tuple[str, ...]
    """Ids of the report jobs."""
    users: tuple[str, ...]
    """Who has submitted."""
    unanswered: tuple[str, ...]
    """Tokens of announcements of which it is not known whether sbatch took them."""
    last_without_slurm: bool
    """How cells were handed out last: on a machine, and not to Slurm."""
    tokens: Mapping[str, str | None]
    """The job that was handed out under a token, "" where its line cannot be used; None: nothing came of it so far."""
    unusable: tuple[int, ...]
    """Numbers of the lines that cannot be used, from 1."""

    @property
    def note(self) -> str:
        """What is to be said of those lines; empty where there are none."""
        if not self.unusable:
            return ""
        lines = ", ".join(map(str, self.unusable[:_MOST_LINES])) + (", ..." if self.unusable[_MOST_LINES:] else "")
        return f"submissions.jsonl has lines that cannot be used and were left out: {lines}."

    def slurm_jobs(self) -> dict[tuple[str, str], str]:
        """Ids of the jobs that Slurm has, by (cell id, stage)."""
        return {key: booked.job_id for key, booked in self.jobs.items() if booked.host is None}


def read(run: RunFolder) -> Ledger:
    """The ledger of a run; empty where nothing was handed out yet. Lines that cannot be used are left out."""
    jobs: dict[tuple[str, str], Booked] = {}
    owners: dict[str, frozenset[str]] = {}
    tries: Counter[tuple[str, str]] = Counter()
    reports, users = [], [getpass.getuser()]
    announced: dict[str, tuple[str, list[str]]] = {}
    tokens: dict[str, str | None] = {}
    unusable = []
    without_slurm = False
    for number, line in enumerate(read_all_lines(run.submissions_file), start=1):
        token: Any = line.get("token") if line else None
        try:
            line = _checked(line, announced)
        except ValueError:
            unusable.append(number)
            if isinstance(token, str):
                # Its job may be in the queue: not to be taken back, nor to be submitted again.
                announced.pop(token, None)
                tokens[token] = ""
            continue
        event = line["event"]
        if event == "announced":
            announced[line["token"]] = line["stage"], line["cells"]
            tokens[token] = None
        elif event == "withdrawn":
            # A full disk may have lost the announcement.
            announced.pop(token, None)
            tokens[token] = None
        elif event == "cancelled":
            unwanted = set(line["cells"])
            for key, booked in jobs.items():
                if key[0] in unwanted:
                    jobs[key] = Booked(booked.job_id, booked.host, cancelled=True)
        else:
            if token is not None:
                announced.pop(token, None)
                tokens[token] = line["job"]
            if line.get("user") not in (None, *users):
                users.append(line["user"])
            if line["stage"] == "report":
                reports.append(line["job"])
                continue
            without_slurm = event == "started"
            owners[line["job"]] = frozenset(line["cells"])
            for job_id, cell_id in zip(task_ids(line["job"], len(line["cells"])), line["cells"], strict=True):
                jobs[cell_id, line["stage"]] = Booked(job_id, line.get("host"), cancelled=False)
                tries[cell_id, line["stage"]] += 1
                owners[job_id] = frozenset([cell_id])
    return Ledger(
        *(jobs, owners, tries, tuple(reports), tuple(users)),
        *(tuple(announced), without_slurm, tokens, tuple(unusable)),
    )


def _checked(line: dict[str, Any] | None, announced: Mapping[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """The same line; raises ValueError where it is none that a command has written."""
    event = line.get("event") if line else None
    if line is None or not isinstance(event, str) or event not in _KEYS:
        raise ValueError("it is of no event")
    check_types(line, _KEYS[event])
    if not all(isinstance(cell, str) for cell in line.get("cells", ())):
        raise ValueError("its cells have no ids")
    for key in ("token", "user", "host"):
        if not isinstance(line.get(key, ""), str):
            raise ValueError(f"its {key} is no text")
    # What carries the token of an announcement is cancelled, and a job without a comment has "(null)".
    if event == "announced" and not line["token"].startswith(_TAG):
        raise ValueError("its token is none of ours")
    if event in ("submitted", "started"):
        if not re.fullmatch(r"[0-9]+", line["job"]):
            raise ValueError("its job has no number")
        said = line["stage"], line["cells"]
        # A report is for no cell, and an array has a task for each of its cells.
        if (line["stage"] == "report") == bool(line["cells"]):
            raise ValueError("its cells are not those of its stage")
        if announced.get(line.get("token", ""), said) != said:
            raise ValueError("it was announced otherwise")
    return line


def task_ids(base: str, tasks: int) -> list[str]:
    """Ids of an array's tasks as squeue shows them; an array of one task is a plain job."""
    return [f"{base}_{task}" for task in range(tasks)] if tasks > 1 else [base]


def tag(run: RunFolder) -> str:
    """How the tokens of a run begin: by it squeue tells its jobs also where the ledger does not."""
    return f"{_TAG}{hashlib.sha256(str(run.path.resolve()).encode(errors='surrogateescape')).hexdigest()[:8]}-"


def announce(run: RunFolder, stage: str, cells: Sequence[str]) -> str:
    """Write down that these cells are about to be submitted; returns the token that the job must carry."""
    token = f"{tag(run)}{uuid.uuid4().hex[:12]}"
    append_event(run.submissions_file, "announced", token=token, stage=stage, cells=list(cells))
    return token


def book(run: RunFolder, token: str, stage: str, cells: Sequence[str], base: str) -> None:
    """Write down that Slurm took these cells as the tasks of one array, in this order.

    Args:
        run: of the cells.
        token: from `announce`.
        stage: "train", "evaluate" or "report".
        cells: their ids; none for a report.
        base: id of the job, without a task.
    """
    append_event(
        run.submissions_file,
        "submitted",
        token=token,
        stage=stage,
        cells=list(cells),
        job=base,
        user=getpass.getuser(),
        command=command_line(),
    )


def withdraw(run: RunFolder, token: str) -> None:
    """Write down that an announcement has come to nothing."""
    append_event(run.submissions_file, "withdrawn", token=token)


def book_local(run: RunFolder, stage: str, cell: str, job_id: str) -> None:
    """Write down that a cell was started on this machine."""
    append_event(
        run.submissions_file,
        "started",
        stage=stage,
        cells=[cell],
        job=job_id,
        host=socket.gethostname(),
        command=command_line(),
    )


def book_cancelled(run: RunFolder, cells: Sequence[str]) -> None:
    """Write down that the user does not want these cells any more."""
    append_event(run.submissions_file, "cancelled", cells=list(cells), command=command_line())


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run's lock, so that two `hpcseg grid` at one moment submit one after the other.

    The kernel's lock, which ends with its process and works between the nodes of NFS and Lustre; where a file system
    has none, a file that says who holds it, on which host.

    Raises:
        ConfigError: the run is not the user's own.
        SchedulerError: another process holds it for two minutes.
    """
    claim(run)
    lock: BaseFileLock = FileLock(run.lock_file, mode=0o644, timeout=_SECONDS_FOR_LOCK)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout):
                raise
            # NFS whose lock daemon is missing; a system call that is missing is filelock's own affair.
            lock = SoftFileLock(run.lock_file.with_suffix(".held"), mode=0o644, timeout=_SECONDS_FOR_LOCK)
            lock.acquire()
    except Timeout:
        raise SchedulerError(
            f"Another `hpcseg` has been submitting to {run.path} for {_SECONDS_FOR_LOCK / 60:.0f} minutes. Wait for "
            f"it, or end it, then try again. If there is none, on no host, delete {lock.lock_file}."
        ) from None
    try:
        yield
    finally:
        lock.release()
