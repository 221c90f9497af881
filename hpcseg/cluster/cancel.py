"""Cells in, ended jobs out; written down first, so that the follow-up job does not bring them back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.ledger import Booked
from hpcseg.cluster.local import end_at_once
from hpcseg.cluster.states import RunStatus, lives_here
from hpcseg.errors import IncompleteError
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import read_json
from hpcseg.runs.state import State


def cancel_cells(status: RunStatus, cells: Collection[str], *, with_report: bool, dry_run: bool) -> dict[str, str]:
    """Cancel cells that wait or run.

    Args:
        status: of the run, a moment ago.
        cells: ids.
        with_report: the report job as well, which else would follow the others, and a `hpcseg grid` on this machine,
            which else would start the next cell.
        dry_run: only say what would be done.

    Returns:
        Cell id to what was ended.

    Raises:
        SchedulerError: scancel refuses.
    """
    run, booked, wanted = status.run, status.ledger, frozenset(cells)
    states = {cell.cell: cell.state for cell in status.status}
    in_slurm: dict[str, list[str]] = {}
    for (owner, _), job in booked.slurm_jobs().items():
        # The evaluation waits behind the training.
        in_slurm.setdefault(owner, []).append(job)
    # At most one stage of a cell runs.
    started = {owner: job for (owner, _), job in booked.jobs.items() if lives_here(job)}
    here: list[tuple[int, signal.Signals]] = []
    loading: list[str] = []
    jobs: list[str] = []
    found: dict[str, str] = {}
    for cell in status.cells:
        # Where Slurm is silent, what it was given may still wait there.
        unknown = not status.answered and cell.id in in_slurm and states[cell.id] is not State.FINISHED
        if cell.id not in wanted or (states[cell.id].idle and not unknown):
            continue
        process = _process_here(cell)
        if cell.id in in_slurm:
            jobs += in_slurm[cell.id]
            found[cell.id] = f"job {', '.join(in_slurm[cell.id])}"
        elif process is not None:
            # It writes its checkpoint first.
            here.append((process, signal.SIGTERM))
            found[cell.id] = f"process {process} on this machine"
        elif cell.id in started:
            # It loads its data, and there is nothing to save.
            loading.append(started[cell.id].job_id)
            found[cell.id] = f"process {started[cell.id].job_id} on this machine"
        else:
            found[cell.id] = "runs on another machine, and has to be ended there"
    if with_report and found:
        jobs += booked.reports[-1:]
        here = [(queue, signal.SIGTERM) for queue in _queues_here(started.values())] + here
    if dry_run or not found:
        return found
    with ledger.locked(run):
        ledger.book_cancelled(run, list(found))
    scheduler.cancel(jobs)
    for process, number in here:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    for job_id in loading:
        end_at_once(job_id)
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


def _queues_here(started: Iterable[Booked]) -> set[int]:
    """The `hpcseg grid` that have started local jobs which are alive: the parents of their processes."""
    found = set()
    for job in started:
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...", and a name may hold anything.
            parent = Path(f"/proc/{job.job_id}/stat").read_text().rpartition(")")[2].split()[1]
            if b"hpcseg" in Path(f"/proc/{parent}/cmdline").read_bytes():
                found.add(int(parent))
    return found
