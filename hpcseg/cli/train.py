"""The verb `train`: one cell in this process, for debugging, for torchrun, and for schedulers other than Slurm."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import Data, Job, RunOfJob, Set
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.runs.finding import choose_cell, plan_run


def train(
    cell: Annotated[
        str, typer.Argument(help="A cell: its id, its short name, or a pattern that fits one: 'large-*-p050-*'.")
    ],
    job: Job = None,
    data: Data = DEFAULT_DATASET,
    run: RunOfJob = None,
    overrides: Set = None,
) -> None:
    """Train and evaluate one cell in this process, or in this one rank of torchrun or srun."""
    from hpcseg.launch.environment import read_environment
    from hpcseg.runs.alone import run_alone
    from hpcseg.runs.state import State

    grid = plan_run(job, data, run, overrides)
    chosen = choose_cell(grid, cell)
    outcome, rank = run_alone(grid, chosen, say=console.stderr.print), read_environment().rank
    if outcome is State.BUSY:
        console.stderr.print(f"{chosen.id}: another process is running it.")
        raise typer.Exit(1)
    if outcome is State.STOPPED:
        raise console.stopped() if rank == 0 else typer.Exit(130)
    if rank == 0:
        console.stdout.print(f"{chosen.id}: finished, recorded in {chosen.folder.path}")
