"""A job file and a packed data set in, cells with stable ids and their file-based states out. No torch."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from hpcseg import __version__
from hpcseg.config import CellConfig, NeedsConfig, ReportConfig
from hpcseg.errors import ConfigError, HpcsegError, IncompleteError
from hpcseg.files import remove_left
from hpcseg.jobfile import JobConfig
from hpcseg.numerics import NUMERICS
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.provenance import command_line, commit, diff, diff_sha256, now
from hpcseg.runs.record import SCHEMA, read_as, read_json, write_record, write_text
from hpcseg.runs.schema import CellPlan, Plan, Planned
from hpcseg.runs.state import State
from hpcseg.tables import build_config, describes
from hpcseg.text import has_controls, is_cell_id

MOST_CELLS_OF_A_JOB = 500
"""Their ids stand on one command line, where a job runs on this machine."""


@dataclass(frozen=True)
class Cell:
    """One cell of a run: its settings and its folder."""

    config: CellConfig
    folder: CellFolder

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.folder.id

    def state(self) -> State:
        """What the cell's files say: the first of finished, trained, failed, started, missing that holds."""
        if self.evaluated():
            return State.FINISHED
        if self.folder.failure_file.exists():
            return State.FAILED
        if self.trained():
            return State.TRAINED
        return State.STARTED if self.folder.events_file.exists() else State.MISSING

    def trained(self) -> bool:
        """The training is finished and its model is there (or the evaluation, where only records were kept)."""
        return self.folder.training_file.exists() and (self.folder.model_file.exists() or self.evaluated())

    def evaluated(self) -> bool:
        """The evaluation is finished and was made with this cell's evaluation settings."""
        if not (self.folder.evaluation_file.exists() and self.folder.training_file.exists()):
            return False
        try:
            stored = read_json(self.folder.evaluation_file)
        except IncompleteError:
            return False
        return describes(stored.get("settings"), self.config.evaluate)

    def unplanned(self) -> str:
        """Why it cannot run: what is wrong with its config.json, as a sentence; empty where nothing is."""
        try:
            read_cell(self.folder)
        except (ConfigError, IncompleteError) as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Grid:
    """The cells of a run with the data and the arithmetic that they are for."""

    run: RunFolder
    job: JobConfig
    data_file: Path
    data_sha256: str
    numerics: int | None
    """None: planned before there were such numbers, so that it can be read, but not run."""
    cells: tuple[Cell, ...]


def plan(job: JobConfig, run: RunFolder, data_file: Path, data_sha256: str) -> Grid:
    """Expand a job into the cells of a run; writes nothing.

    Args:
        job: the parsed job file.
        run: where the run lives or will live.
        data_file: the packed HDF5 file.
        data_sha256: the checksum that the file states about its pixels.
    """
    cells = tuple(
        Cell(config, run.cell(config.cell_id(data_sha256=data_sha256, numerics=NUMERICS))) for config in job.cells
    )
    if not cells:
        raise ConfigError(f'The job "{job.name}" has no cells: give its file a [[grid]] table.')
    return Grid(run, job, data_file, data_sha256, NUMERICS, cells)


def check_numerics(planned: int | None, what: str) -> None:
    """See that what was planned is computed as this hpcseg computes.

    Args:
        planned: the numerics number of the plan; None: of before there were such numbers.
        what: was planned, as the error names it.

    Raises:
        HpcsegError: this hpcseg has another.
    """
    if planned != NUMERICS:
        theirs = "before there were numerics numbers" if planned is None else f"with numerics {planned}"
        raise HpcsegError(
            f"{what} was planned {theirs}, but this hpcseg computes with numerics {NUMERICS}, so its numbers would be "
            "others. Go back to the hpcseg of then, or run `hpcseg grid`: it plans new cells and leaves these alone."
        )


def write_plan(grid: Grid, *, looks: bool = False) -> None:
    """Write grid.json and every cell's config.json: all that a cell needs to run, before anything runs.

    Args:
        grid: to plan.
        looks: nothing is going to run, so the same plan keeps the command that wrote it.
    """
    remove_left(grid.run.path.glob(".*.tmp"))
    numerics = UNSET if grid.numerics is None else grid.numerics
    for cell in grid.cells:
        content = CellPlan(
            schema=SCHEMA,
            id=cell.id,
            job=grid.job.name,
            **dataclasses.asdict(cell.config),
            # Relative, so that a record names no machine and a run folder can move with its data.
            data_file=os.path.relpath(grid.data_file.resolve(), cell.folder.path.resolve()),
            data_sha256=grid.data_sha256,
            numerics=numerics,
            command=command_line(),
        ).as_dict()
        # A cell keeps the command that planned it first; and thousands of files need not be written each time.
        file = cell.folder.config_file
        if not _says(file, content) and not (file.exists() and cell.evaluated()):
            write_record(file, content, durable=False)
    plan = Plan(
        schema=SCHEMA,
        job=grid.job.name,
        title=grid.job.title,
        hpcseg_version=__version__,
        command=command_line(),
        time=now(),
        data_sha256=grid.data_sha256,
        numerics=numerics,
        commit=commit(),
        diff_sha256=keep_diff(grid.run),
        needs=dataclasses.asdict(grid.job.needs),
        report=dataclasses.asdict(grid.job.report),
        cells=[Planned(id=cell.id, **dataclasses.asdict(cell.config)) for cell in grid.cells],
    )
    if not looks or not _says(grid.run.grid_file, plan.as_dict()):
        write_record(grid.run.grid_file, plan.as_dict())


