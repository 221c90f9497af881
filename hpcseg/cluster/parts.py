"""A prediction that Slurm works on: its files and Slurm's word in, a line per part out; and what ends its jobs."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.cancel import refuse_moved
from hpcseg.cluster.failures import CANCELLED, LEFT, Action, diagnose_job
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.logs import Logs, find_logs
from hpcseg.cluster.missing import may_be_queued
from hpcseg.cluster.remembered import Remembered
from hpcseg.cluster.scheduler import JobState
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.request import slices_of_part
from hpcseg.predict.schema import Finished
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.state import Standing, State

WHOLE = "whole"
"""The volume where one process segments all of it."""
JOIN = "join"
"""The job that follows when all parts have ended."""
_PART = re.compile(r"part-\d{1,9}-of-(\d{1,9})", re.ASCII)


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
    action: Action = "give up"
    """What would be done about a failure of this kind, were it a cell's."""


@dataclass(frozen=True)
class VolumeStatus(Standing):
    """A prediction at one moment."""

    folder: OutFolder
    slices: int
    written: int
    parts: tuple[PartStatus, ...]
    """Those of the division that was submitted last and the join; where nothing was submitted, the whole."""
    finished: bool
    """All of it is done, and its files are there."""
    command: str
    """That has submitted it last, or has begun it here; empty where that is not known, or was for another folder."""
    joins: tuple[str, ...]
    """Ids of the jobs that are to join them and wait or run, as far as anybody knows."""
    ledger: Ledger
    answered: bool
    """Slurm has answered, or was not needed."""
    logs: Logs

    @functools.cached_property
    def states(self) -> Sequence[State]:
        """Of its parts."""
        return [part.state for part in self.parts]


def volume_status(folder: OutFolder, slurm: Remembered | None = None) -> VolumeStatus:
    """Where a prediction stands.

    Args:
        folder: its folder.
        slurm: what it has said before; None: it is asked.

    Raises:
        ConfigError: its record is damaged, or of another schema.
        IncompleteError: there is none that can be read, or a line of a journal is damaged.
    """
    slurm, record = slurm or Remembered(), folder.read()
    # As for `begin`, a file that is gone is made again.
    finished = isinstance(record, Finished) and all((folder.path / name).exists() for name in record.files)
    slices = len(record.input.names)
    done = range(slices) if finished else sorted(index for index in folder.done() if index < slices)
    booked = ledger.read(RunFolder(folder.path))
    division = _last_division(booked, slices)
    wanted = {*booked.slurm_jobs().values(), *booked.reports} if division else set()
    answers = booked.ask(wanted, slurm) if wanted else {}
    gone = {one for one in wanted if (job := (answers or {}).get(one)) is None or job.ended}
    endings = slurm.history(gone) if answers is not None and not finished else {}
    told = None if answers is None else {**answers, **endings}
    logs = find_logs(RunFolder(folder.path).logs)
    parts = []
    for number, part in enumerate(division):
        own = slices_of_part(slices, number, len(division))
        written = bisect.bisect_left(done, own.stop) - bisect.bisect_left(done, own.start)
        known = _of_job(booked.jobs.get(part), told, logs, all_done=written == len(own))
        parts.append(PartStatus(part=part, slices=len(own), written=written, **known))
    whole_at_work = folder.in_use()
    if not division or whole_at_work:
        # A prediction on this machine may go on with one that was submitted.
        at_work = {True: State.RUNNING, False: State.STOPPED, None: State.STARTED}[whole_at_work]
        state = State.FINISHED if finished else at_work
        parts.append(
            PartStatus(part=WHOLE, slices=slices, written=len(done), state=state, job_id=None, node=None, note="")
        )
    joins = [job_id for job_id in booked.reports if may_be_queued(job_id, answers)]
    if division:
        last = (joins or list(booked.reports))[-1:]
        join = Booked(last[0], None, 0.0, ()) if last else None
        known = _of_job(join, told, logs, all_done=finished)
        if known["state"] is State.FAILED and len(done) < slices:
            # That it found some missing is no fault of its own.
            known |= {"state": State.MISSING, "note": "it comes when all slices are written"}
        parts.append(PartStatus(part=JOIN, slices=0, written=0, **known))
    begun = " ".join(record.command.split()) if isinstance(record.command, str) else ""
    command = booked.last_command if booked.handed or booked.elsewhere or booked.moved else begun
    answered = answers is not None
    return VolumeStatus(
        *(folder, slices, len(done), tuple(parts), finished, command, tuple(joins), booked, answered, logs)
    )


