"""Which run a verb is about: planned from a job file and the data, or found in a folder."""

from __future__ import annotations

import fnmatch
import os.path
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from hpcseg.runs.grid import Grid
    from hpcseg.runs.record import CellFolder, RunFolder

RUNS = Path("runs")
OWN_JOB = "segment"
"""What runs on a user's own slices where no job is named."""
_PAPERS_DATA = "837bfab285293708faeec3297187c165e20ca3bd3db6ca48922cfc7fc9e510f0"
_MOST_LISTED = 20


def plan_run(job: str | None, data: Path, run: Path | None, overrides: Sequence[str] | None) -> Grid:
    """The grid of a job (a shipped one's name, or a path) over a packed data set; writes nothing.

    Args:
        job: as the option --job; None for the one that fits the slices.
        data: the packed data set.
        run: folder of the run; None for runs/JOB.
        overrides: as the option --set.

    Raises:
        ConfigError: the job cannot be used, or its tiles or its noise do not fit on these slices.
        DatasetError: the data set cannot be used, is too small for a split, or was packed before what a setting goes by
            was measured.
    """
    from hpcseg.data.layout import lay_out
    from hpcseg.data.noise_check import check_noise
    from hpcseg.data.store import read_info
    from hpcseg.jobfile import find_job, load_job
    from hpcseg.runs.grid import plan
    from hpcseg.runs.record import RunFolder

    described = load_job(find_job(job or _job_for(data)), overrides or ())
    info = read_info(data)
    # Now and not in every job, hours later.
    for config in dict.fromkeys(cell.data for cell in described.cells):
        lay_out(info, config)
    check_noise(described.cells, info)
    return plan(described, RunFolder(run or RUNS / described.name), data, info.data_sha256)


def is_the_papers(data_sha256: str) -> bool:
    """Whether packed slices are the 500 of the paper, on their full scale of grey values."""
    return data_sha256 == _PAPERS_DATA


def _job_for(data: Path) -> str:
    """What runs where no job is named."""
    from hpcseg.data.store import read_info

    return "paper" if is_the_papers(read_info(data).data_sha256) else OWN_JOB


def find_run(run: Path | None) -> RunFolder:
    """The folder of a run; None for the newest in runs/."""
    from hpcseg.runs.record import RunFolder, newest_run

    return RunFolder(run) if run else newest_run(RUNS)


def choose_cells(ids: Iterable[str], patterns: Sequence[str] | None, what: str) -> list[str]:
    """The ids that fit any of the patterns (fnmatch's: `large-*-p050-*`), in their order; no pattern: all.

    Args:
        ids: of the cells to choose from.
        patterns: from the command line.
        what: they are, for the error.

    Raises:
        ConfigError: a pattern fits none.
    """
    known = list(ids)
    if not patterns:
        return known
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            listing = "".join(f"\n  {cell_id}" for cell_id in known[:_MOST_LISTED])
            more = f"\n  and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
            there = f"There are:{listing}{more}" if known else "There is none at all."
            raise ConfigError(f'No {what} fits "{pattern}". {there}')
    return [cell_id for cell_id in known if any(fnmatch.fnmatchcase(cell_id, pattern) for pattern in patterns)]


def find_trained(cell: str, run: Path | None) -> CellFolder:
    """The folder of one trained cell: named itself, or by an id or a pattern that fits one trained cell of a run.

    Args:
        cell: as it was typed.
        run: folder of the run; None for the newest in runs/. No other is looked into.

    Raises:
        ConfigError: it fits no cell, or several.
        IncompleteError: there is no run, or what fits is not trained.
    """
    found = find_all_trained(cell, run)
    if len(found) > 1:
        listing = "".join(f"\n  {folder.id}" for folder in found[:_MOST_LISTED])
        where = found[0].path.parents[1]
        raise ConfigError(f'"{cell}" fits {len(found)} trained cells of {where}, but it must fit one:{listing}')
    return found[0]


def find_all_trained(cell: str, run: Path | None) -> list[CellFolder]:
    """As `find_trained`, for a pattern that may fit several."""
    from hpcseg.runs.record import CellFolder

    named = CellFolder(Path(cell).resolve())
    if os.path.isfile(named.config_file):  # a name that is too long is no folder
        return [named]
    where = find_run(run)
    folders = {folder.id: folder for folder in where.cell_folders()}
    fitting = [folders[cell_id] for cell_id in choose_cells(folders, [cell], f"cell of {where.path}")]
    trained = [folder for folder in fitting if folder.training_file.exists() and folder.model_file.exists()]
    if not trained:
        raise IncompleteError(f'No cell of {where.path} that fits "{cell}" is trained yet. Run `hpcseg grid` first.')
    return trained


def run_option(grid: Grid) -> str:
    """The --run option, with a space before it, that names this run to other verbs; empty where they find it alone."""
    return "" if grid.run.path == RUNS / grid.job.name else f" --run {shlex.quote(str(grid.run.path))}"
