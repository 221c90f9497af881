"""Runs that are planned without a job file, and cells that say that they are finished or run, without a network."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from hpcseg.config import CellConfig, NeedsConfig, ReportConfig
from hpcseg.data.batches import open_source
from hpcseg.data.store import read_info
from hpcseg.jobfile import JobConfig
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import write_json


def planned(folder: Path, dataset: Path, *cells: CellConfig, report: ReportConfig | None = None) -> Grid:
    """Writes the plan of a run of these cells."""
    job = JobConfig(name="test", title="Test", cells=cells, needs=NeedsConfig(), report=report or ReportConfig())
    grid = plan(job, RunFolder(folder), dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    return grid


def finished_run(folder: Path, dataset: Path, *cells: CellConfig, split: str | None = None) -> RunFolder:
    """Writes what says that cells are finished, with `split` for the hash of their split if it is given."""
    grid = planned(folder, dataset, *cells)
    for cell in grid.cells:
        of_cells = split or open_source(dataset, cell.config.data).split.sha256()
        write_json(cell.folder.training_file, {"split_sha256": of_cells})
        write_json(cell.folder.evaluation_file, {"settings": dataclasses.asdict(cell.config.evaluate)})
    return grid.run


def beat(cell: CellFolder, *, age: float = 0.0, **values: object) -> None:
    """Writes the heartbeat of a cell that trains, so many seconds old; in process 1 of n1 where no other is named."""
    steps = {"stage": "train", "epoch": 1, "epochs": 2, "step": 1, "steps_per_epoch": 2, "seconds_per_step": 1.0}
    where = {"host": "n1", "pid": 1, "job_id": None, "time": time.time() - age}
    write_json(cell.progress_file, {**steps, **where, **values})
