"""Numbers of a record that follow from others of it: they are compared before any of them is shown.

A record of schema 1 has no checksum, and these are all that tells of a changed digit in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import UNSET

from hpcseg import metrics
from hpcseg.config import PRECISIONS, CellConfig, NoiseLevel
from hpcseg.runs.schema import EpochLine, Evaluated, EvaluatedPoint, EvaluatedSlice, Trained

# Each is a division of whole numbers, or a mean of a few: to the last digits the same on every machine.
_CLOSE = 1e-9
_RATIOS: Mapping[str, Callable[[np.ndarray], Any]] = {
    "accuracy": metrics.accuracy,
    "mean_iou": metrics.mean_iou,
    "iou": metrics.iou_per_class,
    "dice": metrics.dice_per_class,
}


def check_training(record: Trained, confusion: np.ndarray, config: CellConfig) -> None:
    """See that the counts of a training.json agree with each other and with the cell's settings.

    Args:
        record: of the cell.
        confusion: (C, C), of the validation set.
        config: of the cell.

    Raises:
        ValueError: they do not; in words that fit behind a colon.
    """
    _check_precision(record)
    if record.epochs != config.train.epochs:
        raise ValueError(f"it has {record.epochs} epochs, and its settings {config.train.epochs}")
    if record.steps != record.epochs * config.train.steps(record.train_tiles):
        raise ValueError(f"{record.steps} steps do not follow from its tiles and epochs")
    _check_pixels(confusion, record.validation_tiles, "validation_tiles", config)
    if (record.train_labelled_pixels or 0) > record.train_tiles * config.data.tile_size**2:
        raise ValueError("it has more labelled pixels than its training tiles have")


def check_kept(record: Trained, lines: Sequence[EpochLine]) -> None:
    """See that a training.json says of the epoch that was kept what metrics.jsonl does, where that has it.

    Raises:
        ValueError: it does not.
    """
    kept = record.kept_epoch or record.epochs
    # As texts, since NaN is no number that equals itself.
    wanted = json.dumps([record.validation_loss, record.validation_confusion])
    for line in (line for line in lines if line.epoch == kept):
        if json.dumps([line.validation_loss, line.validation_confusion]) != wanted:
            raise ValueError("its validation is not that of its epoch in metrics.jsonl")


def check_evaluation(
    record: Evaluated,
    points: Mapping[NoiseLevel, EvaluatedPoint],
    confusion: Mapping[NoiseLevel, np.ndarray],
    config: CellConfig,
) -> None:
    """See that the numbers of an evaluation.json agree with each other.

    Args:
        record: of the cell.
        points: of it, by their noise.
        confusion: (C, C) each, of the same.
        config: of the cell.

    Raises:
        ValueError: they do not; in words that fit behind a colon.
    """
    _check_precision(record)
    values = record.class_values
    if len(set(values)) != len(values):
        raise ValueError(f"class_values are {values!r}")
    for level, point in points.items():
        counts = confusion[level]
        _check_pixels(counts, record.test_tiles, "test_tiles", config)
        # Noise changes no label.
        if (counts.sum(1) != confusion[next(iter(points))].sum(1)).any():
            raise ValueError(f"at {level.key} the labels are others than without noise")
        for key, follow in _RATIOS.items():
            stated = getattr(point, key)
            if stated is not UNSET and not _same(np.ravel(stated), np.ravel(follow(counts))):
                raise ValueError(f"at {level.key} {key} does not follow from the confusion matrix")


def check_slices(slices: Sequence[EvaluatedSlice], test_tiles: int, confusion: Mapping[NoiseLevel, np.ndarray]) -> None:
    """See that the test slices have the pixels of the whole test set, and as many right ones.

    Raises:
        ValueError: they have not.
    """
    if not slices:
        return
    if len(slices) > test_tiles or len({one.slice for one in slices}) != len(slices):
        raise ValueError("its slices.jsonl has other slices than its test tiles")
    for level, counts in confusion.items():
        if sum(one.pixels for one in slices) != counts.sum():
            raise ValueError("its slices.jsonl has other pixels than its confusion matrices")
        right = [one.right[level.key] for one in slices if level.key in one.right]
        if right and sum(right) != np.trace(counts):
            raise ValueError(f"its slices.jsonl has other right pixels at {level.key} than its confusion matrices")


def _check_precision(record: Trained | Evaluated) -> None:
    if record.precision not in PRECISIONS:
        raise ValueError(f"precision is {record.precision!r}")


def _check_pixels(confusion: np.ndarray, tiles: int, name: str, config: CellConfig) -> None:
    # Fewer where some pixels have no label.
    if confusion.sum() > tiles * config.data.tile_size**2:
        raise ValueError(f"it has more pixels than {name} = {tiles} have")


def _same(stated: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether stated ratios are these, null for NaN."""
    return len(stated) == len(wanted) and np.allclose(stated.astype(float), wanted, _CLOSE, _CLOSE, equal_nan=True)
