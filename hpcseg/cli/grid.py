"""The verb `grid`: run every cell of a job that is not finished, on a cluster or here."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.cli.options import SLURM, AsJson, Data, Job, RankOptions, RunOfJob, Set
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped
from hpcseg.runs.finding import others_trained, plan_run, run_option
from hpcseg.runs.folder import RUNS
from hpcseg.runs.grid import MOST_CELLS_OF_A_JOB
from hpcseg.runs.names import short_names
from hpcseg.runs.state import State
from hpcseg.text import counted

if TYPE_CHECKING:
    from hpcseg.bench.estimate import Estimate
    from hpcseg.cluster.profile import Profile, Resources
    from hpcseg.cluster.sender import Submission
    from hpcseg.runs.grid import Cell, Grid


def grid(
    job: Job = None,
    data: Data = DEFAULT_DATASET,
    run: RunOfJob = None,
    overrides: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and the sbatch scripts, do nothing.")
    ] = False,
    local: Annotated[
        bool | None,
        typer.Option(
            "--local/--slurm",
            help="Where to run.",
            show_default="Slurm if sbatch is there, or with --partition and --profile",
        ),
    ] = None,
    submit_with: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Another scheduler: your job script with words in braces, or pbs, lsf (slurm/README.md).",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time on this machine.", show_default="one per GPU, else one")
    ] = None,
    cells_per_job: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_CELLS_OF_A_JOB,
            help="Most cells that one process takes, one after the other.",
            show_default="a quarter of an hour of them by hpcseg bench, else one; here: all",
        ),
    ] = None,
    *,
    slurm: RankOptions,
    throttle: Annotated[
        int | None,
        typer.Option(help="Jobs of this call that may run at once; others' come on top.", rich_help_panel=SLURM),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(help="Jobs a cell gets where the cluster fails it.", show_default="3", rich_help_panel=SLURM),
    ] = None,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Submit cells whose Slurm state is unknown.", rich_help_panel=SLURM)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run every cell of a job that is not finished: as jobs of a cluster, or one after the other on this machine."""
    from hpcseg.cluster import ledger
    from hpcseg.cluster.local import find_slots
    from hpcseg.cluster.profile import resolve
    from hpcseg.cluster.scheduler import no_controller
    from hpcseg.cluster.states import other_jobs
    from hpcseg.cluster.submit import submit_missing
    from hpcseg.cluster.submit_with import submit_missing_with
    from hpcseg.cluster.template import read_template
    from hpcseg.data.sets import shared_positions
    from hpcseg.data.store import read_info
    from hpcseg.report.texts import check_names

    template = read_template(find_shipped("template", submit_with)) if submit_with is not None else None
    planned = plan_run(job, data, run, overrides)
    # Now, and not when all cells are finished.
    check_names(planned.job.report, planned.job.name if job is None else str(find_shipped("job", job)))
    options = slurm.wishes(throttle=throttle, cells_per_job=cells_per_job, tries=tries)
    site = slurm.site()
    resources = resolve(planned.job.needs, site, options)
    if template is not None:
        _refuse_beside_template(local, workers, slurm.profile, options)
        local = False
    with console.json_answer(as_json) as answer:
        if local is None:
            local = not slurm.wanted and shutil.which("sbatch") is None
            if dry_run and not (local or slurm.wanted) and (said := no_controller()):
                # What would be submitted is of no use to whoever cannot submit it.
                local = True
                console.say(
                    f"No Slurm answers here ({said}). This is what --local would do; --slurm shows the scripts."
                )
        states = [cell.state() for cell in planned.cells]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        console.say(f"{planned.job.title}: {counted(len(states), 'cell')} in {planned.run.path} ({counts})")
        if "data" in others_trained(planned.run, {cell.id for cell in planned.cells}, planned.data_sha256):
            console.note("this run has cells of other data; --run runs/NAME keeps them apart.")
        if note := ledger.read(planned.run).note:
            console.say(note)
        if going_on := other_jobs(planned.run, {cell.id for cell in planned.cells}):
            shown = ", ".join(dict.fromkeys(job.shown.split("_")[0] for job in going_on.values()))
            console.note(
                f"{counted(len(going_on), 'cell')} of other settings of this run still "
                f"{'wait or run' if len(going_on) > 1 else 'waits or runs'} (job {shown}). To end them: `hpcseg cancel "
                f"--others{run_option(planned.run)}`."
            )
        # Sets are described in a dry run; but it is before the training that other positions are asked for.
        if not dry_run:
            for note in shared_positions(read_info(planned.data_file), (cell.config.data for cell in planned.cells)):
                console.say(f"Note: {note}")
        # What a job needs of a cluster is no wish for this machine; only the command line is.
        slots = find_slots(workers, 1 if options.gpus_per_node is None else options.gpus_per_node) if local else []
        if local:
            if asked := [option for option in options.options() if option not in _HERE]:
                console.note(f"{', '.join(asked)}: asked of Slurm alone, and the cells run on this machine.")
            try:
                _run_missing_here(planned, resources, options, slots, dry_run=dry_run, resubmit=resubmit)
            finally:
                answer.update(cells_answer(planned, look=as_json and not dry_run))
        else:
            if workers is not None:
                console.note("--workers: of cells on this machine alone; of jobs --throttle says how many run.")
            if options.cells_per_job is None and site.cells_per_job is None:
                resources = dataclasses.replace(resources, cells_per_job=_cells_per_job(planned, resources))
            if template is not None:
                submission = submit_missing_with(template, planned, resources, dry_run=dry_run, resubmit=resubmit)
            else:
                submission = submit_missing(planned, resources, dry_run=dry_run, resubmit=resubmit)
            show_submission(submission, planned, answer, as_json=as_json)
        if dry_run:
            _show_trainings_and_sets(planned)
            if local:
                on_gpu = bool(slots[0])
                # Cells that run beside each other on the cores of one machine share them.
                at_once = len(slots) if on_gpu else 1
            else:
                on_gpu, at_once = resources.gpus_per_node > 0, resources.throttle or len(planned.cells)
            _show_estimate(planned, on_gpu=on_gpu, at_once=at_once)


