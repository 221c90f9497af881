"""Which run a verb is about: planned from a job file and the data, or found in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcseg.runs.grid import Grid
    from hpcseg.runs.record import RunFolder

RUNS = Path("runs")


def plan_run(job: str, data: Path, run: Path | None) -> Grid:
    """The grid of a job (a shipped one's name, or a path) over a packed data set; writes nothing.

    Args:
        job: as the option --job.
        data: the packed data set.
        run: folder of the run; None for runs/JOB.
    """
    from hpcseg.config import find_job, load_job
    from hpcseg.data.store import read_info
    from hpcseg.runs.grid import plan
    from hpcseg.runs.record import RunFolder

    described = load_job(find_job(job))
    return plan(described, RunFolder(run or RUNS / described.name), data, read_info(data).data_sha256)


def find_run(run: Path | None) -> RunFolder:
    """The folder of a run; None for the newest in runs/."""
    from hpcseg.runs.record import RunFolder, newest_run

    return RunFolder(run) if run else newest_run(RUNS)


def run_option(grid: Grid) -> str:
    """The --run option, with a space before it, that names this run to other verbs; empty where they find it alone."""
    return "" if grid.run.path == RUNS / grid.job.name else f" --run {shlex.quote(str(grid.run.path))}"
