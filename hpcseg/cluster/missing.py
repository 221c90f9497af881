"""What is missing of a grid: its cells' files and what Slurm says of their jobs in, what to submit out."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.ledger_place import tag
from hpcseg.cluster.processes import controls_cell, lives
from hpcseg.cluster.remembered import Remembered
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import Cell, Grid
from hpcseg.runs.record import read_lines
from hpcseg.runs.schema import Beat
from hpcseg.runs.state import State
from hpcseg.runs.told import read_failure, read_progress, stopped_at, time_of
from hpcseg.runs.wish import is_left_out

# A heartbeat comes every few seconds, later only where a step takes longer.
_SECONDS_TO_CALL_IT_STOPPED = 90.0


@dataclass(frozen=True)
class Missing:
    """What is missing of a grid."""

    cells: list[Cell] = field(default_factory=list)
    """Neither finished nor in Slurm."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Cell id to why Slurm has it already, or may have: what nobody else should begin."""
    unfollowed: list[str] = field(default_factory=list)
    """Of the jobs of those, as `unfollowed` has them."""


def find_missing(grid: Grid, *, resubmit: bool, only: Collection[str] | None = None) -> Missing:
    """Look what is neither finished nor in Slurm.

    Args:
        grid: of the run.
        resubmit: cells of which Slurm does not tell whether they still run count as gone.
        only: ids of the cells to look at; None: all.
    """
    missing, run = Missing(), grid.run
    booked = ledger.read(run)
    states = ask_of_all(booked)
    lives = functools.cache(functools.partial(may_live, run=run, booked=booked, states=states or {}))
    # `tidy_up` has taken back what the queue shows, so where some are left it shows nothing.
    doubtful = frozenset[str]().union(*booked.unanswered.values())
    for cell in grid.cells:
        if cell.evaluated() or (only is not None and cell.id not in only):
            continue
        # Its plan is left as it is, and without one a job could only fail.
        if only is not None and (why := cell.unplanned()):
            missing.left_alone[cell.id] = why
            continue
        if why := _runs(cell.folder, booked, states or {}, lives):
            missing.left_alone[cell.id] = why
            continue
        job = booked.jobs.get(cell.id)
        if cell.id in doubtful and not resubmit:
            missing.left_alone[cell.id] = (
                "sbatch was asked for a job for it and has not answered, and neither squeue nor scontrol tells whether "
                "it took it. Submit it again with --resubmit if you know that it did not"
            )
            continue
        if job is None or resubmit or is_past(cell.folder, job):
            missing.cells.append(cell)
            continue
        if job.number is not None:
            missing.left_alone[cell.id] = (
                f"submitted as job {job.shown}. If that is gone, `hpcseg cancel`, then `hpcseg retry` this cell; "
                "--resubmit does so for all that show no sign of life"
            )
            continue
        state = (states or {}).get(job.job_id)
        silence = "neither squeue nor sacct nor scontrol answers" if states is None else ""
        if state is not None and state.hidden:
            silence = state.reason
        if silence and job.in_slurm:
            missing.left_alone[cell.id] = (
                f"submitted as job {job.job_id}, and {silence}. "
                "Submit it again with --resubmit if you know that it is gone"
            )
        else:
            missing.cells.append(cell)
    own = {job.job_id for cell in missing.left_alone if (job := booked.jobs.get(cell)) and job.in_slurm}
    missing.unfollowed.extend(unfollowed(own, booked, states))
    return missing


def unfollowed(jobs: Collection[str], booked: Ledger, states: Mapping[str, JobState] | None) -> list[str]:
    """Ids, without tasks, of those of these jobs that wait or run, where no report job is known to come."""
    if booked.unanswered or any(may_be_queued(report, states) for report in booked.reports):
        return []
    alive = (job_id for job_id in jobs if (job := (states or {}).get(job_id)) and not (job.ended or job.hidden))
    return sorted({job_id.partition("_")[0] for job_id in alive})


def _runs(cell: CellFolder, booked: Ledger, states: Mapping[str, JobState], lives: Callable[[Booked], bool]) -> str:
    """Which job or process is known to have a cell, as a part of a sentence; empty where none is.

    Any of its jobs, not the last alone: one that runs here is followed by one in Slurm, or one that nobody could see.
    """
    for job in booked.jobs_of(cell.id):
        if job.number is not None or is_past(cell, job) or not lives(job):
            continue
        if job.host is not None:
            return f"process {job.job_id} on {job.host}, {State.RUNNING}"
        if not (state := states[job.job_id]).hidden:
            left = ", of the path at which this run was submitted" if job.job_id in booked.moved else ""
            return f"job {job.job_id}, {state.state}{left}"
    beat = heartbeat(cell, booked)
    if beat is None or beat.job_id in booked.owners or beat.time < failed_at(cell):
        return ""
    last = booked.jobs.get(cell.id)
    if last is not None and last.number is not None:
        return f"job {last.shown}, {State.RUNNING}"
    return f"process {beat.pid} on {beat.host}, {State.RUNNING}"


def ask_of_all(booked: Ledger) -> dict[str, JobState] | None:
    """What Slurm says of every job of the ledger, that of a report too; as `scheduler.ask`."""
    jobs = [job.job_id for job in booked.handed if job.in_slurm]
    return booked.ask([*jobs, *booked.reports])


