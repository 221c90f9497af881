"""One cell's record files in, accepted records out: what is damaged, or of other data, code or model, is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from msgspec import UNSET

from hpcseg import metrics
from hpcseg.config import NoiseLevel
from hpcseg.data.grey import GreyScale, read_scale
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.files import read_regular
from hpcseg.records.consistent import check_evaluation, check_kept, check_slices, check_training
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import (
    CHANGED,
    MOST_BYTES_OF_LINES,
    SCHEMA,
    SURE,
    ChangedError,
    read_json,
    wrong_schema,
)
from hpcseg.runs.schema import (
    CellPlan,
    Coded,
    EpochLine,
    Evaluated,
    EvaluatedPoint,
    EvaluatedSlice,
    Matrix,
    Plan,
    Trained,
    as_record,
)
from hpcseg.runs.told import finished_epochs, read_failure
from hpcseg.sigma import Share
from hpcseg.tables import describes

_OTHER_MODEL = "it was evaluated with another model than training.json describes."
_Kind = TypeVar("_Kind", CellPlan, Trained, Evaluated)


@dataclass(frozen=True, eq=False)
class Training:
    """An accepted training.json."""

    record: Trained
    confusion: np.ndarray
    """Of the validation set after the epoch that was kept."""
    epochs: tuple[EpochLine, ...]
    """Empty where metrics.jsonl has not exactly the epochs 1, 2, ... of the training, or was changed."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An accepted evaluation.json."""

    record: Evaluated
    confusion: Mapping[NoiseLevel, np.ndarray]
    """Of the test set, by its noise, in the order of the settings."""
    near_edge: Mapping[NoiseLevel, Mapping[int, np.ndarray]]
    """The same of the pixels within so many pixels of a label's edge; nothing in a record of before they were kept."""
    interfaces: Mapping[NoiseLevel, np.ndarray]
    """(C, C) pairs of neighbouring pixels that were given two classes, above the diagonal."""
    label_interfaces: np.ndarray | None
    """The same of the labels."""
    sure: Mapping[NoiseLevel, Mapping[str, np.ndarray]]
    """(SURE_BINS, 3) counts of how sure the model is, by the names of `SURE`; nothing in a record of before."""
    slices: tuple[EvaluatedSlice, ...]
    """Of the slices that test tiles come from; none in a record of before they were kept."""
    grey: GreyScale | None = None
    """Of the data; None in a record of before it was kept, whose sigmas are counts."""


class Refused(Exception):
    """A record that is not there or cannot be used: the reason, and what to delete first ("" for nothing)."""

    def __init__(self, reason: str, delete: str = "") -> None:
        super().__init__(reason)
        self.delete = delete


def accept_training(cell: Cell, plan: Plan) -> Training:
    """The training record of a cell; raises Refused.

    Args:
        cell: as grid.json describes it.
        plan: the content of grid.json.
    """
    if not cell.folder.training_file.exists():
        raise Refused(_why_unfinished(cell))
    folder = f"cells/{cell.id}"
    _check_config(cell, plan, folder)
    record = _read(Trained, cell, "training.json", folder)
    try:
        _check_code(record.provenance, plan, "it was trained with", folder)
        confusion = _confusion(record.validation_confusion)
        check_training(record, confusion, cell.config)
        lines = _lines_of(cell, record)
        check_kept(record, lines)
    except (ValueError, OverflowError) as error:
        raise Refused(f"its training.json is damaged ({error}).", folder) from None
    return Training(record, confusion, _with_matrices(lines) if len(lines) == record.epochs else ())


def refuse_changed(cell: Cell, plan: Plan) -> None:
    """See that the records of a trained or finished cell are those that were written; raises Refused.

    What `accept_training` and `accept_evaluation` refuse as damaged or changed is refused with the same words. Where
    checksums tell, no number is looked at, so that it takes a moment for thousands of cells.

    Args:
        cell: as grid.json describes it.
        plan: the content of grid.json.
    """
    folder, file = f"cells/{cell.id}", f"cells/{cell.id}/evaluation.json"
    _read(CellPlan, cell, "config.json", f"{folder}/config.json")
    training = _read(Trained, cell, "training.json", folder)
    there = cell.folder.evaluation_file.exists()
    evaluation = _read(Evaluated, cell, "evaluation.json", file) if there else None
    schemas = {one.schema for one in (training, evaluation) if one}
    if SCHEMA in schemas and evaluation:
        if evaluation.model_sha256 != training.model_sha256:
            raise Refused(_OTHER_MODEL, file)
        try:
            _slice_lines(cell, evaluation)
        except ValueError as error:
            raise Refused(f"its evaluation.json is damaged ({error}).", file) from None
    if 1 in schemas:
        accepted = accept_training(cell, plan)
        if evaluation:
            accept_evaluation(cell, plan, accepted)


