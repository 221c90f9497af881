"""Which run, cell or model is meant: planned from a job file and the data, or found in a folder."""

from __future__ import annotations

import contextlib
import fnmatch
import os.path
import shlex
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from hpcseg.errors import ConfigError, HpcsegError, IncompleteError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.command import command_that_runs
from hpcseg.runs.folder import RUNS, CellFolder, RunFolder, closed_to_user, newest_run
from hpcseg.runs.gate import require_own
from hpcseg.runs.grid import Cell, Grid, plan, planned, planned_cells, read_plan
from hpcseg.runs.names import short_names
from hpcseg.text import counted, is_cell_id, some_of

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
        ConfigError: the job cannot be used, its tiles or its noise do not fit on these slices, or there is a run that
            is not the user's own.
        DatasetError: the data set cannot be used, is too small for a split, or was packed before what a setting goes by
            was measured.
    """
    from hpcseg.data.classes import check_weights
    from hpcseg.data.noise_check import check_noise
    from hpcseg.data.sets import check_labelled
    from hpcseg.data.store import read_info

    fitting = job or ("paper" if is_the_papers(read_info(data).data_sha256) else OWN_JOB)
    described = load_job(find_shipped("job", fitting), overrides or ())
    info = read_info(data)
    # Now and not in every job, hours later.
    for config in dict.fromkeys(cell.data for cell in described.cells):
        check_labelled(info, config)
    check_noise(described.cells, info)
    check_weights({cell.train.class_weights for cell in described.cells}, info.class_values)
    folder = RunFolder(run or RUNS / described.name)
    if folder.is_prediction():
        raise ConfigError(f"{folder.path} is a prediction. Take another folder with --run.")
    require_own(folder)
    return plan(described, folder, data, info.data_sha256)


def is_the_papers(data_sha256: str) -> bool:
    """Whether packed slices are the 500 of the paper, on their full scale of grey values."""
    return data_sha256 == _PAPERS_DATA


def run_called(name: str) -> Path:
    """A run as it was named: its folder, or what it is called in runs/."""
    return RUNS / name if not Path(name).exists() and (RUNS / name).exists() else Path(name)


def find_run(run: Path | None) -> RunFolder:
    """The folder of a run; None for the newest in runs/.

    Raises:
        IncompleteError: there is none.
    """
    if run is None:
        return newest_run(RUNS)
    if not os.path.isdir(run):
        known = sorted(str(path.parent) for path in RUNS.glob("*/grid.json"))
        none = f"There is none under {RUNS}/ either{closed_to_user(RUNS)}."
        there = f"There are {', '.join(known[:_MOST_LISTED])}." if known else none
        raise IncompleteError(f"There is no run {run}. {there}")
    return RunFolder(run)


def find_own_run(run: Path | None) -> RunFolder:
    """As `find_run`, for who acts upon what the run says; raises ConfigError where it is not the user's own."""
    found = find_run(run)
    require_own(found)
    return found


def choose_cells(
    cells: Sequence[Cell], patterns: Sequence[str] | None, *, among: Container[str] | None = None, what: str = "cell"
) -> list[str]:
    """The ids of the cells that fit any of the patterns, in their order; no pattern: all.

    Args:
        cells: that were planned together.
        patterns: from the command line: ids, or short names, which are what the screen shows, or patterns of either
            (fnmatch's: `large-*-p050-*`).
        among: ids to choose from; None: of all of these cells.
        what: those are, for the error.

    Raises:
        ConfigError: a pattern fits none.
    """
    known = [cell.id for cell in cells if among is None or cell.id in among]
    if not patterns:
        return known
    names = short_names(cells)
    return choose({one: names[one] for one in known}, patterns, what)


def refuse_others(run: RunFolder, cells: Sequence[Cell], patterns: Sequence[str] | None) -> None:
    """Raise ConfigError where one of the patterns is the id of a cell that the last `hpcseg grid` does not have."""
    known = {cell.id for cell in cells}
    for pattern in patterns or ():
        if pattern not in known and is_cell_id(pattern) and run.cell(pattern).config_file.is_file():
            raise ConfigError(
                f"{pattern} is of other settings than the last `hpcseg grid`. The command that planned it goes on "
                f"with it: `{command_that_runs(run, planned(run.cell(pattern)))}`."
            )


def choose(names: Mapping[str, str], patterns: Sequence[str], what: str) -> list[str]:
    """The ids that fit any of the patterns, or whose names do, in their order; raises ConfigError as `choose_cells`.

    Args:
        names: what the screen shows, by id.
        patterns: from the command line.
        what: those are, for the error.
    """
    fitting = {pattern: {one for one, name in names.items() if _fits(pattern, one, name)} for pattern in patterns}
    for pattern, found in fitting.items():
        if not found:
            raise ConfigError(f'No {what} fits "{pattern}". {listing(list(names.values()))}')
    return [one for one in names if any(one in found for found in fitting.values())]


def choose_cell(grid: Grid, cell: str) -> Cell:
    """The one cell of a plan that a pattern fits, as in `choose_cells`; raises ConfigError where it is not one."""
    fitting = choose_cells(grid.cells, [cell])
    if len(fitting) != 1:
        listed = "\n  ".join(fitting)
        raise ConfigError(f'"{cell}" fits {len(fitting)} cells of {grid.job.name}, but it must fit one of:\n  {listed}')
    return next(candidate for candidate in grid.cells if candidate.id in fitting)


