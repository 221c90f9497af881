"""The records of a run in, rows and holes out: one row per cell of grid.json, grouped over seeds of training and split.

Every ratio comes from the integer confusion matrices. A record of other data, other code or another model is a hole
and never a number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from hpcseg.config import AUTO, DataConfig, ReportConfig, digest
from hpcseg.data.splits import NO_GAP, SHORT_GAP, few_test_slices, shared_tests
from hpcseg.records.accept import Refused, accept_evaluation, accept_training, epochs_so_far, refuse_changed
from hpcseg.records.groups import Group, Position, differing, grouped, placed, select
from hpcseg.records.row import CLEAN, Hole, Row
from hpcseg.runs.command import command_that_runs
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, planned_cells, read_plan
from hpcseg.runs.names import short_names
from hpcseg.runs.record import read_as
from hpcseg.runs.schema import Plan, Trained
from hpcseg.tables import build_config
from hpcseg.text import some_of

_WAIT = "Wait for it: `hpcseg status` shows how far it is."


@dataclass(frozen=True, eq=False)
class Records:
    """All that a report is built from."""

    run: RunFolder
    plan: Plan
    """The content of grid.json."""
    settings: ReportConfig
    """What of it says what the report has."""
    rows: tuple[Row, ...]
    """One per cell of grid.json, in its order."""
    groups: tuple[Group, ...]
    """The rows over seeds, in the order of their first cells."""
    notes: tuple[str, ...]
    """What was left out and what deserves a look, one sentence each."""

    @functools.cached_property
    def positions(self) -> Mapping[Position, Group]:
        """The group of every place of the paper's tables; raises ConfigError where report.cells is wrong."""
        return select(self.groups, self.settings.cells)

    @functools.cached_property
    def differing(self) -> tuple[str, ...]:
        """Settings that it takes to tell the groups apart, beside tiles, split and noise fraction."""
        return differing(self.groups)

    @functools.cached_property
    def class_values(self) -> list[int]:
        """Values of the classes in the label images; none before a cell is evaluated."""
        return next((row.evaluation.record.class_values for row in self.rows if row.evaluation), [])

    @functools.cached_property
    def class_names(self) -> list[str]:
        """What the classes are called: their values where they have no names; none before a cell is evaluated."""
        records = [row.evaluation.record for row in self.rows if row.evaluation]
        named = (one for one in records if one.class_names is not UNSET)
        return next(named, records[0]).names if records else []

    @functools.cached_property
    def caveats(self) -> list[str]:
        """What the accuracy cannot tell: of few test slices, of sets without a gap, of a class that is never found."""
        evaluated = [len(row.evaluation.slices) for row in self.rows if row.evaluation and row.evaluation.slices]
        few = few_test_slices(min(evaluated), len({row.position for row in self.rows})) if evaluated else ""
        tested: dict[DataConfig, dict[int, tuple[int, ...]]] = {}
        for row in self.rows:
            others = dataclasses.replace(row.config.data, split_seed=0)
            if slices := row.test_slices():
                tested.setdefault(others, {})[row.config.data.split_seed] = slices
        shared = dict.fromkeys(shared_tests(of) for of in tested.values())
        trained = [row.training.record for row in self.rows if row.training]
        short = SHORT_GAP if any(one.gap_capped for one in trained) else ""
        # Slices that are unlike from one to the next need no gap, which "auto" tells.
        none = any(
            one.gap_slices == 0 and (one.gap_capped or row.config.data.gap_slices != AUTO)
            for one, row in ((row.training.record, row) for row in self.rows if row.training)
        )
        gap = NO_GAP if none else short
        return [note[0].upper() + note[1:] for note in (few, *shared, gap, self._blind) if note]

    @property
    def _blind(self) -> str:
        """Which models find nothing of a class that is in their test; empty: all find some of each."""
        blind, tested = list[tuple[Row, int]](), 0
        for row in self.rows:
            clean = row.test_confusion(CLEAN)
            if clean is not None:
                tested += 1
                missed = np.flatnonzero((clean.sum(1) > 0) & (np.diag(clean) == 0))
                blind += [(row, int(missed[0]))] if len(missed) else []
        if not blind:
            return ""
        (first, place), *_ = blind
        name = first.named(short_names([row.cell for row in self.rows])[first.cell.id])
        return (
            f"{len(blind)} of {tested} models find no pixel of a class that is in their test, such as {name} of class "
            f"{self.class_names[place]}. Train longer (train.epochs, train.epoch_steps), or label more of it."
        )

    def unplaced(self, tiles: Container[str], fractions: Container[float]) -> tuple[str, ...]:
        """A note on the cells that tables of these tiles and noise fractions have no place for."""
        placed = {group for (of, _, noise), group in self.positions.items() if of in tiles and noise in fractions}
        names = [row.id for group in self.groups if group not in placed for row in group.rows]
        what = "Not in Tables 1 and 2 and Figures 3 and 7 (see report.cells of the job file)"
        return (f"{what}: {some_of(names)}.",) if names else ()

    @property
    def gap(self) -> str:
        """How far the sets of the blocked splits are apart: with so many slices between them they are one farther."""
        # A record of the training has "auto" as a number.
        blocked = [row for row in self.rows if row.config.data.split == "blocked"]
        stated = (row.training.record.gap_slices if row.training else None for row in blocked)
        gaps = {row.config.data.gap_slices if gap is None else gap for gap, row in zip(stated, blocked, strict=True)}
        known = sorted(gap for gap in gaps if isinstance(gap, int))
        return " or ".join(f"at least {gap + 1} slices away" for gap in known) or "some slices away"

    @property
    def holes(self) -> tuple[Hole, ...]:
        """Of the cells, in their order."""
        return tuple(row.hole for row in self.rows if row.hole)

    @property
    def remedy(self) -> str:
        """The sentence that fills an ordinary hole."""
        return _remedy(self.run, self.plan)

    def lacks(self, name: str, what: str, *, planned: bool = True) -> Hole:
        """The hole of a table or a figure that has nothing to show: no command fills it where no cell is missing.

        Args:
            name: of the table or figure.
            what: it has not, one sentence.
            planned: whether any cell of the job could give it.
        """
        return Hole(name, what, self.remedy if planned and self.holes else "Choose a job that has one.")


