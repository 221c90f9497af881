"""submissions.jsonl: which job was handed out for which cells, and the lock under which it grows.

    {"event": "announced", "token": T, "stage": S, "cells": [...]}     just before sbatch, which gets T as its comment
    {"event": "submitted", "token": T, "stage": S, "cells": [...], "job": "123", "user": U}      task i is cells[i]
    {"event": "announced", "token": T, ..., "template": H}             the same for a job by a user's template
    {"event": "submitted", "token": T, ..., "template": H, "job": "123"}   and the number that it got there
    {"event": "withdrawn", "token": T}                                 its answer was lost, or the job was taken back
    {"event": "started", "stage": S, "cells": [TASK], "job": "4711", "host": H}                  on this machine
    {"event": "cancelled", "cells": [...]}                             by the user, so not to be tried again unasked

A task is the id of its cell, or a list of ids where it takes several cells one after the other.

Jobs are looked up by these lines, so a state needs neither a database nor a process that stays alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hpcseg.errors import SchedulerError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import claim
from hpcseg.runs.provenance import command_line
from hpcseg.runs.record import append_event, check_types, read_all_lines
from hpcseg.runs.told import time_of

_SECONDS_FOR_LOCK = 120.0
_MOST_LINES = 10
_TAG = "hpcseg-"
Way = Literal["Slurm", "here", "template"]
"""How cells are handed out: to Slurm, on this machine, or by a user's template for another scheduler."""
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
    """The job that was handed out last for a cell."""

    job_id: str
    """As squeue shows it ("123", "123_4"); of a local job the process id; of one by a user's template its token."""
    host: str | None
    """Of a local job."""
    time: float
    """When it was handed out, in UTC seconds; 0 where the line does not say."""
    cells: tuple[str, ...]
    """All that it is for, in the order in which it takes them."""
    cancelled: bool
    """The user has cancelled this cell of it."""
    number: str | None = None
    """Of a job by a user's template, what its scheduler calls it; empty where that is not known. None: another job."""

    @property
    def in_slurm(self) -> bool:
        """Whether Slurm has it, and can be asked."""
        return self.host is None and self.number is None

    @property
    def shown(self) -> str:
        """What a person calls it."""
        return self.job_id if self.number is None else self.number or f"named {short_name(self.job_id)}"

    def has_passed(self, failed_at: float) -> bool:
        """Whether it has gone on to its other cells after this one had failed."""
        return len(self.cells) > 1 and failed_at >= self.time > 0


@dataclass(frozen=True)
class Ledger:
    """What submissions.jsonl says."""

    jobs: Mapping[str, Booked]
    """By cell id."""
    owners: Mapping[str, frozenset[str]]
    """Cells of every job that ever was, by the job's id, and of an array also by the array's."""
    tries: Mapping[str, int]
    """How many jobs were handed out for each cell."""
    reports: tuple[str, ...]
    """Ids of the report jobs."""
    users: tuple[str, ...]
    """Who has submitted."""
    others: frozenset[str]
    """Ids of the jobs that somebody else than the caller has submitted."""
    unanswered: Mapping[str, frozenset[str]]
    """Tokens of announcements of which it is not known whether sbatch took them, and for which cells they were."""
    last_way: Way
    """How cells were handed out last; "Slurm" where none were."""
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

    def slurm_jobs(self) -> dict[str, str]:
        """Ids of the jobs that Slurm has, by cell id."""
        return {cell: booked.job_id for cell, booked in self.jobs.items() if booked.in_slurm}


def read(run: RunFolder) -> Ledger:
    """The ledger of a run; empty where nothing was handed out yet. Lines that cannot be used are left out."""
    jobs: dict[str, Booked] = {}
    owners: dict[str, frozenset[str]] = {}
    tries: Counter[str] = Counter()
    reports, users, others = [], [getpass.getuser()], set[str]()
    announced: dict[str, tuple[str, list[Any]]] = {}
    tokens: dict[str, str | None] = {}
    unusable = []
    way: Way = "Slurm"
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
        by_template = "template" in line
        if event == "announced" and not by_template:
            announced[line["token"]] = line["stage"], line["cells"]
            tokens[token] = None
        elif event == "withdrawn":
            # A full disk may have lost the announcement. What was taken and then taken back was never handed out.
            announced.pop(token, None)
            for cell in owners.get(tokens.get(token) or "", ()):
                jobs.pop(cell, None)
                tries[cell] -= 1
            tokens[token] = None
        elif event == "cancelled":
            for cell in line["cells"]:
                if cell in jobs:
                    jobs[cell] = dataclasses.replace(jobs[cell], cancelled=True)
        else:
            if token is not None:
                announced.pop(token, None)
                tokens[token] = token if by_template else line["job"]
            if line.get("user") not in (None, *users):
                users.append(line["user"])
            if line["stage"] == "report":
                reports.append(line["job"])
                continue
            way = "template" if by_template else "here" if event == "started" else "Slurm"
            tasks = [tuple([task] if isinstance(task, str) else task) for task in line["cells"]]
            base = token if by_template else line["job"]
            again = by_template and base in owners
            owners[base] = frozenset(_cells_of(line["cells"]))
            for job_id, cells in zip(task_ids(base, len(tasks)), tasks, strict=True):
                owners[job_id] = frozenset(cells)
                if line.get("user", users[0]) != users[0]:
                    others.add(job_id)
                for cell in cells:
                    if again and cell in jobs and jobs[cell].job_id == job_id:
                        # It may have begun before its number was written down.
                        jobs[cell] = dataclasses.replace(jobs[cell], number=line.get("job", ""))
                        continue
                    called = line.get("job", "") if by_template else None
                    when = time_of(line) or 0.0
                    jobs[cell] = Booked(job_id, line.get("host"), when, cells, cancelled=False, number=called)
                    # An earlier hpcseg had jobs of their own for evaluations.
                    tries[cell] += line["stage"] != "evaluate"
    return Ledger(
        *(jobs, owners, tries, tuple(reports), tuple(users), frozenset(others)),
        {token: frozenset(_cells_of(tasks)) for token, (_, tasks) in announced.items()},
        *(way, tokens, tuple(unusable)),
    )