def epochs_so_far(cell: Cell, plan: Plan) -> tuple[EpochLine, ...]:
    """The epochs of a training that is under way, or was stopped; arguments as in `accept_training`."""
    try:
        _check_config(cell, plan, "")
        return _with_matrices(_epochs_of(cell))
    except (Refused, ValueError, OverflowError):
        return ()


def _check_config(cell: Cell, plan: Plan, folder: str) -> None:
    # A plan writes it again as it was, since the id says it all: what was trained can stay.
    config = _read(CellPlan, cell, "config.json", folder and f"{folder}/config.json")
    if config.data_sha256 != plan.data_sha256:
        raise Refused(f"its config.json is of other data ({config.data_sha256[:8]}) than grid.json.", folder)
    _check_code(config, plan, "its config.json is of", folder)
    if not (describes(config.data, cell.config.data) and describes(config.train, cell.config.train)):
        raise Refused("its config.json has other settings than grid.json.", folder)


def accept_evaluation(cell: Cell, plan: Plan, training: Training) -> Evaluation:
    """The evaluation record of a cell, of the model that `training` describes; raises Refused."""
    file = f"cells/{cell.id}/evaluation.json"
    if not cell.folder.evaluation_file.exists():
        raise Refused(_why_unfinished(cell))
    record = _read(Evaluated, cell, "evaluation.json", file)
    if not describes(record.settings, cell.config.evaluate):
        raise Refused("it was evaluated with other settings than grid.json has.")
    if record.model_sha256 != training.record.model_sha256:
        raise Refused(_OTHER_MODEL, file)
    try:
        _check_code(record.provenance, plan, "it was evaluated with", file)
        points = _by_level(cell, record.points)
        confusion = {level: _confusion(point.confusion) for level, point in points.items()}
        near = {
            level: {distance: _confusion(matrix) for distance, matrix in point.near_edge.items()}
            for level, point in points.items()
            if point.near_edge is not UNSET
        }
        interfaces = {
            level: _pairs(point.interfaces) for level, point in points.items() if point.interfaces is not UNSET
        }
        of_labels = None if record.label_interfaces is None else _pairs(record.label_interfaces)
        slices = _slices(cell, record)
        if record.class_names is not UNSET and len(record.class_names) != len(record.class_values):
            raise ValueError("its classes have other names than these")
        matrices = [
            *(training.confusion, *confusion.values(), *(one for of in near.values() for one in of.values())),
            *(*interfaces.values(), *(() if of_labels is None else (of_labels,))),
            *(_confusion(line.whole) for line in slices if line.whole is not UNSET),
        ]
        if any(len(matrix) != len(record.class_values) for matrix in matrices):
            raise ValueError("its confusion matrices are not of its classes")
        check_evaluation(record, points, confusion, cell.config)
        if any((one > confusion[level]).any() for level, of in near.items() for one in of.values()):
            raise ValueError("it has more pixels near edges than in all")
        sure = {level: found for level, point in points.items() if (found := _sure(point, confusion[level]))}
        grey = None if record.grey is None else read_scale(record.grey)
        if any(isinstance(level.sigma, Share) for level in confusion) and not (grey and grey.span):
            raise ValueError("it has shares of the span of grey values, and no span")
        check_slices(slices, record.test_tiles, confusion)
    except (ValueError, OverflowError, ConfigError) as error:
        raise Refused(f"its evaluation.json is damaged ({error}).", file) from None
    return Evaluation(record, confusion, near, interfaces, of_labels, sure, slices, grey)


def _read(kind: type[_Kind], cell: Cell, name: str, delete: str) -> _Kind:
    try:
        content = read_json(cell.folder.path / name)
    except ChangedError:
        raise Refused(f"its {name} {CHANGED}.", delete) from None
    except IncompleteError:
        raise Refused(f"its {name} cannot be read.", delete) from None
    if wrong := wrong_schema(content):
        raise Refused(f"its {name} {wrong}.", delete)
    try:
        record = as_record(kind, content)
    except ValueError as error:
        raise Refused(f"its {name} is damaged ({error}).", delete) from None
    if record.id != cell.id:
        raise Refused(f"its {name} is of cell {record.id}, not of this cell.", delete)
    return record