def collect(run: RunFolder, under_way: Container[str] = ()) -> Records:
    """Read every record of a run; what cannot be used becomes a hole.

    Args:
        run: whose records.
        under_way: ids of the cells that run or wait for it, which records alone do not tell.

    Raises:
        IncompleteError: the folder has no grid.json that this version can read.
    """
    plan = read_plan(run)
    settings = build_config(ReportConfig, plan.report, f"{run.grid_file}, report")
    rows = placed(read_row(cell, plan, under_way) for cell in planned_cells(run, plan))
    listed = {row.id for row in rows}
    unlisted = [folder.id for folder in run.cell_folders() if folder.id not in listed]
    notes = _split_notes(rows)
    if unlisted:
        notes.append(
            f"{len(unlisted)} cell folders are of other settings, data or code than the last `hpcseg grid` and were "
            f"not read, such as {unlisted[0]}. `hpcseg compare {run.path.name}` sets variants side by side."
        )
    return Records(run, plan, settings, rows, grouped(rows), tuple(notes))


def read_row(cell: Cell, plan: Plan, under_way: Container[str] = ()) -> Row:
    """The accepted records of one cell; `plan` is the content of grid.json, `under_way` as in `collect`."""
    training = evaluation = hole = None
    try:
        training = accept_training(cell, plan)
        evaluation = accept_evaluation(cell, plan, training)
    except Refused as refused:
        waits = cell.id in under_way and not refused.delete
        hole = Hole(cell.id, "it runs, or waits for it.", _WAIT) if waits else _hole(cell, refused, plan)
    return Row(cell, training, evaluation, hole, training.epochs if training else epochs_so_far(cell, plan))


def trained_record(cell: Cell, plan: Plan) -> Trained | Hole:
    """The training.json of a trained or finished cell, or the hole that a report has where its records were changed."""
    try:
        refuse_changed(cell, plan)
    except Refused as refused:
        if refused.delete:
            return _hole(cell, refused, plan)
    return read_as(Trained, cell.folder.training_file)


def _hole(cell: Cell, refused: Refused, plan: Plan) -> Hole:
    first = f"Delete {refused.delete}, then run" if refused.delete else "Run"
    return Hole(cell.id, str(refused), _remedy(RunFolder(cell.folder.path.parents[1]), plan, first))


def _remedy(run: RunFolder, plan: Plan, first: str = "Run") -> str:
    return f"{first} `{command_that_runs(run, plan)}`."


def _split_notes(rows: tuple[Row, ...]) -> list[str]:
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.training:
            key = digest(dataclasses.asdict(row.config.data))
            splits.setdefault(key, set()).add(str(row.training.record.split_sha256))
    if all(len(hashes) == 1 for hashes in splits.values()):
        return []
    return ["Cells with the same data settings were trained on different splits; their numpy versions differ."]
