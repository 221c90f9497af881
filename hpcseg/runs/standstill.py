"""Whether the starts of a cell in its job bring it on, by what its events say: else it would be requeued for ever."""

from __future__ import annotations

from hpcseg.errors import HpcsegError
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.provenance import slurm_job
from hpcseg.runs.record import STOPS, read_lines

MOST_IDLE_STARTS = 3


def require_progress(folder: CellFolder) -> None:
    """Raise HpcsegError where a stopped cell of a Slurm job has stood still for so many starts of the job in a row.

    Each has ended by the time limit, or by a preemption, before it had made a step. The words are those by which a
    failure is known as one of the time limit.
    """
    job, restarts = slurm_job().values()
    # What is started by hand stops at a user's word.
    if restarts is None or (idle := _idle_starts(folder, job)) < MOST_IDLE_STARTS:
        return
    raise HpcsegError(
        f"The job has timed-out too many times: {idle} starts in a row have ended, by the time limit or a preemption, "
        "before the first new step. Ask for more time: `hpcseg retry --time`."
    )


def _idle_starts(folder: CellFolder, job: str | None) -> int:
    """How many of the newest starts, in a row and in this job, have stopped where they began."""
    before, idle, of = None, 0, None
    for line in read_lines(folder.events_file):
        if "slurm_job_id" in line and line["slurm_job_id"] != of:
            of, idle = line["slurm_job_id"], 0
        if line.get("event") in STOPS.values():
            where = [line.get(key) for key in ("event", "epoch", "step", "done")]
            idle = idle + 1 if where == before or not any(where[1:]) else 0
            before = where
    return idle if of == job else 0
