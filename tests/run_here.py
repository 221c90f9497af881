"""All cells of a job in the test's own process, where the queue that would run them is not what is tested."""

from __future__ import annotations

from pathlib import Path

from hpcseg.runs.alone import run_alone
from hpcseg.runs.finding import plan_run
from hpcseg.runs.state import State


def run_here(job: str, data: Path = Path("dataset.h5"), run: Path | None = None) -> None:
    """As `hpcseg grid --local`: plan the run, then train and evaluate one cell after the other."""
    grid = plan_run(job, data, run, ())
    for cell in grid.cells:
        assert run_alone(grid, cell, say=lambda line: None) is State.FINISHED
