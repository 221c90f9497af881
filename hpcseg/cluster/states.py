"""One line per cell: what its files say first, then what Slurm adds. Works with Slurm silent or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hpcseg.cluster import ledger
from hpcseg.cluster.failures import CANCELLED, DAMAGED, LEFT, STOPPED, TOLD_TO_STOP, Failure, diagnose
from hpcseg.cluster.ledger import Booked, Ledger
from hpcseg.cluster.logs import Logs, find_logs
from hpcseg.cluster.missing import (
    failed_at,
    heartbeat,
    is_past,
    is_touched,
    jobs_elsewhere,
    lives_here,
    may_live,
    strange_jobs,
    unfollowed,
)
from hpcseg.cluster.remembered import Remembered
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import HpcsegError, IncompleteError
from hpcseg.records.collect import trained_record
from hpcseg.records.row import Hole
from hpcseg.runs.epochs import validation_accuracy
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, planned_cells, read_cell, read_plan
from hpcseg.runs.names import short_names
from hpcseg.runs.schema import Beat, Trained
from hpcseg.runs.state import Standing, State
from hpcseg.runs.told import finished_epochs, stopped_at

_UNPLANNED = "of settings that the last `hpcseg grid` does not have"
_NO_REPORT = "No report job follows these jobs: it has ended, or there was no room for it. `hpcseg grid` submits it."


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """What is known of a cell."""

    cell: str
    state: State
    epoch: int
    epochs: int
    validation_accuracy: float | None
    seconds_left: float | None
    """Estimated from the time per step; None where nothing runs."""
    job_id: str | None
    node: str | None
    tries: int
    """Jobs that were handed out for it."""
    note: str
    """Why it waits, or how it failed."""


@dataclass(frozen=True)
class RunStatus(Standing):
    """The cells of a run at one moment."""

    run: RunFolder
    cells: tuple[Cell, ...]
    status: tuple[CellStatus, ...]
    """Of each cell."""
    failures: Mapping[str, Failure]
    """By cell id: of those that were tried, did not finish and are not known to run or to wait."""
    ledger: Ledger
    answered: bool
    """Slurm has answered, or was not needed."""
    notes: tuple[str, ...] = ()
    """What is wrong with the ledger, one sentence each."""
    data_sha256: str = ""
    """Of the data that the cells are for."""
    unplanned: frozenset[str] = frozenset()
    """Ids of those that the last plan does not have, and whose jobs wait or run, as far as anybody knows."""
    followed: bool = False
    """Cells are left, and a report job waits or runs, which may submit them."""

    @property
    def idle(self) -> bool:
        """Whether nothing of the cells, and no report job that may submit some, is known or suspected to go on."""
        return super().idle and not self.followed

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """What the cells are called on a screen, by id."""
        return short_names(self.cells)

    @functools.cached_property
    def states(self) -> Sequence[State]:
        """Of its cells."""
        return [cell.state for cell in self.status]


def run_status(run: RunFolder, slurm: Remembered | None = None) -> RunStatus:
    """The state of every cell of a run.

    Args:
        run: its folder.
        slurm: what it has said before; None: it is asked.

    Raises:
        IncompleteError: the run has no grid.json that can be read.
    """
    slurm, plan = slurm or Remembered(), read_plan(run)
    planned = planned_cells(run, plan)
    booked = ledger.read(run)
    jobs = booked.slurm_jobs()
    # Reads files, and of ten thousand cells that takes a while.
    states = {cell.id: cell.state() for cell in planned}
    others = {cell.id: cell for cell in _others(run, booked, states)}
    open_cells = {cell_id for cell_id, state in states.items() if state is not State.FINISHED}
    wanted = {job_id for cell_id, job_id in jobs.items() if cell_id in open_cells}
    beside = {job_id for cell_id, job_id in jobs.items() if cell_id in others}
    beside |= {*booked.moved, *booked.elsewhere} if open_cells else set()
    beside |= set(booked.reports) if open_cells else set()
    answers = booked.ask(wanted | beside, slurm) if wanted | beside else {}
    # Where no command has answered, a fourth would only make the user wait.
    endings = slurm.history(_gone(wanted, answers)) if answers is not None else {}
    told = {**(answers or {}), **endings}
    unplanned = frozenset(one for one in others if may_live(booked.jobs[one], run, booked, answers))
    cells = (*planned, *(others[one] for one in sorted(unplanned)))
    states |= {one: others[one].state() for one in unplanned}
    open_cells |= unplanned
    logs = find_logs(run.logs)
    status, failures = [], {}
    heartbeats = {
        cell.id: progress for cell in cells if cell.id in open_cells and (progress := heartbeat(cell.folder, booked))
    }
    ahead = _ahead(cells, states, booked, heartbeats)
    for cell in cells:
        of_plan = cell.id not in unplanned
        record = trained_record(cell, plan) if of_plan and cell.folder.training_file.exists() else None
        progress = heartbeats.get(cell.id)
        known = _Known(states[cell.id], record, progress, booked, told, answers is not None, ahead.get(cell.id), logs)
        found, failure = _status(cell, known)
        if not of_plan:
            found = dataclasses.replace(found, note="; ".join(filter(None, (_UNPLANNED, found.note))))
        status.append(found)
        if failure and of_plan:
            failures[cell.id] = failure
    # Of cells that nobody was asked for, so that an emptied ledger does not hide what waits.
    strangers = strange_jobs(run, booked, slurm) if open_cells - jobs.keys() else ""
    beyond = jobs_elsewhere(booked, answers or {})
    alone = _NO_REPORT if unfollowed(wanted, booked, answers) else ""
    notes = tuple(note for note in (booked.note, strangers, *beyond, alone) if note)
    reports = [answers[job] for job in booked.reports if job in answers] if answers else []
    followed = bool(open_cells) and any(not (report.ended or report.hidden) for report in reports)
    return RunStatus(
        *(run, cells, tuple(status), failures, booked, answers is not None, notes, plan.data_sha256, unplanned),
        followed=followed,
    )


def _gone(wanted: Set[str], answers: Mapping[str, JobState]) -> set[str]:
    """Ids of jobs that are in the queue no more."""
    return {job_id for job_id in wanted if (job := answers.get(job_id)) is None or job.ended}


def other_jobs(run: RunFolder, planned: Container[str]) -> dict[str, Booked]:
    """Jobs that wait or run for cells which a plan does not have, by cell id, as far as anybody knows."""
    booked = ledger.read(run)
    found = {cell.id: booked.jobs[cell.id] for cell in _others(run, booked, planned)}
    states = booked.ask(job.job_id for job in found.values() if job.in_slurm)
    return {cell: job for cell, job in found.items() if may_live(job, run, booked, states)}


def _others(run: RunFolder, booked: Ledger, planned: Container[str]) -> list[Cell]:
    """Cells that had jobs and are not in the plan, of which none is done, nor had its job leave it."""
    folders = [(run.cell(cell), job) for cell, job in booked.jobs.items() if cell not in planned]
    found = []
    for folder, job in folders:
        if not (folder.evaluation_file.exists() or is_past(folder, job)):
            # Without a config.json its job has nothing to run.
            with contextlib.suppress(HpcsegError):
                found.append(read_cell(folder))
    return found


def _ahead(
    cells: Sequence[Cell], states: Mapping[str, State], booked: Ledger, heartbeats: Mapping[str, Any]
) -> dict[str, str]:
    """Of a cell that shares its job with others, the one which that job works at, if it is another.

    A heartbeat tells which it is; without one, since data are loaded, it is the first that is not done.
    """
    by_id = {cell.id: cell for cell in cells}
    at: dict[str, str] = {}
    for job in {job.job_id: job for job in booked.jobs.values() if len(job.cells) > 1}.values():
        own = [cell for cell in job.cells if cell in by_id and booked.jobs[cell].job_id == job.job_id]
        left = [cell for cell in own if states[cell] is not State.FINISHED]
        beating = [cell for cell in left if cell in heartbeats]
        current = beating or [cell for cell in left if not is_past(by_id[cell].folder, booked.jobs[cell])]
        at |= {cell: current[0] for cell in left if current and cell not in current[:1]}
    return at


@dataclass(frozen=True)
class _Known:
    """What is known of a cell beside its files."""

    state: State
    """What its files say."""
    record: Trained | Hole | None
    """Its training.json, where it has one, or what is wrong with its records."""
    progress: Beat | None
    """Its heartbeat, unless that is old."""
    booked: Ledger
    slurm: Mapping[str, JobState]
    answered: bool
    """Slurm has answered, or was not needed."""
    ahead: str | None
    """The cell that its job works at, if that is another."""
    logs: Logs


def _status(cell: Cell, known: _Known) -> tuple[CellStatus, Failure | None]:
    state, record, booked = known.state, known.record, known.booked
    epoch, right, unread = _reached(cell, record)
    active = State.EVALUATING if state in (State.FINISHED, State.TRAINED) or cell.trained() else State.RUNNING
    last = booked.jobs.get(cell.id)
    job = known.slurm.get(last.job_id) if last and last.in_slurm else None
    # Absent from the queue is as good as ended; an older job's word says nothing of a heartbeat of today.
    waits = job is not None and job.state in (State.QUEUED, State.SUSPENDED)
    gone = last is not None and last.in_slurm and known.answered and (job is None or job.ended or waits)
    progress = known.progress
    if progress is not None and last is not None and gone and progress.job_id == last.job_id:
        progress = None
    # Its job may go on with others.
    runs = last is not None and state is not State.FINISHED and not is_past(cell.folder, last)
    job_id, node, note, left, failure = last.shown if last else None, None, "", None, None
    waits_behind = False
    if progress is not None and progress.time >= failed_at(cell.folder):
        state = {"train": State.RUNNING, "evaluate": State.EVALUATING}.get(progress.stage, State.RUNNING)
        left, node, note = progress.seconds_left, progress.host, progress.note
        job_id = job_id or progress.job_id
    elif job is not None and not job.ended and runs and not (job.hidden and state is State.FAILED):
        state, note = (active if job.state is State.RUNNING else job.state), job.note
        waits_behind = job.state is State.RUNNING
    elif last is not None and runs and lives_here(last, cell.folder):
        # It loads its data, or validates; its heart beats between steps only.
        state, node, waits_behind = active, last.host, True
    elif last is not None and runs and last.number is not None and not isinstance(record, Hole):
        state, note = _by_template(cell, last, known.logs)
        waits_behind = True
    elif isinstance(record, Hole):
        failure = Failure(DAMAGED, f"{record.reason} {record.remedy}")
        state, note = State.FAILED, failure.summary
    elif state is State.FINISHED or (state in (State.MISSING, State.TRAINED) and last is None):
        pass
    elif (
        last is not None
        and last.host is not None
        and known.ahead
        and cell.id not in last.cancelled
        and state is not State.FAILED
    ):
        # The queue of this machine was ended before it came to this cell, which nothing has befallen.
        state = State.STOPPED if state is State.STARTED else state
    elif (
        not known.answered
        and last is not None
        and last.in_slurm
        and not (state is State.FAILED and is_touched(cell.folder, last))
    ):
        # That nothing of this job is seen does not say that it does not wait.
        state = state if state is State.STARTED else State.UNKNOWN
        note = f"submitted as job {last.job_id}, of which Slurm says nothing"
    else:
        # Of a job in Slurm it is the scheduler's doing.
        in_slurm = last is not None and last.in_slurm
        stopped = None
        if not in_slurm and (stopped_at(cell.folder) or 0.0) > failed_at(cell.folder):
            stopped = STOPPED if last is None or last.host is not None else TOLD_TO_STOP
        cancelled = last is not None and cell.id in last.cancelled
        ended = job if job is not None and job.ended else None
        of = last.job_id if last else None
        touched = last is None or not gone or is_touched(cell.folder, last)
        failure = diagnose(cell, of, ended, cancelled=cancelled, logs=known.logs, stopped=stopped, touched=touched)
        # A job that ended before the cell wrote a word has failed all the same.
        other = State.STOPPED if state is State.STARTED or failure.kind is stopped else State.FAILED
        state = State.CANCELLED if failure.kind in (CANCELLED, LEFT) else other
        note, node = failure.summary, failure.node
    if waits_behind and known.ahead is not None:
        state, note = State.QUEUED, f"behind {known.ahead} in its job"
    found = CellStatus(
        cell=cell.id,
        state=state,
        epoch=epoch,
        epochs=cell.config.train.epochs,
        validation_accuracy=right,
        seconds_left=left,
        job_id=job_id,
        node=(job.node if job and job.node else None) or node,
        tries=booked.tries.get(cell.id, 0),
        note="; ".join(filter(None, (note, unread))),
    )
    return found, failure


def _by_template(cell: Cell, job: Booked, logs: Logs) -> tuple[State, str]:
    """Of a cell whose job is none of Slurm's and has not said that it is done with it, and whose heart does not beat.

    The job may wait, load its data, or have been ended without a word.
    """
    begun = job.job_id in logs
    with contextlib.suppress(OSError):
        # A template need not have a log.
        begun = begun or cell.folder.events_file.stat().st_mtime >= job.time
    if not begun:
        return State.QUEUED, "" if job.number else "whether it was submitted is not known"
    gone = f"if job {job.shown} is gone, `hpcseg cancel`, then `hpcseg retry` this cell"
    return State.STARTED, f"no sign of life now: `hpcseg logs` may say why; {gone}"


def _reached(cell: Cell, record: Trained | Hole | None) -> tuple[int, float | None, str]:
    """Epochs and validation accuracy: from the record of a finished training, else from the lines of its epochs.

    With them what is wrong with those lines, as a part of a sentence; empty where nothing is.
    """
    try:
        if isinstance(record, Trained):
            return record.epochs, validation_accuracy(record), ""
        lines = finished_epochs(cell.folder)
        return len(lines), validation_accuracy(lines[-1]) if lines else None, ""
    except (IncompleteError, ValueError, OverflowError):
        return 0, None, "" if isinstance(record, Trained) else "its metrics.jsonl cannot be read"