def _check_code(stated: Coded, plan: Plan, what: str, delete: str) -> None:
    if stated.code() != plan.code():
        theirs, ours = (one.code(digits=8) for one in (stated, plan))
        raise Refused(f"{what} other code ({theirs}) than grid.json ({ours}).", delete)


def _confusion(stored: Matrix) -> np.ndarray:
    matrix = np.array(stored)
    metrics.accuracy(matrix)  # raises ValueError for what is no confusion matrix
    return matrix


def _pairs(stored: Matrix) -> np.ndarray:
    """Of counts of neighbouring pixels of every two classes those of different ones."""
    return np.triu(_confusion(stored), 1)


def _sure(point: EvaluatedPoint, confusion: np.ndarray) -> dict[str, np.ndarray]:
    """The counts of how sure a model is at a noise level, which are of the same pixels as its confusion matrix."""
    stored = {name: getattr(point, name) for name in SURE}
    if UNSET in stored.values():
        return {}
    found = {name: np.array(counts) for name, counts in stored.items()}
    for name, counts in found.items():
        if counts.shape != (metrics.SURE_BINS, 3) or counts.dtype.kind != "i" or (counts < 0).any():
            raise ValueError(f"its {name} is no table of counts")
        if (
            counts[:, :2].sum(0).tolist() != [confusion.sum(), np.trace(confusion)]
            or (counts[:, 1] > counts[:, 0]).any()
        ):
            raise ValueError(f"its {name} is of other pixels than its confusion matrix")
    return found


def _by_level(cell: Cell, points: Sequence[EvaluatedPoint]) -> dict[NoiseLevel, EvaluatedPoint]:
    """The points of an evaluation, by the noise levels of its settings."""
    levels = cell.config.evaluate.levels()
    if [point.level for point in points] != list(levels):
        raise ValueError("its noise levels are not those of its settings")
    return dict(zip(levels, points, strict=True))


def _slices(cell: Cell, record: Evaluated) -> tuple[EvaluatedSlice, ...]:
    return tuple(as_record(EvaluatedSlice, json.loads(line)) for line in _slice_lines(cell, record))


def _slice_lines(cell: Cell, record: Evaluated) -> list[bytes]:
    """Of slices.jsonl, which is the one that the evaluation wrote; none in a record of before there was one."""
    if record.slices_sha256 is None:
        return []
    try:
        content = read_regular(cell.folder.slices_file, MOST_BYTES_OF_LINES)
    except OSError as error:
        raise ValueError(f"its slices.jsonl: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != record.slices_sha256:
        raise ValueError("its slices.jsonl is another one")
    return content.splitlines()


def _lines_of(cell: Cell, record: Trained) -> list[EpochLine]:
    """Of metrics.jsonl; none where it is not the one that was there when the training ended."""
    if record.metrics_sha256 is not None:
        try:
            content = read_regular(cell.folder.metrics_file, MOST_BYTES_OF_LINES)
        except OSError:
            return []
        if hashlib.sha256(content).hexdigest() != record.metrics_sha256:
            return []
    return _epochs_of(cell)


def _epochs_of(cell: Cell) -> list[EpochLine]:
    """The lines of metrics.jsonl; none where they are not the epochs 1, 2, ... in this order."""
    try:
        return finished_epochs(cell.folder)
    except IncompleteError:
        return []


def _with_matrices(lines: Sequence[EpochLine]) -> tuple[EpochLine, ...]:
    """Lines of metrics.jsonl; none where one has no confusion matrix."""
    try:
        for line in lines:
            _confusion(line.validation_confusion)
    except (ValueError, OverflowError):
        return ()
    return tuple(lines)


def _why_unfinished(cell: Cell) -> str:
    if failure := read_failure(cell.folder):
        # On one line: CUDA's errors have several, which would end the list of holes.
        return f"its last attempt failed: {' '.join(failure.error.split()).rstrip('.')}."
    if cell.folder.training_file.exists():
        return "it is trained, but not evaluated."
    return "it is started, but not finished." if cell.folder.events_file.exists() else "it is not started."
