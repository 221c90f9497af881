"""The verb `train`: one cell in this process, for debugging, for torchrun, and for schedulers other than Slurm."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import Set
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.cli.runs import plan_run
from hpcseg.errors import ConfigError


def train(
    cell: Annotated[str, typer.Argument(help="Id of a cell, or a pattern that fits one: 'large-*-p050-*'.")],
    job: Annotated[str, typer.Option(help="Name of a shipped job, or the path of a job file.")] = "paper",
    data: Annotated[Path, typer.Option(help="The packed data set.")] = DEFAULT_DATASET,
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/JOB")] = None,
    overrides: Set = None,
) -> None:
    """Train and evaluate one cell in this process, or in this one rank of torchrun or srun."""
    from hpcseg.learn.ranks import read_environment
    from hpcseg.runs.execute import run_cell
    from hpcseg.runs.grid import write_plan
    from hpcseg.runs.state import Stage, State

    grid = plan_run(job, data, run, overrides)
    chosen = [candidate for candidate in grid.cells if fnmatch.fnmatchcase(candidate.id, cell)]
    if len(chosen) != 1:
        listing = "\n  ".join(candidate.id for candidate in (chosen or grid.cells))
        raise ConfigError(f'"{cell}" fits {len(chosen)} cells of {job}, but it must fit one of:\n  {listing}')
    write_plan(grid)
    stages: tuple[Stage, ...] = ("train", "evaluate")
    for stage in stages:
        if run_cell(chosen[0].folder, stage, should_stop=lambda: False) is State.BUSY:
            console.stderr.print(f"{chosen[0].id}: another process is running it.")
            raise typer.Exit(1)
    if read_environment().rank == 0:
        console.stdout.print(f"{chosen[0].id}: finished, recorded in {chosen[0].folder.path}")