def _fits(pattern: str, cell_id: str, name: str) -> bool:
    return pattern == name or any(fnmatch.fnmatchcase(one, pattern) for one in (cell_id, name))


def listing(names: Sequence[str]) -> str:
    """What there is to choose from."""
    listed = "".join(f"\n  {name}" for name in names[:_MOST_LISTED])
    more = f"\n  and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"There are:{listed}{more}" if names else "There is none at all."


def find_trained(cell: str, run: Path | None) -> CellFolder:
    """The folder of one trained cell: named itself, or by an id, a pattern or a short name that fits one of a run.

    Args:
        cell: as it was typed.
        run: folder of the run; None for the newest in runs/. No other is looked into.

    Raises:
        ConfigError: it fits no cell, or several.
        IncompleteError: there is no run or no such folder, or what fits is not trained.
    """
    found = find_all_trained(cell, run)
    if len(found) > 1:
        where, all_of = found[0].path.parents[1], listing([folder.id for folder in found])
        raise ConfigError(f'"{cell}" fits {len(found)} trained cells of {where}, but it must fit one. {all_of}')
    return found[0]


def find_all_trained(cell: str, run: Path | None, on_note: Callable[[str], None] = lambda _: None) -> list[CellFolder]:
    """As `find_trained`, for a pattern that may fit several; `on_note` is told which of them are left out.

    Cells of the last `hpcseg grid` come first: where some of them fit, those of others before it do not count.
    """
    named = CellFolder(Path(cell).resolve())
    if os.path.isfile(named.config_file):  # a name that is too long is no folder
        return [named]
    if run is None and os.path.isfile(RunFolder(Path(cell)).grid_file):
        cells = listing([folder.id for folder in RunFolder(Path(cell)).cell_folders()])
        raise ConfigError(f"{cell} is a run. Name one of its cells, and the run with --run. {cells}")
    if _is_file(cell):
        raise ConfigError(f"{cell} is a file, and this takes a cell that is trained. Name one, and its run with --run.")
    if os.sep in cell:
        raise IncompleteError(f"{cell} is no model file and no folder of a cell.")
    where = find_run(run)
    (names, data_sha256), folders = _planned(where), where.cell_folders()
    fitting = [folder for folder in folders if _fits(cell, folder.id, names.get(folder.id, folder.id))]
    if not fitting:
        known = [*names.values(), *(folder.id for folder in folders if folder.id not in names)]
        raise ConfigError(f'No cell of {where.path} fits "{cell}". {listing(known)}')
    trained = [folder for folder in fitting if folder.training_file.exists() and folder.model_file.exists()]
    if not trained:
        # A short name is one of the last grid's, which may have other settings than what was trained before it.
        trained_before = "".join(
            f" {counted(len(others), 'cell')} of other {what} can be named. {listing([one.id for one in others])}"
            for what, others in others_trained(where, names, data_sha256).items()
        )
        raise IncompleteError(
            f'No cell of {where.path} that fits "{cell}" is trained yet. Run `hpcseg grid` first.{trained_before}'
        )
    chosen = [folder for folder in trained if folder.id in names] or trained
    if left_out := [names[folder.id] for folder in fitting if folder not in trained and folder.id in names]:
        on_note(f'of the cells that "{cell}" fits, these are not trained yet and left out: {some_of(left_out)}.')
    return chosen


def find_model(model: str, run: Path | None) -> Path:
    """A model file, or the folder of one trained cell as in `find_trained`."""
    return Path(model) if _is_file(model) else find_trained(model, run).path


def find_models(models: str, run: Path | None, on_note: Callable[[str], None]) -> list[Path]:
    """As `find_model`, for a pattern that may fit several trained cells."""
    return [Path(models)] if _is_file(models) else [folder.path for folder in find_all_trained(models, run, on_note)]


def _is_file(model: str) -> bool:
    return os.path.isfile(model) or model.endswith(".safetensors")


def others_trained(
    run: RunFolder, known: Container[str] | None = None, data_sha256: str = ""
) -> dict[str, list[CellFolder]]:
    """The trained cells of a run that a `hpcseg grid` did not plan, named by their ids.

    Args:
        run: whose cells.
        known: ids of those that it did; None: they and the data are those of the last, whose plan takes a while to read
            where it has many.
        data_sha256: of its data; empty: not known.

    Returns:
        Them by what is other: "settings", "data" (and perhaps settings too); no key without a cell.
    """
    if known is None:
        known, data_sha256 = _planned(run)
    found: dict[str, list[CellFolder]] = {}
    for folder in run.cell_folders():
        if folder.id not in known and folder.training_file.exists():
            what = "settings" if _data_of(folder) in ("", data_sha256) or not data_sha256 else "data"
            found.setdefault(what, []).append(folder)
    return found


def _planned(run: RunFolder) -> tuple[dict[str, str], str]:
    """Short names of a run's cells by id, and the hash of their data; nothing where its plan cannot be read, which a
    model does without."""
    try:
        plan = read_plan(run)
        return short_names(planned_cells(run, plan)), plan.data_sha256
    except HpcsegError:
        return {}, ""


def _data_of(folder: CellFolder) -> str:
    """The hash of a cell's data; empty where its plan cannot be read."""
    try:
        return planned(folder).data_sha256
    except HpcsegError:
        return ""


def run_option(run: RunFolder) -> str:
    """The --run option, with a space before it, that names this run to other verbs; empty where they find it alone."""
    with contextlib.suppress(IncompleteError):
        if newest_run(RUNS).path == run.path:
            return ""
    return f" --run {shlex.quote(str(run.path))}"