def division_of(part: str) -> int | None:
    """Into how many parts the volume was divided of which this is one, as `part-2-of-8`; None: it is none."""
    found = _PART.fullmatch(part)
    return int(found[1]) if found else None


def part_name(part: int, parts: int) -> str:
    """What a part is called, in the ledger as well; `part` is from 0."""
    return f"part-{part + 1}-of-{parts}"


def cancel_parts(status: VolumeStatus, *, dry_run: bool) -> dict[str, str]:
    """End the jobs of parts that wait or run.

    Args:
        status: of the prediction, a moment ago, with those parts alone.
        dry_run: only say what would be done.

    Returns:
        Part to what was ended, or why not.

    Raises:
        ConfigError: the prediction is not the user's own.
        SchedulerError: scancel refuses, or a job was submitted at another path, so that it may be another run's.
    """
    run = RunFolder(status.folder.path)
    live = [part for part in status.parts if not part.state.idle]
    found = {
        part.part: f"job {part.job_id}" if part.job_id else "runs without Slurm, and has to be ended where it was begun"
        for part in live
    }
    jobs = [part.job_id for part in live if part.job_id and part.part != JOIN]
    # Of several, each behind what was submitted with it.
    joins = status.joins if JOIN in found else ()
    refuse_moved(run, status.ledger, (*jobs, *joins))
    if dry_run or not (jobs or joins):
        return found
    # Nothing submits them again, so what is written down is what has happened.
    scheduler.cancel((*jobs, *joins))
    with ledger.locked(run):
        ledger.book_cancelled(run, [part.part for part in live if part.job_id in jobs])
    return found


def _last_division(booked: Ledger, slices: int) -> list[str]:
    """All parts of the division that was submitted last; none where nothing was."""
    last = next((job.cells[-1] for job in reversed(booked.handed) if job.cells), "")
    parts = min(division_of(last) or 0, slices)
    return [part_name(part, parts) for part in range(parts)]


def _of_job(job: Booked | None, told: Mapping[str, JobState] | None, logs: Logs, *, all_done: bool) -> dict[str, Any]:
    """State, job, node and note of a part or of the join that has had this job."""

    def known(state: State, node: str | None = None, note: str = "", action: Action = "give up") -> dict[str, Any]:
        return {"state": state, "job_id": job and job.job_id, "node": node or None, "note": note, "action": action}

    if job is None:
        return known(State.FINISHED if all_done else State.MISSING)
    state = (told or {}).get(job.job_id)
    if state is not None and not state.ended:
        # Whoever has written the rest leaves a job that has nothing to do and holds its node all the same.
        return known(state.state, state.node, "all is written" if all_done else state.note)
    if all_done:
        return known(State.FINISHED, state.node if state else None)
    if told is None:
        return known(State.UNKNOWN, note=f"submitted as job {job.job_id}, of which Slurm says nothing")
    if state is not None and state.word == "COMPLETED":
        return known(State.STOPPED, state.node, "its job has ended, and left something to do")
    failure = diagnose_job(job.job_id, state, cancelled=bool(job.cancelled), logs=logs)
    ended = State.CANCELLED if failure.kind in (CANCELLED, LEFT) else State.FAILED
    note = failure.text if failure.kind is CANCELLED else failure.summary
    return known(ended, failure.node, note, failure.kind.action)