def may_live(job: Booked, run: RunFolder, booked: Ledger, states: Mapping[str, JobState] | None) -> bool:
    """Whether a job waits or runs, as far as anybody knows; of one that nobody knows of it may.

    Args:
        job: of the ledger.
        run: whose.
        booked: the ledger.
        states: what Slurm says of its jobs; None: it does not answer.
    """
    if job.in_slurm:
        return may_be_queued(job.job_id, states)
    folders = [run.cell(cell) for cell in job.cells]
    if job.number is not None:
        last = [cell for cell in folders if booked.jobs[cell.id].job_id == job.job_id]
        return not all(cell.evaluation_file.exists() or is_past(cell, job) for cell in last)
    return any(lives_here(job, cell) or _beats(job, cell, booked) for cell in folders)


def may_be_queued(job_id: str, states: Mapping[str, JobState] | None) -> bool:
    """Whether a job of Slurm's waits or runs by what it says of jobs; None: it does not answer, so it may."""
    return states is None or (job_id in states and not states[job_id].ended)


def lives_here(job: Booked, cell: CellFolder) -> bool:
    """Whether a local job's process is alive on this machine, and this cell's."""
    return job.host == socket.gethostname() and controls_cell(job.job_id, cell)


def _beats(job: Booked, cell: CellFolder, booked: Ledger) -> bool:
    """Whether a cell's heart beats on the host of a local job, of which nothing else tells on another host."""
    beat = heartbeat(cell, booked)
    return beat is not None and beat.job_id is None and beat.host == job.host


def heartbeat(cell: CellFolder, booked: Ledger) -> Beat | None:
    """The heartbeat of a cell that runs now; None where it is old, its process gone from this machine, or its job that
    of the folder of which this one is a copy."""
    beat = read_progress(cell)
    if beat is None or beat.job_id in booked.elsewhere:
        return None
    if time.time() - beat.time > max(_SECONDS_TO_CALL_IT_STOPPED, 3 * beat.seconds_per_step):
        return None
    here = beat.job_id is None and beat.host == socket.gethostname()
    return None if here and not lives(beat.pid) else beat


def is_past(cell: CellFolder, job: Booked) -> bool:
    """Whether a job does not come back to a cell, though it has others: it was told to leave it out, or it failed."""
    if cell.id in job.cancelled and is_left_out(cell, job.job_id):
        return True
    if job.number is not None:
        # Of the end of such a job nothing tells but the cell.
        return max(failed_at(cell), stopped_at(cell) or 0.0) >= job.time > 0
    failure = read_failure(cell)
    # By the job's id: a node's clock may be behind, and an earlier job may say late that it has failed.
    own = failure is not None and (
        failure.job_id == job.job_id or (failure.job_id is None and (failure.time or 0.0) >= job.time > 0)
    )
    return len(job.cells) > 1 and own


def is_touched(cell: CellFolder, job: Booked) -> bool:
    """Whether a cell's files have anything of the job that was handed out last for it."""
    failure = read_failure(cell)
    if failure is not None and (failure.time is None or failure.job_id == job.job_id or failure.time >= job.time):
        return True
    try:
        # The follow-up writes `escalated` when it has submitted the job.
        lines = [line for line in read_lines(cell.events_file) if line.get("event") != "escalated"]
    except IncompleteError:
        return True
    return any(line.get("slurm_job_id") == job.job_id or (time_of(line) or 0.0) >= job.time for line in lines)


def failed_at(cell: CellFolder) -> float:
    """When the last attempt failed, in UTC seconds; 0 where none has."""
    failure = read_failure(cell)
    return (failure.time if failure else None) or 0.0


def strange_jobs(run: RunFolder, booked: Ledger, slurm: Remembered | None = None) -> str:
    """What to say of jobs in the queue that are of this run, by token or script, and not in its ledger; else empty.

    A ledger that was emptied or cut has them no more, and which cells they are for nobody knows.
    """
    known, logs = booked.owners.keys() | set(booked.reports), run.logs.resolve()
    strange = []
    for job, (comment, script) in sorted(((slurm or scheduler).own_jobs() or {}).items()):
        if comment.startswith(tag(run)):
            if booked.tokens.get(comment, "") not in (None, job):
                strange.append(job)
        # A submit filter may have put its own comment in the place of ours.
        elif script.startswith("/") and job not in known and Path(script).parent.resolve() == logs:
            strange.append(job)
    if not strange:
        return ""
    return (
        f"Slurm has jobs of {run.path} that its submissions.jsonl does not know ({', '.join(strange)}), so that was "
        f"emptied or changed. Put it back, wait for them, or cancel them with `scancel {' '.join(strange)}`."
    )


def jobs_elsewhere(booked: Ledger, states: Mapping[str, JobState]) -> tuple[str, ...]:
    """What to say of jobs in the queue that were submitted at another path, a sentence for each path.

    Args:
        booked: the ledger.
        states: what Slurm says of its jobs.
    """
    alive = {job_id for job_id, state in states.items() if not (state.ended or state.hidden)}
    said = []
    for jobs, what in ((booked.moved, _MOVED), (booked.elsewhere, _COPIED)):
        for path in dict.fromkeys(jobs.values()):
            if ids := sorted({job_id.split("_")[0] for job_id in alive if jobs.get(job_id) == path}, key=int):
                some, where = ", ".join(ids), path or "another path"
                said.append(what.format(jobs=some, path=where, scancel=" ".join(ids)))
    return tuple(said)


_MOVED = (
    "This run was moved or copied: Slurm has jobs that were submitted for it at {path} ({jobs}). They belong to that "
    "path, and nothing here ends them. If no other run needs them: `scancel {scancel}`."
)
_COPIED = (
    "This run is a copy of {path}: Slurm has jobs of that folder ({jobs}), which are not counted here, and nothing "
    "here ends them."
)
