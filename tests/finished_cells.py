"""A run whose cells say that they are finished, without a network that was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hpcseg.config import CellConfig, NeedsConfig, ReportConfig
from hpcseg.data.batches import open_source
from hpcseg.data.store import read_info
from hpcseg.jobfile import JobConfig
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import plan, write_plan
from hpcseg.runs.record import write_json


def finished_run(folder: Path, dataset: Path, *cells: CellConfig, split: str | None = None) -> RunFolder:
    """Writes what says that cells are finished, with `split` for the hash of their split if it is given."""
    job = JobConfig(name="test", title="Test", cells=cells, needs=NeedsConfig(), report=ReportConfig())
    run = RunFolder(folder)
    grid = plan(job, run, dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    for cell in grid.cells:
        of_cells = split or open_source(dataset, cell.config.data).split.sha256()
        write_json(cell.folder.training_file, {"split_sha256": of_cells})
        write_json(cell.folder.evaluation_file, {"settings": dataclasses.asdict(cell.config.evaluate)})
    return run
