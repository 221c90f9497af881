"""Cells in, ended jobs out; written down first, so that the follow-up job does not bring them back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Collection

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.states import ENDED, RunStatus
from hpcseg.errors import IncompleteError
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import read_json


def cancel_cells(status: RunStatus, cells: Collection[str], *, whole: bool, dry_run: bool) -> dict[str, str]:
    """Cancel cells that wait or run.

    Args:
        status: of the run, a moment ago.
        cells: ids.
        whole: the report job as well, which else would follow the others.
        dry_run: only say what would be done.

    Returns:
        Cell id to what was ended.

    Raises:
        SchedulerError: scancel refuses.
    """
    run, booked = status.run, status.ledger
    states = {cell.cell: cell.state for cell in status.status}
    in_slurm: dict[str, list[str]] = {}
    for (owner, _), job in booked.slurm_jobs().items():
        # The evaluation waits behind the training.
        in_slurm.setdefault(owner, []).append(job)
    here: list[int] = []
    jobs: list[str] = []
    found: dict[str, str] = {}
    for cell in status.cells:
        # Where Slurm is silent, what it was given may still wait there.
        unknown = not status.answered and cell.id in in_slurm and states[cell.id] != "finished"
        if cell.id not in cells or (states[cell.id] in ENDED and not unknown):
            continue
        process = _process_here(cell)
        if cell.id in in_slurm:
            jobs += in_slurm[cell.id]
            found[cell.id] = f"job {', '.join(in_slurm[cell.id])}"
        elif process is not None:
            here.append(process)
            found[cell.id] = f"process {process} on this machine"
        else:
            found[cell.id] = "runs on another machine, and has to be ended there"
    if whole and found:
        jobs += booked.reports[-1:]
    if dry_run or not found:
        return found
    with ledger.locked(run):
        ledger.book_cancelled(run, list(found))
    scheduler.cancel(jobs)
    for process in here:
        # A grid's cell writes its checkpoint first; `hpcseg train` has one that is half a minute old at most.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    return found


def _process_here(cell: Cell) -> int | None:
    """The process of a cell that runs on this machine without Slurm."""
    try:
        progress = read_json(cell.folder.progress_file)
    except IncompleteError:
        return None
    if progress.get("job_id") is None and progress.get("host") == socket.gethostname():
        return int(progress["pid"])
    return None
