"""The cells of a grid in, Slurm arrays out, and a report behind them.

    array of jobs, each of one or several cells  --afterany-->  report job

A job trains and evaluates its cells one after the other in one process, which starts once for all of them. Where the
site's limits leave no room for all, the report job follows what there was room for, and submits the rest.

Under the run's lock: look what the files and Slurm say, submit what is missing, write each array down as soon as
sbatch has answered. Whatever interrupts that, the next call finds and submits the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.asked import read_resources, written_down
from hpcseg.cluster.missing import Missing, find_missing
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import FullError, NoRoomError, PolicyError, Sender, Submission, tidy_up
from hpcseg.cluster.tasks.cell import CellsTask
from hpcseg.cluster.tasks.report import ReportTask
from hpcseg.config import CellConfig
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.runs.frozen import freeze
from hpcseg.runs.grid import Cell, Grid, check_numerics

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
    submission = Submission(dry_run, no_slurm="" if done else require_slurm(instead, dry_run=dry_run))
    with contextlib.nullcontext() if dry_run else ledger.locked(grid.run):
        if not dry_run:
            tidy_up(grid.run)
        missing = find_missing(grid, resubmit=resubmit, only=only)
        submission.left_alone = missing.left_alone
        with (
            contextlib.nullcontext() if dry_run else written_down(grid, resources, missing.cells, submission, only=only)
        ):
            _submit(grid, resources, missing, submission)
        if only is None and not missing.cells and missing.unfollowed:
            _submit_report_again(grid, resources, missing.unfollowed, submission)
    return submission


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


def _submit(grid: Grid, resources: Resources, missing: Missing, submission: Submission) -> None:
    jobs = in_jobs(missing.cells, resources.cells_per_job)
    sender = _sender(grid, resources, submission)
    try:
        send_all(sender, jobs, lambda some: _send(sender, some))
    except NoRoomError as error:
        submission.no_room = str(error)
    if not submission.sent:
        return
    try:
        _send_report(sender, missing.unfollowed)
    except NoRoomError as error:
        submission.no_room = str(error)
        _make_room_for_report(sender, jobs, missing.unfollowed)
    if submission.no_room:
        # Of cells that had a job before the report takes those alone that failed for the cluster's sake.
        sent = {cell for one in submission.sent for task in one.tasks for cell in task}
        tries = ledger.read(grid.run).tries
        submission.no_report |= any(tries.get(cell.id) for cell in missing.cells if cell.id not in sent)


def _sender(grid: Grid, resources: Resources, submission: Submission) -> Sender:
    code = freeze(grid.run, write=not submission.dry_run)
    return Sender(grid.run, code, resources, f"hpcseg-{grid.job.name}", submission)


def _send(sender: Sender, jobs: Sequence[list[Cell]]) -> None:
    run, ids = _seen_by_nodes(sender), [tuple(cell.id for cell in cells) for cells in jobs]
    sender.send("cells", {cells: CellsTask(run, cells) for cells in ids})


def _send_report(sender: Sender, behind: Collection[str] = ()) -> None:
    """Submit the job that follows all: it tries again what failed for the cluster's sake, and reports."""
    sender.send_last(ReportTask(_seen_by_nodes(sender)), name="-report", behind=behind)


def _submit_report_again(grid: Grid, resources: Resources, behind: Collection[str], submission: Submission) -> None:
    """Submit the report job of cells that are under way where theirs is gone: it died, or there was no room for it."""
    # As those cells asked, for a call without options may only look.
    wishes = read_resources(grid.run) or resources
    sender = _sender(grid, wishes, submission)
    try:
        _send_report(sender, behind)
    except NoRoomError as error:
        submission.no_room, submission.no_report = str(error), True


def _seen_by_nodes(sender: Sender) -> str:
    return sender.resources.on_nodes(str(sender.run.path.resolve()))


def _make_room_for_report(sender: Sender, jobs: Sequence[list[Cell]], behind: Collection[str]) -> None:
    """Put the report in the place of the last task, whose array is submitted anew without it.

    The report submits the rest, so it is worth more than the cells that took its place.
    """
    submission = sender.submission
    if submission.jobs > 1:
        again = set(sender.take_back()[:-1])
        # Others may have taken the place meanwhile, or Slurm counts what was ended for a while.
        with contextlib.suppress(NoRoomError, PolicyError):
            if again:
                _send(sender, [cells for cells in jobs if tuple(cell.id for cell in cells) in again])
        with contextlib.suppress(NoRoomError):
            if submission.sent:
                _send_report(sender, behind)
    submission.no_report = all(sent.tasks for sent in submission.sent)


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


def send_all(sender: Sender, items: Sequence[_T], send: Callable[[list[_T]], None]) -> None:
    """Submit items by a sender, whose throttle holds for all arrays together; else as `in_arrays`."""
    resources, largest = sender.resources, largest_array(sender.resources)
    if resources.throttle and items:
        throttle = max(1, resources.throttle // -(-len(items) // largest))
        sender.resources = dataclasses.replace(resources, throttle=throttle)
        # Where there are more arrays than jobs that may run at once, also since the site takes smaller ones only.
        sender.arrays_at_once = resources.throttle // throttle
    in_arrays(items, largest, send)


def in_arrays(items: Sequence[_T], largest: int, send: Callable[[list[_T]], None]) -> None:
    """Submit items in as few arrays as the site takes, in their order.

    Args:
        items: what the tasks are for.
        largest: most tasks of one array, at least 1.
        send: submits one array; raises NoRoomError where a smaller one might fit.

    Raises:
        NoRoomError: not even one task more is taken.
        FullError: nothing is taken at all; to find that out for smaller arrays would take minutes each.
    """
    left = list(items)
    while left:
        part = left[:largest]
        try:
            send(part)
            left = left[len(part) :]
        except NoRoomError as error:
            if len(part) == 1 or isinstance(error, FullError):
                raise
            largest = len(part) // 2


def largest_array(resources: Resources) -> int:
    """Most tasks of one array, from the profile or from Slurm; at least 1."""
    known = resources.max_array_size or scheduler.max_array_size()
    # 0: the site has switched arrays off, and one task is submitted as a plain job.
    return _USUAL_ARRAY_SIZE if known is None else max(1, known)