def keep_diff(run: RunFolder) -> str | None:
    """Write down what was changed in the checkout that runs; its SHA-256, None where nothing was."""
    changed = diff_sha256()
    if changed and not run.diff_file(changed).exists():
        write_text(run.diff_file(changed), diff())
    return changed


def _says(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether a JSON file has these values already but for how it came to be, whatever else it has."""
    try:
        there = read_json(file)
    except IncompleteError:
        return False
    # As JSON has it: a tuple has become a list.
    stored = json.loads(json.dumps({key: value for key, value in content.items() if key not in ("command", "time")}))
    return all(key in there and there[key] == value for key, value in stored.items())


def read_plan(run: RunFolder) -> Plan:
    """The content of a run's grid.json.

    Raises:
        IncompleteError: the run has none that this version can read.
    """
    if not os.path.lexists(run.grid_file):
        if run.is_prediction():
            raise IncompleteError(
                f"{run.path} is a prediction and no run: `hpcseg status --run {run.path}` shows it, as `logs` and "
                "`cancel` take it too, and the same `hpcseg predict` goes on with it."
            )
        raise IncompleteError(
            f"{run.path} is no run, for it has no grid.json. Name another with --run, or run `hpcseg grid` again."
        )
    plan = read_as(Plan, run.grid_file)
    if plan.numerics is UNSET and plan.code_sha256 is UNSET:
        wrong = "it has neither numerics nor code_sha256"
    elif not plan.cells:
        wrong = "it has no cells"
    elif has_controls(plan.job):
        wrong = f"its job is {plan.job!a}"
    else:
        wrong = next((f"{cell.id!r} is no id of a cell" for cell in plan.cells if not is_cell_id(cell.id)), "")
    if wrong:
        raise IncompleteError(f"{run.grid_file} is damaged: {wrong}. Run `hpcseg grid` again.")
    return msgspec.structs.replace(plan, command=_quoted(plan.command))


def _quoted(command: str) -> str:
    """A command of a run that may be somebody else's, so that a shell takes each word as it is: no `; rm`."""
    try:
        return shlex.join(shlex.split(command))
    except ValueError:
        return shlex.quote(command)


def planned_cells(run: RunFolder, plan: Plan) -> tuple[Cell, ...]:
    """The cells of a run, in the order of its grid.json, whose content `plan` is."""
    return tuple(_cell(run.cell(entry.id), entry, run.grid_file) for entry in plan.cells)


def read_grid(run: RunFolder) -> Grid:
    """The grid as it was planned, from its files; what `plan` and `write_plan` made.

    Raises:
        IncompleteError: the run has no grid.json, or none of its cells a config.json, that this version can read.
        ConfigError: a setting in them is none of this version's.
    """
    content, where = read_plan(run), str(run.grid_file)
    cells = planned_cells(run, content)
    # All say the same, and some may be damaged.
    one = next((cell for cell in cells if not cell.unplanned()), cells[0]).folder
    job = JobConfig(
        name=content.job,
        title=content.title,
        cells=tuple(cell.config for cell in cells),
        needs=build_config(NeedsConfig, content.needs, where),
        report=build_config(ReportConfig, content.report, where),
    )
    return Grid(run, job, data_file(one, planned(one)).resolve(), content.data_sha256, content.numerics or None, cells)


def read_cell(folder: CellFolder) -> Cell:
    """A cell from its folder's config.json; raises IncompleteError where there is none that can be read."""
    return _cell(folder, planned(folder), folder.config_file)


def planned(folder: CellFolder) -> CellPlan:
    """A cell's config.json; raises IncompleteError where there is none that can be read."""
    return read_as(CellPlan, folder.config_file)


def data_file(folder: CellFolder, stored: CellPlan) -> Path:
    """Where the packed file was when a cell was planned, by its config.json; IncompleteError where that has none."""
    if not stored.data_file:
        raise IncompleteError(f"{folder.config_file} has no data_file. Run `hpcseg grid` again.")
    return folder.path / stored.data_file


def _cell(folder: CellFolder, entry: Planned | CellPlan, where: Path) -> Cell:
    if entry.evaluate is UNSET:
        raise IncompleteError(f"{where} is damaged: it has no evaluate. Run `hpcseg grid` again.")
    sections = {"data": entry.data, "train": entry.train, "evaluate": entry.evaluate}
    return Cell(build_config(CellConfig, sections, str(where)), folder)
