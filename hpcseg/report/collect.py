"""The records of a run in, rows and holes out: one row per cell of grid.json, grouped over training seeds.

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

from hpcseg.config import CellConfig, digest
from hpcseg.errors import IncompleteError
from hpcseg.learn import metrics
from hpcseg.runs.grid import Cell, State, read_cells
from hpcseg.runs.record import SCHEMA, RunFolder, read_json, read_lines

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
class Epoch:
    """One line of metrics.jsonl."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class Training:
    """An accepted training.json."""

    record: Mapping[str, Any]
    confusion: np.ndarray
    """Of the validation set after the last epoch."""
    epochs: tuple[Epoch, ...]
    """Empty where metrics.jsonl has not exactly the epochs 1, 2, ... of the training."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An accepted evaluation.json."""

    record: Mapping[str, Any]
    confusion: Mapping[float, np.ndarray]
    """Of the test set, by sigma in counts, ascending."""


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
        """Of the validation set after the last epoch; None for a hole."""
        return None if self.training is None else metrics.accuracy(self.training.confusion)

    def test_accuracy(self, sigma: float) -> float | None:
        """Of the test set at this sigma; None for a hole."""
        confusion = self.test_confusion(sigma)
        return None if confusion is None else metrics.accuracy(confusion)

    def test_confusion(self, sigma: float) -> np.ndarray | None:
        """Of the test set at this sigma; None for a hole."""
        return None if self.evaluation is None else self.evaluation.confusion.get(sigma)


@dataclass(frozen=True, eq=False)
class Group:
    """Cells that differ in nothing but train.seed (and in how far their sweeps go)."""

    rows: tuple[Row, ...]

    @property
    def config(self) -> CellConfig:
        """The settings of the first cell, which stand for all but the seed."""
        return self.rows[0].config

    @property
    def position(self) -> Position:
        """Where it stands in the paper's tables."""
        return self.config.data.tiles, self.config.data.split, self.config.train.noise_fraction


@dataclass(frozen=True, eq=False)
class Records:
    """All that a report is built from."""

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
    def remedy(self) -> str:
        """The sentence that fills an ordinary hole."""
        return f"Run `hpcseg grid --job {self.plan['job']}`."


