"""One line per cell: what its files say first, then what Slurm adds. Works with Slurm silent or absent."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import IncompleteError
from hpcseg.learn.metrics import accuracy
from hpcseg.runs.grid import Cell, planned_cells, read_plan
from hpcseg.runs.record import RunFolder, read_json, read_lines

# A heartbeat comes every few seconds, later only where a step takes longer.
_SECONDS_TO_CALL_IT_STOPPED = 90.0
_SECONDS_AGAINST_SLURM = 20.0
_WAITING = ("PENDING", "REQUEUED", "CONFIGURING")


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """What is known of a cell."""

    cell: str
    state: str
    """finished, failed, running, evaluating, queued, stopped, trained, missing, or a Slurm state as it is."""
    epoch: int
    epochs: int
    validation_accuracy: float | None
    seconds_left: float | None
    """Estimated from the time per step; None where nothing runs."""
    job_id: str | None
    node: str | None
    note: str
    """Why it waits, or how it failed."""


def run_status(run: RunFolder) -> tuple[list[CellStatus], bool]:
    """The state of every cell of a run, and whether Slurm answered (True where it was not needed).

    Raises:
        IncompleteError: the run has no grid.json.
    """
    cells = planned_cells(run, read_plan(run))
    jobs = ledger.submitted(run)
    open_cells = {cell.id for cell in cells if not cell.evaluated()}
    wanted = {job_id for (cell_id, _), job_id in jobs.items() if cell_id in open_cells}
    answers = scheduler.ask(wanted) if wanted and shutil.which("squeue") else {}
    # Where no command has answered, a fourth would only make the user wait.
    endings = scheduler.history(wanted - set(answers)) if answers is not None else {}
    return [_status(cell, jobs, {**endings, **(answers or {})}) for cell in cells], answers is not None


def _status(cell: Cell, jobs: dict[tuple[str, str], str], slurm: dict[str, JobState]) -> CellStatus:
    state: str = cell.state()
    history = read_lines(cell.folder.metrics_file)
    stage = "evaluate" if cell.trained() else "train"
    job_id = jobs.get((cell.id, stage))
    job = slurm.get(job_id) if job_id else None
    progress = _fresh_progress(cell, job)
    failure: dict[str, Any] = {}
    if state == "failed":
        with contextlib.suppress(IncompleteError):  # a new attempt has just removed it
            failure = read_json(cell.folder.failure_file)
    note, left = str(failure.get("error", "")), None
    if state != "finished":
        # A rank may fail while rank 0 does not know yet, or while the next attempt is already running.
        if progress is not None and progress["time"] >= failure.get("time", 0.0):
            state, note = ("running" if progress["stage"] == "train" else "evaluating"), ""
            left = _seconds_left(progress)
            job_id = progress["job_id"] and (job_id or progress["job_id"])
        elif job is not None and not job.ended:
            state, note = ("queued" if job.state in _WAITING else job.state.lower()), job.reason
        elif state in ("started", "missing", "trained") and job is not None:
            # Killed without a word: only Slurm knows how.
            state, note = "stopped" if state == "started" else state, f"its job ended as {job.state.lower()}"
        elif state == "started":
            state = "stopped"
    return CellStatus(
        cell=cell.id,
        state=state,
        epoch=len(history),
        epochs=cell.config.train.epochs,
        validation_accuracy=accuracy(np.array(history[-1]["validation_confusion"])) if history else None,
        seconds_left=left,
        job_id=job_id,
        node=(job.node if job and job.node else None) or (progress["host"] if progress else None),
        note=note,
    )


def _fresh_progress(cell: Cell, job: JobState | None) -> dict[str, Any] | None:
    """The heartbeat of a cell that runs now; None where it is old, or where its process is known to be gone."""
    try:
        progress = read_json(cell.folder.progress_file)
    except IncompleteError:
        return None
    # Slurm may know better, if it is this job that wrote the heartbeat and not one of an interactive session.
    gone = progress["job_id"] is not None and job is not None and (job.ended or job.state in _WAITING)
    patience = max(_SECONDS_AGAINST_SLURM if gone else _SECONDS_TO_CALL_IT_STOPPED, 3 * progress["seconds_per_step"])
    if time.time() - progress["time"] > patience:
        return None
    here = progress["job_id"] is None and progress["host"] == socket.gethostname()
    return None if here and not Path(f"/proc/{progress['pid']}").exists() else progress


def _seconds_left(progress: dict[str, Any]) -> float:
    steps = progress["steps_per_epoch"]
    done = (progress["epoch"] - 1) * steps + progress["step"]
    return float((progress["epochs"] * steps - done) * progress["seconds_per_step"])
