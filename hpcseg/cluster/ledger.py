"""submissions.jsonl: which job was handed out for which cells, and the lock under which it grows.

Its lines are in `ledger_lines`. Jobs are looked up by them, so a state needs neither a database nor a process that
stays alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from msgspec import UNSET, UnsetType

from hpcseg.cluster import scheduler
from hpcseg.cluster.ledger_lines import TAG, Announced, Cancelled, Line, Started, Submitted, Task, Withdrawn, read_line
from hpcseg.cluster.ledger_place import path_of, tag, teller
from hpcseg.cluster.remembered import Remembered
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import SchedulerError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import claim
from hpcseg.runs.provenance import command_line
from hpcseg.runs.record import append_event, read_all_lines

_SECONDS_FOR_LOCK = 120.0
_MOST_LINES = 10
Way = Literal["Slurm", "here", "template"]
"""How cells are handed out: to Slurm, on this machine, or by a user's template for another scheduler."""


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
    cancelled: frozenset[str] = frozenset()
    """Those of them that the user has cancelled."""
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


@dataclass(frozen=True)
class Ledger:
    """What submissions.jsonl says."""

    jobs: Mapping[str, Booked]
    """The last of each cell, by its id."""
    handed: tuple[Booked, ...]
    """All that were ever handed out here and not taken back, in this order."""
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
    moved: Mapping[str, str]
    """Ids of jobs that were submitted for this folder, or one of which it is a copy, under a path at which there is no
    run now; with that path, empty where it is not known. They count as this folder's, but nothing here ends them."""
    elsewhere: Mapping[str, str]
    """Ids of jobs of another folder, of which this one is a copy, with its path: no jobs of these cells."""
    unusable: tuple[int, ...]
    """Numbers of the lines that cannot be used, from 1."""
    last_command: str
    """With which cells were handed out last, on one line; empty where that is not known."""

    @property
    def note(self) -> str:
        """What is to be said of those lines; empty where there are none."""
        if not self.unusable:
            return ""
        lines = ", ".join(map(str, self.unusable[:_MOST_LINES])) + (", ..." if self.unusable[_MOST_LINES:] else "")
        return f"submissions.jsonl has lines that cannot be used and were left out: {lines}."

    def jobs_of(self, cell: str) -> Sequence[Booked]:
        """All of a cell, the last first."""
        return self._by_cell.get(cell, ())

    @functools.cached_property
    def _by_cell(self) -> Mapping[str, Sequence[Booked]]:
        found: dict[str, list[Booked]] = {}
        for job in reversed(self.handed):
            for cell in job.cells:
                found.setdefault(cell, []).append(job)
        return found

    def slurm_jobs(self) -> dict[str, str]:
        """Ids of the jobs that Slurm has, by cell id."""
        return {cell: booked.job_id for cell, booked in self.jobs.items() if booked.in_slurm}

    def ask(self, job_ids: Iterable[str], slurm: Remembered | None = None) -> dict[str, JobState] | None:
        """What Slurm says of jobs of this ledger, as `scheduler.ask`.

        A job that has come to a number since, as where a cluster counts from 1 again, is another, and so absent.
        """
        states = (slurm or scheduler).ask(job_ids, self.users, self.others)
        return states and {job_id: job for job_id, job in states.items() if not self._is_another(job_id, job)}

    def _is_another(self, job_id: str, job: JobState) -> bool:
        if job.comment.startswith(TAG):
            return self.tokens.get(job.comment) != job_id.partition("_")[0]
        # A submit filter may have put its own comment in the place of ours.
        return job.script != "" and Path(job.script).parent.name != RunFolder(Path()).logs.name