def mean_and_spread(values: tuple[float, ...]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); a single value has no spread, no value has neither."""
    if not values:
        return None, None
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def collect(run: RunFolder) -> Records:
    """Read every record of a run; what cannot be used becomes a hole.

    Raises:
        IncompleteError: the folder has no grid.json that this version can read.
    """
    plan = read_json(run.grid_file)
    if plan.get("schema") != SCHEMA:
        raise IncompleteError(f"{run.grid_file} is of schema {plan.get('schema')}; this hpcseg reads schema {SCHEMA}.")
    rows = tuple(_row(cell, plan) for cell in read_cells(run))
    groups = _groups(rows)
    positions, left_out = _select(groups)
    listed = {row.id for row in rows}
    unlisted = [folder.id for folder in run.cell_folders() if folder.id not in listed]
    notes = [*left_out, *_split_notes(rows)]
    if unlisted:
        notes.append(
            f"{len(unlisted)} cell folders belong to other code, other data or another job file than grid.json and "
            f"were not read: {', '.join(unlisted)}."
        )
    return Records(plan, rows, groups, positions, tuple(notes))


# What the tables print: a record without it is refused at the door and not half-way through a table.
_BOTH = ("seconds", "precision", "world_size", "model_sha256")
_TRAINING_KEYS = (*_BOTH, "epochs", "steps", "parameters", "train_tiles", "validation_tiles", "validation_loss")
_EVALUATION_KEYS = (*_BOTH, "test_tiles", "class_values")


class _Refused(Exception):
    """A record that is there and cannot be used: the reason, and what to delete first ("" for nothing)."""

    def __init__(self, reason: str, delete: str = "") -> None:
        super().__init__(reason)
        self.delete = delete


def _row(cell: Cell, plan: Mapping[str, Any]) -> Row:
    training = evaluation = hole = None
    try:
        training = _training(cell, plan)
        evaluation = _evaluation(cell, plan, training)
    except _Refused as refused:
        first = f"Delete {refused.delete}, then run" if refused.delete else "Run"
        hole = Hole(cell.id, str(refused), f"{first} `hpcseg grid --job {plan['job']}`.")
    return Row(cell, cell.state(), training, evaluation, hole)


def _training(cell: Cell, plan: Mapping[str, Any]) -> Training:
    folder = cell.folder
    if not folder.training_file.exists():
        raise _Refused(_why_unfinished(cell))
    whole = f"cells/{cell.id}"
    config = _read(cell, "config.json", whole)
    for key, word in (("data_sha256", "other data"), ("code_sha256", "other code")):
        if config.get(key) != plan[key]:
            raise _Refused(f"its config.json is of {word} ({_short(config.get(key))}) than grid.json.", whole)
    planned = dataclasses.asdict(cell.config)
    if any(config.get(section) != planned[section] for section in ("data", "train")):
        raise _Refused("its config.json has other settings than grid.json.", whole)
    record = _read(cell, "training.json", whole)
    _check_code(record, plan, "trained", whole)
    try:
        confusion = _confusion(record["validation_confusion"])
        _require(record, _TRAINING_KEYS)
    except (KeyError, TypeError, ValueError) as error:
        raise _Refused(f"its training.json is damaged ({error}).", whole) from None
    return Training(record, confusion, _epochs(cell, record["epochs"]))


def _evaluation(cell: Cell, plan: Mapping[str, Any], training: Training) -> Evaluation:
    file = f"cells/{cell.id}/evaluation.json"
    if not cell.folder.evaluation_file.exists():
        raise _Refused(_why_unfinished(cell))
    record = _read(cell, "evaluation.json", file)
    if record.get("settings") != dataclasses.asdict(cell.config.evaluate):
        raise _Refused("it was evaluated with other settings than grid.json has.")
    if record.get("model_sha256") != training.record["model_sha256"]:
        raise _Refused("it was evaluated with another model than training.json describes.", file)
    _check_code(record, plan, "evaluated", file)
    try:
        _require(record, _EVALUATION_KEYS)
        confusion = {float(point["sigma"]): _confusion(point["confusion"]) for point in record["points"]}
        if any(len(matrix) != len(record["class_values"]) for matrix in (training.confusion, *confusion.values())):
            raise ValueError("its confusion matrices are not of its classes")
        if tuple(confusion) != cell.config.evaluate.sigmas():
            raise ValueError("its sigmas are not those of its settings")
    except (KeyError, TypeError, ValueError) as error:
        raise _Refused(f"its evaluation.json is damaged ({error}).", file) from None
    return Evaluation(record, confusion)


def _read(cell: Cell, name: str, delete: str) -> dict[str, Any]:
    try:
        record = read_json(cell.folder.path / name)
    except IncompleteError:
        raise _Refused(f"its {name} cannot be read.", delete) from None
    if record.get("schema") != SCHEMA or record.get("id") != cell.id:
        raise _Refused(
            f"its {name} is of schema {record.get('schema')} and cell {record.get('id')}, not of schema {SCHEMA} and "
            "this cell.",
            delete,
        )
    return record


def _require(record: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in record:
            raise KeyError(key)


def _check_code(record: Mapping[str, Any], plan: Mapping[str, Any], verb: str, delete: str) -> None:
    code = (record.get("provenance") or {}).get("code_sha256")
    if code != plan["code_sha256"]:
        raise _Refused(
            f"it was {verb} with other code ({_short(code)}) than grid.json has ({_short(plan['code_sha256'])}).",
            delete,
        )


def _confusion(stored: Any) -> np.ndarray:
    matrix = np.array(stored)
    metrics.accuracy(matrix)  # raises ValueError for what is no confusion matrix
    return matrix


def _epochs(cell: Cell, epochs: int) -> tuple[Epoch, ...]:
    lines = read_lines(cell.folder.metrics_file)
    try:
        if [line["epoch"] for line in lines] != list(range(1, epochs + 1)):
            return ()
        return tuple(
            Epoch(
                line["train_loss"],
                line["train_accuracy"],
                line["validation_loss"],
                metrics.accuracy(_confusion(line["validation_confusion"])),
            )
            for line in lines
        )
    except (KeyError, TypeError, ValueError):
        return ()


def _why_unfinished(cell: Cell) -> str:
    if cell.folder.failure_file.exists():
        try:
            error = str(read_json(cell.folder.failure_file).get("error"))
        except IncompleteError:
            return "its last attempt failed."
        # On one line: CUDA's errors have several, which would end the list of holes.
        return f"its last attempt failed: {' '.join(error.split()).rstrip('.')}."
    if cell.folder.training_file.exists():
        return "it is trained, but not evaluated."
    return "it is started, but not finished." if cell.folder.events_file.exists() else "it is not started."


def _short(sha256: object) -> str:
    return str(sha256)[:8] if sha256 else "not stated"


def _groups(rows: tuple[Row, ...]) -> tuple[Group, ...]:
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(_settings(row.config, {"train.seed"}), []).append(row)
    return tuple(Group(tuple(same)) for same in members.values())


def _select(groups: tuple[Group, ...]) -> tuple[dict[Position, Group], list[str]]:
    """For each position the group of the tiles' most common other settings; and what that leaves out."""
    # A blocked split's gap is no setting of a shuffled one, so it does not decide which cells belong together.
    free = {"train.seed", "train.noise_fraction", "data.tiles", "data.split", "data.gap_slices"}
    recipes = [_settings(group.config, free) for group in groups]
    votes: dict[str, Counter[str]] = {}
    for group, recipe in zip(groups, recipes, strict=True):
        votes.setdefault(group.config.data.tiles, Counter())[recipe] += 1
    positions: dict[Position, Group] = {}
    notes = []
    for group, recipe in zip(groups, recipes, strict=True):
        # Counter keeps the order of insertion, so among equals the first in the job file wins.
        if recipe != votes[group.config.data.tiles].most_common(1)[0][0] or group.position in positions:
            names = ", ".join(row.id for row in group.rows)
            notes.append(f"Left out of the tables and figures, for their other settings: {names}.")
        else:
            positions[group.position] = group
    return positions, notes


def _settings(config: CellConfig, without: set[str]) -> str:
    """A digest of all settings but some; how far a sweep goes changes no number that two cells share."""
    without = without | {"evaluate.sweep_max", "evaluate.sweep_step"}
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