# What a template may ask for, or what is hpcseg's own affair.
_OF_TEMPLATES = frozenset({"--gpus-per-node", "--cpus-per-task", "--mem", "--time", "--cells-per-job"})
# What is for this machine as well.
_HERE = frozenset({"--gpus-per-node", "--ranks-per-node", "--cells-per-job"})


def _refuse_beside_template(local: bool | None, workers: int | None, profile: str | None, options: Profile) -> None:
    """Raise ConfigError where an option is given that means nothing to jobs by a template."""
    given = [
        *((("--slurm", "--local")[local],) if local is not None else ()),
        *(("--workers",) if workers is not None else ()),
        *(("--profile",) if profile is not None else ()),
        *(option for option in options.options() if option not in _OF_TEMPLATES),
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)} and --submit-with cannot go together: what your scheduler is to be asked for "
            "stands in the template. Write it there."
        )


def _show_trainings_and_sets(grid: Grid) -> None:
    """Print what decides how long a training takes, and is often set otherwise, and what each set has of the slices."""
    from hpcseg.data.sets import describe_sets
    from hpcseg.data.store import read_info

    trainings = [cell.config.train for cell in grid.cells]

    def values(name: str) -> str:
        return ", ".join(map(str, dict.fromkeys(getattr(train, name) for train in trainings)))

    batches = f"batches of {values('batch_size')} tiles"
    console.say(f"Training: width {values('width')}; epochs {values('epochs')}; {batches}.")
    for line in describe_sets(read_info(grid.data_file), [cell.config for cell in grid.cells]):
        console.say(line)


def _show_estimate(grid: Grid, *, on_gpu: bool, at_once: int) -> None:
    """Print how long the unfinished cells take, if a bench was made on such a device."""
    if found := _estimate(grid, on_gpu=on_gpu):
        console.say(found.text(at_once=at_once))
    elif not all(cell.evaluated() for cell in grid.cells):
        console.say(f"How long they take, `hpcseg bench` on {'a GPU node' if on_gpu else 'this machine'} will tell.")


def _estimate(grid: Grid, *, on_gpu: bool) -> Estimate | None:
    """Of the unfinished cells; None where there are none, or no bench was made on such a device."""
    from hpcseg.bench.estimate import estimate, find_bench
    from hpcseg.data.store import read_info

    if (record := find_bench((grid.run.path.parent, RUNS), gpu=on_gpu)) is None:
        return None
    waiting = [cell.config for cell in grid.cells if not cell.evaluated()]
    return estimate(waiting, read_info(grid.data_file), record) if waiting else None


def _cells_per_job(grid: Grid, resources: Resources) -> int:
    """As many as a job has time for; 1 where nothing is known of that."""
    found = _estimate(grid, on_gpu=resources.gpus_per_node > 0)
    return 1 if found is None else found.cells_per_job(resources.minutes)


def _run_missing_here(
    grid: Grid, resources: Resources, options: Profile, slots: list[tuple[str, ...]], *, dry_run: bool, resubmit: bool
) -> None:
    from hpcseg.cluster.missing import find_missing
    from hpcseg.runs.grid import write_plan

    names = short_names(grid.cells)
    if dry_run:
        for cell in grid.cells:
            console.stdout.print(f"  {names[cell.id]}: {cell.state()}")
        order = "one after the other" if len(slots) == 1 else f"{len(slots)} at a time"
        console.say(
            "Every cell is finished, so nothing would run."
            if all(cell.evaluated() for cell in grid.cells)
            else f"Those that are not finished would run here, {order}; no sbatch is involved."
        )
        return
    write_plan(grid)
    waiting = [cell for cell in grid.cells if not cell.evaluated()]
    if not waiting:
        console.stdout.print(f"Every cell is finished, nothing to do.\nNext: hpcseg report{run_option(grid.run)}")
        return
    left_alone = find_missing(grid, resubmit=resubmit).left_alone
    waiting = [cell for cell in waiting if cell.id not in left_alone]
    for cell_id, why in left_alone.items():
        console.say(f"  {names[cell_id]}: {why}")
    if not waiting:
        console.stdout.print(f"Jobs have all that are not finished.\nNext: hpcseg status{run_option(grid.run)}")
        return
    run_here(
        grid,
        waiting,
        slots=slots,
        cells_per_job=options.cells_per_job,
        ranks=options.ranks_per_node,
        for_gpus=resources.gpus_per_node > 0 and options.gpus_per_node != 0,
    )


