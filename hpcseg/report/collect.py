"""The records of a run in, rows and holes out: one row per cell of grid.json, grouped over seeds of training and split.

Every ratio comes from the integer confusion matrices. A record of other data, other code or another model is a hole
and never a number.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcseg import metrics
from hpcseg.config import CellConfig, NoiseLevel, digest
from hpcseg.report.accept import Evaluation, Refused, Training, accept_evaluation, accept_training
from hpcseg.runs.grid import Cell, planned_cells, read_plan
from hpcseg.runs.record import RunFolder
from hpcseg.runs.state import State

_REPEATED = {"train.seed", "data.split_seed"}
"""Settings that only repeat a measurement."""

Position = tuple[str, str, float]
"""Tiles, split and noise fraction: where a group stands in the paper's tables."""


@dataclass(frozen=True)
class Hole:
    """Something that the report should have and has not."""

    subject: str
    """Id of the cell, or name of the figure."""
    reason: str
    """One sentence."""
    remedy: str
    """One sentence: what to do."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} {self.remedy}"


@dataclass(frozen=True, eq=False)
class Row:
    """One cell: its settings, what its files say, and the records that are accepted."""

    cell: Cell
    state: State
    training: Training | None
    evaluation: Evaluation | None
    hole: Hole | None

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id

    @property
    def config(self) -> CellConfig:
        """The cell's settings."""
        return self.cell.config

    def validation_accuracy(self) -> float | None:
        """Of the validation set after the epoch that was kept; None for a hole."""
        return None if self.training is None else metrics.accuracy(self.training.confusion)

    def test_accuracy(self, level: NoiseLevel) -> float | None:
        """Of the test set with this noise; None for a hole, and where the cell does not have it."""
        confusion = self.test_confusion(level)
        return None if confusion is None else metrics.accuracy(confusion)

    def test_confusion(self, level: NoiseLevel) -> np.ndarray | None:
        """Of the test set with this noise; None for a hole, and where the cell does not have it."""
        return None if self.evaluation is None else self.evaluation.confusion.get(level)


@dataclass(frozen=True, eq=False)
class Group:
    """Repetitions: cells that differ in train.seed and data.split_seed alone (and in sweeps and pictures)."""

    rows: tuple[Row, ...]

    @property
    def config(self) -> CellConfig:
        """The settings of the first cell, which stand for all but the seeds."""
        return self.rows[0].config

    @property
    def position(self) -> Position:
        """Where it stands in the paper's tables."""
        return self.config.data.tiles, self.config.data.split, self.config.train.noise_fraction


@dataclass(frozen=True, eq=False)
class Records:
    """All that a report is built from."""

    run: RunFolder
    plan: Mapping[str, Any]
    """The content of grid.json."""
    rows: tuple[Row, ...]
    """One per cell of grid.json, in its order."""
    groups: tuple[Group, ...]
    """The rows over seeds, in the order of their first cells."""
    positions: Mapping[Position, Group]
    """The group that tables and figures take for each position; all of one `tiles` share their other settings."""
    notes: tuple[str, ...]
    """What was left out and what deserves a look, one sentence each."""

    @property
    def holes(self) -> tuple[Hole, ...]:
        """Of the cells, in their order."""
        return tuple(row.hole for row in self.rows if row.hole)

    @property
    def questions(self) -> tuple[str, ...]:
        """What the job is to answer."""
        return tuple(self.plan["report"].get("questions", ()))

    @property
    def remedy(self) -> str:
        """The sentence that fills an ordinary hole."""
        return _remedy(self.plan)


def collect(run: RunFolder) -> Records:
    """Read every record of a run; what cannot be used becomes a hole.

    Raises:
        IncompleteError: the folder has no grid.json that this version can read.
    """
    plan = read_plan(run)
    rows = tuple(_row(cell, plan) for cell in planned_cells(run, plan))
    groups = _groups(rows)
    positions = _select(groups)
    listed = {row.id for row in rows}
    unlisted = [folder.id for folder in run.cell_folders() if folder.id not in listed]
    notes = _split_notes(rows)
    if unlisted:
        notes.append(
            f"{len(unlisted)} cell folders belong to other code, other data or another job file than grid.json and "
            f"were not read: {', '.join(unlisted)}."
        )
    return Records(run, plan, rows, groups, positions, tuple(notes))


def _row(cell: Cell, plan: Mapping[str, Any]) -> Row:
    training = evaluation = hole = None
    try:
        training = accept_training(cell, plan)
        evaluation = accept_evaluation(cell, plan, training)
    except Refused as refused:
        first = f"Delete {refused.delete}, then run" if refused.delete else "Run"
        hole = Hole(cell.id, str(refused), _remedy(plan, first))
    return Row(cell, cell.state(), training, evaluation, hole)


def _remedy(plan: Mapping[str, Any], first: str = "Run") -> str:
    """The command that planned the run, where it is one that runs cells."""
    command = str(plan["command"])
    return f"{first} `{command if command.startswith('hpcseg grid') else 'hpcseg grid --job ' + plan['job']}`."


def _groups(rows: tuple[Row, ...]) -> tuple[Group, ...]:
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(_settings(row.config, _REPEATED), []).append(row)
    return tuple(Group(tuple(same)) for same in members.values())


def _select(groups: tuple[Group, ...]) -> dict[Position, Group]:
    """For each position the group of the tiles' most common other settings."""
    # A blocked split's gap is no setting of a shuffled one, so it does not decide which cells belong together.
    free = _REPEATED | {"train.noise_fraction", "data.tiles", "data.split", "data.gap_slices"}
    recipes = [_settings(group.config, free) for group in groups]
    votes: dict[str, Counter[str]] = {}
    for group, recipe in zip(groups, recipes, strict=True):
        votes.setdefault(group.config.data.tiles, Counter())[recipe] += 1
    positions: dict[Position, Group] = {}
    for group, recipe in zip(groups, recipes, strict=True):
        # Counter keeps the order of insertion, so among equals the first in the job file wins.
        if recipe == votes[group.config.data.tiles].most_common(1)[0][0]:
            positions.setdefault(group.position, group)
    return positions


def _settings(config: CellConfig, without: set[str]) -> str:
    """A digest of all settings but some; a longer sweep and pictures change no number that two cells share."""
    without = without | {"evaluate.sweep_max", "evaluate.sweep_step", "evaluate.examples"}
    return digest(
        {
            f"{section}.{key}": value
            for section, settings in dataclasses.asdict(config).items()
            for key, value in settings.items()
            if f"{section}.{key}" not in without
        }
    )


def _split_notes(rows: tuple[Row, ...]) -> list[str]:
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.training:
            key = digest(dataclasses.asdict(row.config.data))
            splits.setdefault(key, set()).add(str(row.training.record.get("split_sha256")))
    if all(len(hashes) == 1 for hashes in splits.values()):
        return []
    return ["Cells with the same data settings were trained on different splits; their numpy versions differ."]