def _cells_of(tasks: Sequence[str | Sequence[str]]) -> list[str]:
    return [cell for task in tasks for cell in ([task] if isinstance(task, str) else task)]


def _checked(line: dict[str, Any] | None, announced: Mapping[str, tuple[str, list[Any]]]) -> dict[str, Any]:
    """The same line; raises ValueError where it is none that a command has written."""
    event = line.get("event") if line else None
    if line is None or not isinstance(event, str) or event not in _KEYS:
        raise ValueError("it is of no event")
    check_types(line, _KEYS[event])
    for task in line.get("cells", ()):
        ids = task if isinstance(task, list) and event != "cancelled" else [task]
        if not ids or not all(isinstance(cell, str) for cell in ids):
            raise ValueError("its cells have no ids")
    for key in ("token", "user", "host", "template"):
        if not isinstance(line.get(key, ""), str):
            raise ValueError(f"its {key} is no text")
    # What carries the token of an announcement is cancelled, and a job without a comment has "(null)".
    if event == "announced" and not line["token"].startswith(_TAG):
        raise ValueError("its token is none of ours")
    if "template" in line and not (
        event in ("announced", "submitted")
        and line["stage"] != "report"
        and len(line["cells"]) == 1
        and line.get("token", "").startswith(_TAG)
    ):
        raise ValueError("it is of no job by a template")
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


def new_token(run: RunFolder) -> str:
    """A token for a job of a run."""
    return f"{tag(run)}{uuid.uuid4().hex[:12]}"


def short_name(token: str) -> str:
    """A job's name that tells it from the others in a queue: 15 characters, which is all that some schedulers allow."""
    return f"{_TAG}{token.rpartition('-')[2][:8]}"


def announce(run: RunFolder, stage: str, tasks: Sequence[Sequence[str]], token: str | None = None, **more: str) -> str:
    """Write down that these cells are about to be submitted; returns the token that the job must carry.

    Args:
        run: of the cells.
        stage: as of `book`.
        tasks: as of `book`.
        token: of the job; None: a new one.
        more: "template", of a job by one its SHA-256.
    """
    token = token or new_token(run)
    append_event(run.submissions_file, "announced", token=token, stage=stage, cells=_as_written(tasks), **more)
    return token


def _as_written(tasks: Sequence[Sequence[str]]) -> list[Any]:
    """A task of one cell as its id, as it always was; of several a list of them."""
    return [cells[0] if len(cells) == 1 else list(cells) for cells in tasks]


def book(run: RunFolder, token: str, stage: str, tasks: Sequence[Sequence[str]], base: str, **more: str) -> None:
    """Write down that Slurm took these cells as the tasks of one array, in this order.

    Args:
        run: of the cells.
        token: from `announce`.
        stage: "cells" or "report"; of a prediction those of its own.
        tasks: the ids of each task's cells; none for a report.
        base: id of the job, without a task; by a template its number.
        more: as of `announce`.
    """
    append_event(
        run.submissions_file,
        "submitted",
        token=token,
        stage=stage,
        cells=_as_written(tasks),
        job=base,
        user=getpass.getuser(),
        command=command_line(),
        **more,
    )


def withdraw(run: RunFolder, token: str) -> None:
    """Write down that an announcement has come to nothing."""
    append_event(run.submissions_file, "withdrawn", token=token)


def book_local(run: RunFolder, cells: Sequence[str], job_id: str) -> None:
    """Write down that a job for these cells, in this order, was started on this machine."""
    append_event(
        run.submissions_file,
        "started",
        stage="cells",
        cells=_as_written([cells]),
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
