"""The cells of a grid in, Slurm arrays out, and a report behind them.

    array of jobs, each of one or several cells  --afterany-->  report job

A job trains and evaluates its cells one after the other in one process, which starts once for all of them. Where the
site's limits leave no room for all, the report job follows what there was room for, and submits the rest.

Under the run's lock: look what the files and Slurm say, submit what is missing, write each array down as soon as
sbatch has answered. Whatever interrupts that, the next call finds and submits the rest.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.missing import Missing, find_missing
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import FullError, NoRoomError, Sender, Submission, all_or_nothing, tidy_up
from hpcseg.config import CellConfig
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.runs.frozen import freeze
from hpcseg.runs.grid import Cell, Grid, check_numerics, write_plan
from hpcseg.runs.record import write_json

_T = TypeVar("_T")

# Slurm's own default, for a site whose scontrol does not answer.
_USUAL_ARRAY_SIZE = 1001
# Stands for the number of slices, and of tiles that cover one, where the order alone is wanted.
_ALL = 10_000


def submit_missing(
    grid: Grid, resources: Resources, *, dry_run: bool, resubmit: bool, only: Collection[str] | None = None
) -> Submission:
    """Submit what is neither finished nor in Slurm already.

    Args:
        grid: of the run.
        resources: of one job.
        dry_run: build everything, submit nothing, write nothing.
        resubmit: submit cells of which Slurm does not tell whether they still run.
        only: ids of the cells that may be submitted, of a run that was planned before, whose plan is left as it is;
            None: all, and the plan is written.

    Raises:
        ConfigError: a node has fewer GPUs than ranks.
        HpcsegError: the run was planned with another numerics number, so its cells would refuse to run.
        SchedulerError: there is no Slurm here, none answers, or sbatch refused; what it said is in the message.
    """
    if 0 < resources.gpus_per_node < resources.ranks_per_node:
        raise ConfigError(
            f"{resources.ranks_per_node} ranks per node would share {resources.gpus_per_node} GPUs, but each needs one "
            "of its own. Give both the same number, or no GPUs (--gpus-per-node 0)."
        )
    check_numerics(grid.numerics, f"The run {grid.run.path}")
    done = all(cell.evaluated() for cell in grid.cells if only is None or cell.id in only)
    instead = "`hpcseg grid --local` runs the cells on this machine."
    silence = "" if done else require_slurm(instead, dry_run=dry_run)
    if dry_run:
        shown = _submit(grid, resources, find_missing(grid, resubmit=resubmit, only=only), dry_run=True)
        shown.no_slurm = silence
        return shown
    with ledger.locked(grid.run):
        tidy_up(grid.run)
        if only is None:
            write_plan(grid)
        # Whoever tries again later, a job or `hpcseg retry`, asks for the same.
        write_json(grid.run.resources_file, asdict(resources), private=True)  # setup lines may hold a secret
        return _submit(grid, resources, find_missing(grid, resubmit=resubmit, only=only), dry_run=False)


def require_slurm(instead: str, *, dry_run: bool) -> str:
    """See that there is a Slurm, before anything is written for it.

    Args:
        instead: what the user can do without one, as a sentence.
        dry_run: its commands are enough.

    Returns:
        Of a dry run, that none answers; empty where one does.

    Raises:
        SchedulerError: Slurm's commands are not on PATH, or no controller answers them.
    """
    if shutil.which("srun") is None or shutil.which("sbatch") is None:
        raise SchedulerError(f"There is no Slurm here: sbatch and srun are not on PATH. {instead}")
    said = scheduler.no_controller()
    if said is None:
        return ""
    text = f"No Slurm answers here ({said}). {instead}"
    if not dry_run:
        raise SchedulerError(text)
    return text


def _submit(grid: Grid, resources: Resources, missing: Missing, *, dry_run: bool) -> Submission:
    submission = Submission(dry_run, left_alone=missing.left_alone)
    jobs = in_jobs(missing.cells, resources.cells_per_job)
    largest = largest_array(resources)
    arrays = -(-len(jobs) // largest)
    throttle = max(1, resources.throttle // arrays) if resources.throttle and arrays else resources.throttle
    sender = Sender(grid, freeze(grid.run, write=not dry_run), resources, throttle, submission)
    try:
        for _ in in_arrays(jobs, largest, sender.send):
            pass
    except NoRoomError as error:
        submission.no_room = str(error)
    if not submission.sent:
        return submission
    try:
        with all_or_nothing(grid.run, submission):
            sender.send_report()
    except NoRoomError as error:
        submission.no_room = str(error)
        _make_room_for_report(sender, jobs)
    return submission


def _make_room_for_report(sender: Sender, jobs: Sequence[list[Cell]]) -> None:
    """Put the report in the place of the last array, and behind it as much of that as there is room for then.

    The report submits the rest, so it is worth more than the cells that took its place.
    """
    if len(sender.submission.sent) == 1:
        sender.submission.no_report = True
        return
    taken = set(sender.take_back())
    try:
        sender.send_report()
        again = [cells for cells in jobs if tuple(cell.id for cell in cells) in taken]
        for _ in in_arrays(again, max(1, len(again) - 1), sender.send):
            pass
    except NoRoomError:
        # Others may have taken the place meanwhile.
        sender.submission.no_report = all(sent.tasks for sent in sender.submission.sent)


def in_jobs(cells: Sequence[Cell], most: int) -> list[list[Cell]]:
    """Cells in, lists of cells for one job each out: as few jobs as may be, of about the same length.

    Jobs of one cell each are in the order of the cells.

    Args:
        cells: to submit.
        most: cells of one job. Of several those that have begun before come last, since one that ends its process
            each time must not keep the others from being done; among the rest the largest come first.
    """
    if most == 1:
        return [[cell] for cell in cells]
    order = sorted(cells, key=lambda cell: (cell.folder.events_file.exists(), -_work(cell.config)))
    jobs = -(-len(cells) // most)
    return [order[first::jobs] for first in range(jobs)]


def _work(cell: CellConfig) -> float:
    """How much a training is beside others, in no unit: steps by pixels by the square of the width."""
    edge = cell.data.tile_size
    tiles = math.prod(cell.data.tile_grid(edge * _ALL, edge * _ALL)) * (cell.data.train_slices or _ALL)
    return float(cell.train.epochs * cell.train.passes(tiles) * tiles * edge**2 * cell.train.width**2)


def in_arrays(items: Sequence[_T], largest: int, send: Callable[[list[_T]], str]) -> Iterator[tuple[list[_T], str]]:
    """Submit items in as few arrays as the site takes, in their order.

    Args:
        items: what the tasks are for.
        largest: most tasks of one array, at least 1.
        send: submits one array and returns the id of its job; raises NoRoomError where a smaller one might fit.

    Yields:
        Each array's items, and the id of its job.

    Raises:
        NoRoomError: not even one task more is taken.
        FullError: nothing is taken at all; to find that out for smaller arrays would take minutes each.
    """
    left = list(items)
    while left:
        part = left[:largest]
        try:
            job_id = send(part)
        except NoRoomError as error:
            if len(part) == 1 or isinstance(error, FullError):
                raise
            largest = len(part) // 2
            continue
        left = left[len(part) :]
        yield part, job_id


def largest_array(resources: Resources) -> int:
    """Most tasks of one array, from the profile or from Slurm; at least 1."""
    known = resources.max_array_size or scheduler.max_array_size()
    # 0: the site has switched arrays off, and one task is submitted as a plain job.
    return _USUAL_ARRAY_SIZE if known is None else max(1, known)