def run_here(
    grid: Grid,
    cells: list[Cell],
    *,
    slots: list[tuple[str, ...]],
    cells_per_job: int | None = None,
    ranks: int | None = None,
    for_gpus: bool = False,
) -> None:
    """Run cells on this machine and show how it goes; exits with 1 when one fails, with 130 where they were stopped.

    Args:
        grid: whose plan is written.
        cells: of it, unfinished.
        slots: from `find_slots`.
        cells_per_job: most cells of one process; None: as `run_locally` has it.
        ranks: per cell; None: one per GPU, else one.
        for_gpus: the job is meant for them, so it is said when there is none.
    """
    from hpcseg.cli.next_step import WIDEST_ON_CPUS, too_slow
    from hpcseg.cli.queue_view import QueueView
    from hpcseg.cluster.local import run_locally
    from hpcseg.runs.command import command_that_runs
    from hpcseg.runs.grid import check_numerics, read_plan

    check_numerics(grid.numerics, f"The run {grid.run.path}")
    wide = any(cell.config.train.width > WIDEST_ON_CPUS for cell in cells)
    if for_gpus and wide and not slots[0]:
        console.say(too_slow(grid.job.name, grid.data_sha256), to=console.stderr)
    with QueueView(grid.cells, cells) as view:
        try:
            summary = run_locally(
                cells,
                grid.run,
                slots=slots,
                ranks=ranks or max(1, len(slots[0])),
                cells_per_job=cells_per_job,
                on_event=view.show,
                on_stop=lambda: console.stderr.print("Stopping after the step under way. Ctrl-C again ends at once."),
            )
        except KeyboardInterrupt:
            raise console.stopped() from None
    names = short_names(grid.cells)
    for state, text in ((State.FAILED, "failed"), (State.BUSY, "run by another process")):
        for cell_id in (one for one, became in summary.items() if became is state):
            console.stdout.print(f"  {names[cell_id]}: {text}")
    ended = Counter(summary.values())
    left = sum(not cell.evaluated() for cell in grid.cells) - ended[State.FAILED]
    to_do = f", {left} to do" if left else ""
    console.stdout.print(f"{counted(ended[State.FINISHED], 'cell')} finished, {ended[State.FAILED]} failed{to_do}.")
    if ended[State.STOPPED] or ended[State.CANCELLED]:
        raise console.stopped()
    if ended[State.FAILED]:
        option = run_option(grid.run)
        console.stdout.print(f"Next: hpcseg logs --failed{option}, then hpcseg retry{option}")
        raise typer.Exit(1)
    console.stdout.print(
        f"Next: {command_that_runs(grid.run, read_plan(grid.run)) if left else f'hpcseg report{run_option(grid.run)}'}"
    )


def cells_answer(grid: Grid, *, look: bool) -> dict[str, Any]:
    """The cells of a run for a script; with `look` as `hpcseg status` has them.

    Files alone do not tell of what was just submitted, nor of what another process runs.
    """
    if look:
        from hpcseg.cluster.states import run_status

        states = {found.cell: found.state for found in run_status(grid.run).status}
    else:
        states = {cell.id: cell.state() for cell in grid.cells}
    return {"run": str(grid.run.path), "cells": [{"cell": cell, "state": state} for cell, state in states.items()]}


def show_submission(submission: Submission, grid: Grid, answer: dict[str, Any], *, as_json: bool) -> None:
    """Print what was submitted and what to run next; `answer` gets the same for a script.

    Of a dry run ids are placeholders, and `scripts` is what sbatch would get.
    """
    answer |= {
        **cells_answer(grid, look=as_json and not submission.dry_run),
        "dry_run": submission.dry_run,
        "submitted": [{"stage": sent.stage, "tasks": sent.tasks, "job_id": sent.job_id} for sent in submission.sent],
        "left_alone": submission.left_alone,
        "no_room": submission.no_room,
        "scripts": submission.scripts,
    }
    for line in submission.lines(short_names(grid.cells)):
        console.stdout.print(line)
    if submission.no_report and submission.sent and not submission.no_room:
        console.stdout.print("None of these jobs makes the report, or tries again what fails: that is left to you.")
    if all(cell.evaluated() for cell in grid.cells):
        console.stdout.print(f"Every cell is finished, nothing to do.\nNext: hpcseg report{run_option(grid.run)}")
    elif not submission.dry_run:
        console.stdout.print(f"Next: hpcseg status{run_option(grid.run)}, then hpcseg report{run_option(grid.run)}")
