"""What is missing of a grid: its cells' files and what Slurm says of their jobs in, what to submit out."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.ledger_place import tag
from hpcseg.cluster.processes import lives
from hpcseg.cluster.remembered import Answers
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import Cell, Grid
from hpcseg.runs.record import read_lines
from hpcseg.runs.schema import Beat
from hpcseg.runs.state import State
from hpcseg.runs.told import read_failure, read_progress, time_of
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


def find_missing(grid: Grid, *, resubmit: bool, only: Collection[str] | None = None) -> Missing:
    """Look what is neither finished nor in Slurm.

    Args:
        grid: of the run.
        resubmit: cells of which Slurm does not tell whether they still run count as gone.
        only: ids of the cells to look at; None: all.
    """
    missing = Missing()
    booked = ledger.read(grid.run)
    states = scheduler.ask(booked.slurm_jobs().values(), booked.users, booked.others)
    # `tidy_up` has taken back what the queue shows, so where some are left it shows nothing.
    doubtful = frozenset[str]().union(*booked.unanswered.values())
    for cell in grid.cells:
        if cell.evaluated() or (only is not None and cell.id not in only):
            continue
        # Its plan is left as it is, and without one a job could only fail.
        if only is not None and (why := cell.unplanned()):
            missing.left_alone[cell.id] = why
            continue
        job = booked.jobs.get(cell.id)
        if cell.id in doubtful and not resubmit:
            missing.left_alone[cell.id] = (
                "sbatch was asked for a job for it and has not answered, and neither squeue nor scontrol tells whether "
                "it took it. Submit it again with --resubmit if you know that it did not"
            )
            continue
        if job is None or job.host is not None or is_past(cell, job):
            missing.cells.append(cell)
            continue
        if job.number is not None:
            if heartbeat(cell.folder, booked) is not None:
                missing.left_alone[cell.id] = f"job {job.shown}, {State.RUNNING}"
            elif not resubmit:
                missing.left_alone[cell.id] = (
                    f"submitted as job {job.shown}. If that is gone, `hpcseg cancel`, then `hpcseg retry` this cell; "
                    "--resubmit does so for all that show no sign of life"
                )
            else:
                missing.cells.append(cell)
            continue
        state = (states or {}).get(job.job_id)
        silence = "neither squeue nor sacct nor scontrol answers" if states is None else ""
        if state is not None and state.hidden:
            silence = state.reason
        if silence and not resubmit:
            missing.left_alone[cell.id] = (
                f"submitted as job {job.job_id}, and {silence}. "
                "Submit it again with --resubmit if you know that it is gone"
            )
        elif state is not None and not state.ended and not silence:
            left = ", of the path at which this run was submitted" if job.job_id in booked.moved else ""
            missing.left_alone[cell.id] = f"job {job.job_id}, {state.state}{left}"
        else:
            missing.cells.append(cell)
    return missing


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


def is_past(cell: Cell, job: Booked) -> bool:
    """Whether a job does not come back to a cell, though it has others: it was told to leave it out, or it failed."""
    if job.cancelled and is_left_out(cell.folder, job.job_id):
        return True
    if job.number is not None:
        # Of the end of such a job nothing tells but the cell.
        return max(failed_at(cell), cell.stopped_at() or 0.0) >= job.time > 0
    return len(job.cells) > 1 and failed_at(cell) >= job.time > 0


def is_touched(cell: Cell, job: Booked) -> bool:
    """Whether a cell's files have anything of the job that was handed out last for it."""
    failure = read_failure(cell.folder)
    if failure is not None and (failure.time is None or failure.time >= job.time):
        return True
    try:
        # The follow-up writes `escalated` when it has submitted the job.
        lines = [line for line in read_lines(cell.folder.events_file) if line.get("event") != "escalated"]
    except IncompleteError:
        return True
    return any((time_of(line) or 0.0) >= job.time for line in lines)


def failed_at(cell: Cell) -> float:
    """When the last attempt failed, in UTC seconds; 0 where none has."""
    failure = read_failure(cell.folder)
    return (failure.time if failure else None) or 0.0


def strange_jobs(run: RunFolder, booked: Ledger, slurm: Answers = scheduler) -> str:
    """What to say of jobs in the queue that are of this run, by token or script, and not in its ledger; else empty.

    A ledger that was emptied or cut has them no more, and which cells they are for nobody knows.
    """
    known, logs = booked.owners.keys() | set(booked.reports), run.logs.resolve()
    strange = []
    for job, (comment, script) in sorted((slurm.own_jobs() or {}).items()):
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
