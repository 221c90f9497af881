"""A prediction that Slurm works on: its files and Slurm's word in, a line per part out; and what ends its jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.cancel import refuse_moved
from hpcseg.cluster.failures import CANCELLED, LEFT, diagnose_job
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.logs import Logs, find_logs
from hpcseg.cluster.remembered import Answers
from hpcseg.cluster.scheduler import JobState
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.request import part_of
from hpcseg.predict.schema import Finished
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.state import State

WHOLE = "whole"
"""The volume where one process segments all of it."""
JOIN = "join"
"""The job that follows when all parts have ended."""


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """What is known of a part, or of the job that joins them."""

    part: str
    state: State
    slices: int
    """That it has to write; 0 of the join."""
    written: int
    job_id: str | None
    node: str | None
    note: str
    """Why it waits, or how it failed."""


@dataclass(frozen=True)
class VolumeStatus:
    """A prediction at one moment."""

    folder: OutFolder
    slices: int
    written: int
    parts: tuple[PartStatus, ...]
    """Those of the division that was submitted last and the join; where nothing was submitted, the whole."""
    finished: Finished | None
    """What came out, where all of it is done."""
    command: str
    """That began it; empty where that is not known."""
    ledger: Ledger
    answered: bool
    """Slurm has answered, or was not needed."""
    logs: Logs

    def counts(self) -> dict[State, int]:
        """Number of parts by state, sorted."""
        states = [part.state for part in self.parts]
        return {state: states.count(state) for state in sorted(set(states))}

    @property
    def idle(self) -> bool:
        """Whether nothing of it is known or suspected to run or to wait."""
        return all(state.idle for state in self.counts())


def volume_status(folder: OutFolder, slurm: Answers = scheduler) -> VolumeStatus:
    """Where a prediction stands.

    Args:
        folder: its folder.
        slurm: who is asked about jobs.

    Raises:
        ConfigError: its record is damaged, or of another schema.
        IncompleteError: there is none that can be read, or a line of a journal is damaged.
    """
    record, done = folder.read(), sorted(folder.done())
    finished = record if isinstance(record, Finished) else None
    slices = record.input.slices
    booked = ledger.read(RunFolder(folder.path))
    division = _last_division(booked, slices)
    jobs = {part: booked.jobs[part] for part in division if part in booked.jobs}
    join = Booked(booked.reports[-1], None, 0.0, (), cancelled=False) if booked.reports else None
    wanted = {job.job_id for job in (*jobs.values(), *([join] if join else []))}
    answers = slurm.ask(wanted, booked.users, booked.others) if wanted and not finished else {}
    gone = {one for one in wanted if (job := (answers or {}).get(one)) is None or job.ended}
    endings = slurm.history(gone) if answers is not None and not finished else {}
    told = None if answers is None else {**answers, **endings}
    logs = find_logs(RunFolder(folder.path).logs)
    parts = []
    for number, part in enumerate(division):
        own = len(part_of(range(slices), slices, number, len(division)))
        written = own if finished else len(part_of(done, slices, number, len(division)))
        state, node, note = State.FINISHED, None, ""
        if written < own:
            state, node, note = _of_job(jobs.get(part), told, logs)
        job_id = jobs[part].job_id if part in jobs else None
        parts.append(
            PartStatus(part=part, state=state, slices=own, written=written, job_id=job_id, node=node, note=note)
        )
    whole_at_work = folder.in_use()
    if not division or whole_at_work:
        # A prediction on this machine may go on with one that was submitted.
        written = slices if finished else len(done)
        at_work = {True: State.RUNNING, False: State.STOPPED, None: State.STARTED}[whole_at_work]
        state = State.FINISHED if finished else at_work
        parts.append(
            PartStatus(part=WHOLE, state=state, slices=slices, written=written, job_id=None, node=None, note="")
        )
    if division:
        state, node, note = (State.FINISHED, None, "") if finished else _of_job(join, told, logs)
        job_id = join.job_id if join else None
        parts.append(PartStatus(part=JOIN, state=state, slices=0, written=0, job_id=job_id, node=node, note=note))
    command = record.command if isinstance(record.command, str) else ""
    written = slices if finished else len(done)
    return VolumeStatus(folder, slices, written, tuple(parts), finished, command, booked, answers is not None, logs)


def division_of(part: str) -> int | None:
    """Into how many parts the volume was divided of which this is one, as `part-2-of-8`; None: it is none."""
    name, _, parts = part.rpartition("-of-")
    return int(parts) if name.startswith("part-") and parts.isdigit() else None


def part_name(part: int, parts: int) -> str:
    """What a part is called, in the ledger as well; `part` is from 0."""
    return f"part-{part + 1}-of-{parts}"


def cancel_parts(status: VolumeStatus, parts: Collection[str], *, dry_run: bool) -> dict[str, str]:
    """End the jobs of parts that wait or run.

    Args:
        status: of the prediction, a moment ago.
        parts: as `PartStatus.part`.
        dry_run: only say what would be done.

    Returns:
        Part to what was ended, or why not.

    Raises:
        ConfigError: the prediction is not the user's own.
        SchedulerError: scancel refuses, or a job was submitted at another path, so that it may be another run's.
    """
    run = RunFolder(status.folder.path)
    live = [part for part in status.parts if part.part in parts and not part.state.idle]
    found = {
        part.part: f"job {part.job_id}" if part.job_id else "runs without Slurm, and has to be ended where it was begun"
        for part in live
    }
    jobs = [part.job_id for part in live if part.job_id]
    refuse_moved(run, status.ledger, jobs)
    if dry_run or not jobs:
        return found
    with ledger.locked(run):
        ledger.book_cancelled(run, [part.part for part in live if part.job_id and part.part != JOIN])
    scheduler.cancel(jobs)
    return found


def _last_division(booked: Ledger, slices: int) -> list[str]:
    """All parts of the division that was submitted last; none where nothing was."""
    last = next((job.cells[-1] for job in reversed(booked.handed) if job.cells), "")
    parts = min(division_of(last) or 0, slices)
    return [part_name(part, parts) for part in range(parts)]


def _of_job(job: Booked | None, told: Mapping[str, JobState] | None, logs: Logs) -> tuple[State, str | None, str]:
    """State, node and note of what is not done and has had this job."""
    if job is None:
        return State.MISSING, None, ""
    if told is None:
        return State.UNKNOWN, None, f"submitted as job {job.job_id}, of which Slurm says nothing"
    state = told.get(job.job_id)
    if state is not None and not state.ended:
        return state.state, state.node or None, state.note
    if state is not None and state.word == "COMPLETED":
        return State.STOPPED, state.node or None, f"job {job.job_id} has ended and left something to do"
    failure = diagnose_job(job.job_id, state, cancelled=job.cancelled, logs=logs)
    ended = State.CANCELLED if failure.kind in (CANCELLED, LEFT) else State.FAILED
    return ended, failure.node, failure.summary
