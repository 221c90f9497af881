"""The verb `train`: one cell in this process, for debugging, for torchrun, and for schedulers other than Slurm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import Set
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.cli.runs import choose_cells, plan_run
from hpcseg.errors import ConfigError, HpcsegError, IncompleteError

if TYPE_CHECKING:
    from hpcseg.runs.grid import Cell

_SECONDS_FOR_THE_PLAN = 600.0


def train(
    cell: Annotated[
        str, typer.Argument(help="A cell: its id, its short name, or a pattern that fits one: 'large-*-p050-*'.")
    ],
    job: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped job, or the path of a job file.",
            show_default="paper for the paper's slices, else segment",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="The packed data set.")] = DEFAULT_DATASET,
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/JOB")] = None,
    overrides: Set = None,
) -> None:
    """Train and evaluate one cell in this process, or in this one rank of torchrun or srun."""
    from hpcseg.cli.epochs import Epochs
    from hpcseg.launch.environment import read_environment
    from hpcseg.runs.execute import run_cell
    from hpcseg.runs.grid import write_plan
    from hpcseg.runs.state import Stage, State
    from hpcseg.signals import Stop

    grid = plan_run(job, data, run, overrides)
    fitting = choose_cells(grid.cells, [cell])
    if len(fitting) != 1:
        listing = "\n  ".join(fitting)
        raise ConfigError(
            f'"{cell}" fits {len(fitting)} cells of {grid.job.name}, but it must fit one of:\n  {listing}'
        )
    (chosen,) = (candidate for candidate in grid.cells if candidate.id in fitting)
    rank = read_environment().rank
    if rank == 0:
        write_plan(grid)
    else:
        _wait_for_plan(chosen, rank)
    stages: tuple[Stage, ...] = ("train", "evaluate")
    epochs = Epochs(chosen, skip=True)

    def on_epoch() -> None:
        for line in epochs.news():
            console.stderr.print(line)

    with Stop() as stop:
        for stage in stages:
            if rank == 0:
                console.stderr.print(f"{chosen.id}: {'training' if stage == 'train' else 'evaluating'}")
            outcome = run_cell(chosen.folder, stage, should_stop=stop, on_epoch=on_epoch)
            if outcome is State.BUSY:
                console.stderr.print(f"{chosen.id}: another process is running it.")
                raise typer.Exit(1)
            if outcome is State.STOPPED:
                raise console.stopped() if rank == 0 else typer.Exit(130)
    if rank == 0:
        console.stdout.print(f"{chosen.id}: finished, recorded in {chosen.folder.path}")


def _wait_for_plan(cell: Cell, rank: int) -> None:
    """Wait until rank 0 has written this cell's settings; what else the plan says is read after the ranks have met."""
    from hpcseg.runs.grid import read_cell

    deadline = time.monotonic() + _SECONDS_FOR_THE_PLAN
    while time.monotonic() < deadline:
        try:
            # A finished cell's settings stay as they were.
            if read_cell(cell.folder).config == cell.config or cell.evaluated():
                return
        except (IncompleteError, ConfigError):
            # Not written yet, or an earlier version's.
            pass
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {rank} waited {_SECONDS_FOR_THE_PLAN / 60:.0f} minutes for rank 0 to write "
        f"{cell.folder.config_file}. Is the run folder on a file system that all nodes see?"
    )
