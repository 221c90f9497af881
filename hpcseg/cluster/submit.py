"""The cells of a grid in, Slurm arrays out: training, evaluation behind it, a report behind all.

    training array  --aftercorr-->  evaluation array  --afterany-->  report job

Where the site's limits leave no room for all, the report job follows what there was room for, and submits the rest.

Under the run's lock: look what the files and Slurm say, submit what is missing, write each array down as soon as
sbatch has answered. Whatever interrupts that, the next call finds and submits the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.missing import Missing, find_missing
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import FullError, NoRoomError, Sender, Submission, tidy_up
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.runs.frozen import freeze
from hpcseg.runs.grid import Cell, Grid, check_numerics, write_plan
from hpcseg.runs.record import write_json

_T = TypeVar("_T")

# Slurm's own default, for a site whose scontrol does not answer.
_USUAL_ARRAY_SIZE = 1001


def submit_missing(
    grid: Grid, resources: Resources, *, dry_run: bool, resubmit: bool, only: Collection[str] | None = None
) -> Submission:
    """Submit what is neither finished nor in Slurm already.

    Args:
        grid: of the run.
        resources: of one cell.
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
    silence = require_slurm("`hpcseg grid --local` runs the cells on this machine.", dry_run=dry_run)
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
    largest = largest_array(resources)
    arrays = -(-len(missing.train) // largest)
    throttle = max(1, resources.throttle // arrays) if resources.throttle and arrays else resources.throttle
    sender = Sender(grid, freeze(grid.run, write=not dry_run), resources, throttle, submission)
    # The last jobs of all cells: what the report waits for.
    last: list[str] = []
    try:
        for cells, base in in_arrays(missing.train, largest, lambda part: sender.send(part, "train", dependency=None)):
            last.append(base)
            last[-1] = _evaluate_behind(sender, cells, base)
        for _, base in in_arrays(
            missing.evaluate, largest, lambda part: sender.send(part, "evaluate", dependency=None)
        ):
            last.append(base)
        for cells, base in _by_training(missing.follow):
            last.append(_evaluate_behind(sender, cells, base))
    except NoRoomError as error:
        submission.no_room = str(error)
    if not last:
        return submission
    try:
        sender.send_report("afterany:" + ":".join(last))
    except NoRoomError as error:
        submission.no_room = str(error)
        submission.no_report = True
    return submission


def _evaluate_behind(sender: Sender, cells: Sequence[Cell], training: str) -> str:
    """Submit the evaluations of cells behind the tasks 0, 1, ... of their training, or behind one plain job."""
    # An array of one task is no array, and aftercorr knows arrays only.
    condition = "aftercorr" if len(cells) > 1 else "afterok"
    return sender.send(cells, "evaluate", dependency=f"{condition}:{training}")


def _by_training(follow: Sequence[tuple[Cell, str]]) -> Iterator[tuple[list[Cell], str]]:
    """Cells whose trainings are all tasks of one array together, in its order; others alone with the task's id."""
    arrays: dict[str, dict[int, Cell]] = {}
    for cell, training in follow:
        base, _, task = training.partition("_")
        arrays.setdefault(base, {})[int(task or 0)] = cell
    for base, tasks in arrays.items():
        if len(tasks) > 1 and sorted(tasks) == list(range(len(tasks))):
            yield [tasks[task] for task in range(len(tasks))], base
    for cell, training in follow:
        tasks = arrays[training.partition("_")[0]]
        if len(tasks) == 1 or sorted(tasks) != list(range(len(tasks))):
            yield [cell], training


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
