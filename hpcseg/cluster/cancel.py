"""Cells in, ended jobs out; written down first, so that the follow-up job does not bring them back."""

from __future__ import annotations

import contextlib
import functools
import os
import reprlib
import signal
import socket
from collections.abc import Collection

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.asked import read_resources
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.missing import ask_of_all, heartbeat, is_past, lives_here, may_be_queued, may_live
from hpcseg.cluster.processes import queue_of, runs_cell
from hpcseg.cluster.retry import left_to_follow_up
from hpcseg.cluster.states import RunStatus
from hpcseg.cluster.submit_with import cancel_by_template
from hpcseg.errors import SchedulerError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell
from hpcseg.runs.schema import Beat
from hpcseg.runs.state import State
from hpcseg.runs.told import read_progress
from hpcseg.runs.wish import leave_out


def cancel_cells(status: RunStatus, cells: Collection[str], *, with_report: bool, dry_run: bool) -> dict[str, str]:
    """Cancel cells that wait or run. A process that is not known to be a cell's own is left alone.

    Args:
        status: of the run, a moment ago.
        cells: ids.
        with_report: the report job as well, which else would follow the others, and a `hpcseg grid` on this machine,
            which else would start the next cell.
        dry_run: only say what would be done.

    Returns:
        Cell id to what was ended, or why not.

    Raises:
        SchedulerError: scancel refuses, or a job was submitted at another path, so that it may be another run's.
    """
    run, booked, wanted = status.run, status.ledger, frozenset(cells)
    states = {cell.cell: cell.state for cell in status.status}
    # Where Slurm is silent, what it was given may still wait there.
    slurm = ask_of_all(booked)
    lives = functools.cache(functools.partial(may_live, run=run, booked=booked, states=slurm))
    here: list[Cell] = []
    jobs: list[str] = []
    reports = [job for job in booked.reports if may_be_queued(job, slurm)]
    coming = left_to_follow_up(status, asked) if reports and (asked := read_resources(run)) else {}
    left_out: dict[str, str] = {}
    found: dict[str, str] = {}
    by_template: list[Booked] = []
    queues: set[int] = set()
    for cell in status.cells:
        own = [job for job in booked.jobs_of(cell.id) if not is_past(cell.folder, job) and lives(job)]
        # What had no job cannot be kept from a report that is left.
        comes = cell.id in coming and (with_report or coming[cell.id] is not None)
        idle = states[cell.id] is State.FINISHED or (states[cell.id].idle and not own)
        if cell.id not in wanted or (idle and not comes):
            continue
        what = [f"waits for job {reports[0]}, the report, which would submit it"] if comes else []
        for job in own:
            if job.host is not None:
                if lives_here(job, cell.folder):
                    left_out[cell.id] = job.job_id
                    what.append(f"process {job.job_id} on this machine")
                    if (queue := queue_of(job.job_id)) is not None:
                        queues.add(queue)
                continue
            others = [
                other for other in job.cells if other not in wanted and other in states and not states[other].idle
            ]
            # One by a template may come later, or not be for us to end.
            if others or job.number is not None:
                left_out[cell.id] = job.job_id
            if not others and job.in_slurm and job.job_id not in jobs:
                jobs.append(job.job_id)
            elif not others and not job.in_slurm and job.job_id not in {one.job_id for one in by_template}:
                by_template.append(job)
            what.append(f"job {job.shown}{', which goes on with its other cells' if others else ''}")
        process = _process_here(cell)
        if cell.id not in left_out and runs_cell(process, cell.folder):
            here.append(cell)
            what.append(f"process {process} on this machine")
        elif not what and process is not None:
            what.append(
                f"says that it is process {reprlib.repr(process)} on this machine, but that is not yours, or does not "
                "hold the cell's lock: left alone"
            )
        elif beat := _beat_elsewhere(cell, booked):
            what.append(f"runs on {beat.host} as process {beat.pid}, and has to be ended there")
        found[cell.id] = ", and ".join(what) or "runs on another machine, and has to be ended there"
    if with_report and found:
        jobs += reports
    refuse_moved(run, booked, jobs)
    if dry_run or not found:
        return found
    with ledger.locked(run):
        ledger.book_cancelled(run, list(found))
        for cell_id, job_id in left_out.items():
            leave_out(run.cell(cell_id), job_id)
    for job in by_template:
        if left := cancel_by_template(run, job):
            found |= {cell_id: f"{found[cell_id]}, {left}" for cell_id in job.cells if cell_id in found}
    for queue in queues if with_report else ():
        _tell_to_stop(queue)
    for cell in here:
        process = _process_here(cell)
        # It may have ended meanwhile, and its number be another's.
        if process is not None and runs_cell(process, cell.folder):
            _tell_to_stop(process)
    # Last, for where Slurm is gone that ends here.
    scheduler.cancel(jobs)
    return found


def refuse_moved(run: RunFolder, booked: Ledger, jobs: Collection[str]) -> None:
    """See that all of these jobs are this folder's; raises SchedulerError where one was submitted at another path."""
    if moved := sorted({job_id for job_id in jobs if job_id in booked.moved}):
        raise SchedulerError(
            f"{run.path} was moved or copied since job {', '.join(moved)} was submitted for it at "
            f"{booked.moved[moved[0]] or 'another path'}, so nothing here ends that: it may be another run's. If it is "
            f"not, end it with `scancel {' '.join(moved)}`."
        )


def _process_here(cell: Cell) -> int | None:
    """What a cell that runs on this machine without Slurm says that its process is; None: it runs elsewhere."""
    beat = read_progress(cell.folder)
    return beat.pid if beat and beat.job_id is None and beat.host == socket.gethostname() else None


def _beat_elsewhere(cell: Cell, booked: Ledger) -> Beat | None:
    """The heartbeat of a cell that runs on another machine, neither in Slurm nor by a template."""
    beat, last = heartbeat(cell.folder, booked), booked.jobs.get(cell.id)
    by_template = last is not None and last.number is not None
    return beat if beat and beat.job_id is None and beat.host != socket.gethostname() and not by_template else None


def _tell_to_stop(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)  # it writes its checkpoint first