def read(run: RunFolder) -> Ledger:
    """The ledger of a run; empty where nothing was handed out yet. Lines that cannot be used are left out."""
    handed: dict[int, Booked] = {}
    # Of a scheduler's job, where those of its tasks stand there.
    places: dict[str, range] = {}
    owners: dict[str, frozenset[str]] = {}
    tries: Counter[str] = Counter()
    reports, users, others = [], [scheduler.user()], set[str]()
    announced: dict[str, Announced] = {}
    tokens: dict[str, str | None] = {}
    moved: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    whose = teller(run)
    unusable = []
    way: Way = "Slurm"
    command = ""
    for number, content in enumerate(read_all_lines(run.submissions_file), start=1):
        try:
            line = read_line(content, announced)
        except ValueError:
            unusable.append(number)
            token = content.get("token") if content else None
            if isinstance(token, str):
                # Its job may be in the queue: not to be taken back, nor to be submitted again.
                announced.pop(token, None)
                tokens[token] = ""
            continue
        match line:
            case Announced(template=msgspec.UNSET):
                of = whose(line.token, line.run or "")
                if of == "another's" or (of == "moved" and not line.run):
                    # Whoever takes back what was announced would end a job that may be another folder's.
                    continue
                announced[line.token] = line
                tokens[line.token] = None
            case Withdrawn():
                # A full disk may have lost the announcement. What was taken and then taken back was never handed out.
                announced.pop(line.token, None)
                for place in places.pop(tokens.get(line.token) or "", ()):
                    tries.subtract(handed.pop(place).cells)
                tokens[line.token] = None
            case Cancelled():
                unwanted = frozenset(line.cells)
                for place, job in handed.items():
                    if given_up := unwanted.intersection(job.cells):
                        handed[place] = dataclasses.replace(job, cancelled=job.cancelled | given_up)
            case Announced() | Submitted() | Started():
                by_template = line.template is not UNSET
                base = str(line.token if by_template else line.job)
                if line.token:
                    announced.pop(line.token, None)
                    tokens[line.token] = base
                of, path = whose(line.token or "", line.run or ""), line.run or ""
                ids = task_ids(base, len(line.tasks))
                if of != "own":
                    (moved if of == "moved" else elsewhere).update(dict.fromkeys([base, *ids], path))
                if line.user and line.user not in users:
                    users.append(line.user)
                if line.stage == "report":
                    if of != "another's":
                        reports.append(base)
                    continue
                way = "template" if by_template else "here" if isinstance(line, Started) else "Slurm"
                if not isinstance(line, Announced):
                    command = " ".join(line.command.split()) if of == "own" and isinstance(line.command, str) else ""
                called = (line.job or "") if by_template else None
                if by_template and base in owners:
                    # It may have begun before its number was written down.
                    for place in places.get(base, ()):
                        handed[place] = dataclasses.replace(handed[place], number=called)
                    continue
                owners[base] = frozenset(itertools.chain(*line.tasks))
                first = 1 + next(reversed(handed), 0)
                if of != "another's" and not isinstance(line, Started):
                    places[base] = range(first, first + len(ids))
                for place, job_id, cells in zip(itertools.count(first), ids, line.tasks):
                    owners[job_id] = frozenset(cells)
                    if of == "another's":
                        continue
                    if line.user and line.user != users[0]:
                        others.add(job_id)
                    handed[place] = Booked(job_id, line.host or None, line.seconds, cells, number=called)
                    # An earlier hpcseg had jobs of their own for evaluations.
                    tries.update(() if line.stage == "evaluate" else cells)
    jobs = {cell: job for job in handed.values() for cell in job.cells}
    return Ledger(
        *(jobs, tuple(handed.values()), owners, tries, tuple(reports), tuple(users), frozenset(others)),
        {token: frozenset(itertools.chain(*line.tasks)) for token, line in announced.items()},
        *(way, tokens, moved, elsewhere, tuple(unusable), command),
    )


def task_ids(base: str, tasks: int) -> list[str]:
    """Ids of an array's tasks as squeue shows them; an array of one task is a plain job."""
    return [f"{base}_{task}" for task in range(tasks)] if tasks > 1 else [base]


def new_token(run: RunFolder) -> str:
    """A token for a job of a run."""
    return f"{tag(run)}{uuid.uuid4().hex[:12]}"


def short_name(token: str) -> str:
    """A job's name that tells it from the others in a queue: 15 characters, which is all that some schedulers allow."""
    return f"{TAG}{token.rpartition('-')[2][:8]}"


def announce(
    run: RunFolder,
    stage: str,
    tasks: Sequence[Sequence[str]],
    token: str | None = None,
    *,
    template: str | UnsetType = UNSET,
) -> str:
    """Write down that these cells are about to be submitted; returns the token that the job must carry.

    Args:
        run: of the cells.
        stage: as of `book`.
        tasks: as of `book`.
        token: of the job; None: a new one.
        template: of a job by one, its SHA-256.
    """
    token = token or new_token(run)
    line = Announced(token=token, stage=stage, cells=_as_written(tasks), run=path_of(run), template=template)
    _append(run, line)
    return token


def _append(run: RunFolder, line: Line) -> None:
    append_event(run.submissions_file, type(line).__name__.lower(), **line.as_dict())


def _as_written(tasks: Sequence[Sequence[str]]) -> list[Task]:
    """A task of one cell as its id, as it always was; of several a list of them."""
    return [cells[0] if len(cells) == 1 else list(cells) for cells in tasks]


def book(
    run: RunFolder,
    token: str,
    stage: str,
    tasks: Sequence[Sequence[str]],
    base: str,
    *,
    template: str | UnsetType = UNSET,
) -> None:
    """Write down that Slurm took these cells as the tasks of one array, in this order.

    Args:
        run: of the cells.
        token: from `announce`.
        stage: "cells" or "report"; of a prediction those of its own.
        tasks: the ids of each task's cells; none for a report.
        base: id of the job, without a task; by a template its number.
        template: as of `announce`.
    """
    line = Submitted(
        token=token,
        stage=stage,
        cells=_as_written(tasks),
        job=base,
        user=scheduler.user(),
        run=path_of(run),
        command=command_line(),
        template=template,
    )
    _append(run, line)


def withdraw(run: RunFolder, token: str) -> None:
    """Write down that an announcement has come to nothing."""
    _append(run, Withdrawn(token=token))


def book_local(run: RunFolder, cells: Sequence[str], job_id: str) -> None:
    """Write down that a job for these cells, in this order, was started on this machine."""
    host, task = socket.gethostname(), _as_written([cells])
    _append(run, Started(stage="cells", cells=task, job=job_id, host=host, command=command_line()))


def book_cancelled(run: RunFolder, cells: Sequence[str]) -> None:
    """Write down that the user does not want these cells any more."""
    _append(run, Cancelled(cells=list(cells), command=command_line()))


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
