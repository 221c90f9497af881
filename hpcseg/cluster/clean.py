"""What a run leaves behind that nobody needs: pickles, scripts, logs of superseded jobs, files of crashed writers."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from hpcseg.cluster.ledger import Ledger
from hpcseg.cluster.missing import ask_of_all, may_be_queued, may_live
from hpcseg.cluster.states import RunStatus
from hpcseg.files import is_left

_SECONDS_TO_BE_OLD = 3600.0
# What submitit writes: 123_4_0_log.out, 123_submission.sh, 123_4_submitted.pkl, and under a name of its own until the
# job has its number; of such a script a link stays. Jobs by a template have a token in the place of the number.
_SUBMITITS = re.compile(
    r"(\d+(_\d+)?|hpcseg-[0-9a-f]{8}-[0-9a-f]{12})_(\d+_(log\.(out|err)|result\.pkl)|submission\.sh|submitted\.pkl)|\.?submission_file_[0-9a-f]+\.sh"
    r"|[0-9a-f]{32}\.pkl"
)
_RENDEZVOUS = ".rendezvous-"


def leftovers(status: RunStatus, chosen: Collection[str] | None = None) -> Iterator[Path]:
    """Files of a run that can go: never a result, never what a job that waits or runs still needs, nothing unknown.

    Args:
        status: of the user's own run, in which no folder is a link, a moment ago.
        chosen: ids of the cells whose files may go, and no file that another cell shares; None: of the whole run.
    """
    run, booked = status.run, status.ledger
    wanted = None if chosen is None else frozenset(chosen)
    evaluated = {cell.id for cell in status.cells if cell.evaluated()}
    # Of any settings: a job that waits loads its pickle only when it begins.
    states = ask_of_all(booked)
    alive = [job.job_id for job in booked.handed if may_live(job, run, booked, states)]
    alive += [job for job in booked.reports if may_be_queued(job, states)]
    # 123_4_submitted.pkl is of task 4 of job 123: all of an array goes together.
    in_use = {job_id.split("_")[0] for job_id in alive}
    last = {job.job_id.split("_")[0] for job in booked.jobs.values()}
    for path in sorted(path for path in run.logs.glob("*") if _SUBMITITS.fullmatch(path.name)):
        job_id = path.name.split("_")[0]
        kept = job_id in in_use or (path.suffix == ".out" and job_id in last)
        if not kept and _is_old(path) and (wanted is None or _is_of(path, wanted, booked)):
            yield path
    for folder in run.cell_folders():
        if wanted is not None and folder.id not in wanted:
            continue
        # The evaluation takes them away itself, unless it is killed between its record and that.
        if folder.id in evaluated:
            yield from filter(_is_old, folder.checkpoint_files())
        hidden = sorted(folder.path.glob(".*"))
        yield from (path for path in hidden if (is_left(path) or path.name.startswith(_RENDEZVOUS)) and _is_old(path))


def _is_of(path: Path, wanted: frozenset[str], booked: Ledger) -> bool:
    """Whether a file of submitit belongs to these cells alone."""
    # 123_4_0_log.out is of task 4 of an array, rank 0; 123_0_log.out is of a job without tasks, rank 0.
    job_id, second, _ = f"{path.name}__".split("_", 2)
    owners = booked.owners.get(f"{job_id}_{second}") or booked.owners.get(job_id)
    return owners is not None and owners <= wanted


def _is_old(path: Path) -> bool:
    """Whether a file, or a link that is removed itself, is old; a folder never is."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return not stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _SECONDS_TO_BE_OLD
