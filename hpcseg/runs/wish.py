"""The user's wish that a job leave out one of its cells and go on with the others: cancel.json in the cell's folder.

It names the job, so that it means nothing to the job in which the cell is submitted again.
"""

from __future__ import annotations

import os
import time

from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.provenance import slurm_job
from hpcseg.runs.record import read_json, write_json

_SECONDS_BETWEEN_LOOKS = 1.0


def leave_out(folder: CellFolder, job_id: str) -> None:
    """Tell a job, by its id in the ledger, to leave this cell out, or to stop it with a checkpoint."""
    write_json(folder.cancel_file, {"job": job_id})


def is_left_out(folder: CellFolder, job_id: str | None) -> bool:
    """Whether a job, by its id, was told to leave this cell out."""
    if job_id is None or not folder.cancel_file.exists():
        return False
    try:
        return read_json(folder.cancel_file).get("job") == job_id
    except IncompleteError:
        return False


def forget_wish(folder: CellFolder, job_id: str) -> None:
    """Have a job, which begins, meet no wish for an earlier one of the same id."""
    if is_left_out(folder, job_id):
        folder.cancel_file.unlink(missing_ok=True)


class Wish:
    """Whether this process' job is to leave out a cell; most calls only look at the clock.

    Args:
        folder: of the cell.
    """

    def __init__(self, folder: CellFolder) -> None:
        self._folder = folder
        own, outer = os.environ.get("SUBMITIT_LOCAL_JOB_ID"), slurm_job()["slurm_job_id"]
        # A local process inside of a job of Slurm has the numbers of both.
        self._job = own if os.environ.get("SUBMITIT_EXECUTOR") == "local" else outer or own
        self._looked = -_SECONDS_BETWEEN_LOOKS
        self._told = False

    def __call__(self) -> bool:
        """Asked between two steps."""
        now = time.monotonic()
        if not self._told and now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._told = is_left_out(self._folder, self._job)
        return self._told
