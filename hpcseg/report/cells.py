"""The table of cells, and its CSV with every measured number of every cell. Reads no file.

A CSV holds one observation a row. It is a function of the published records alone, so that a published folder
rebuilds it byte for byte: no time, no path, no reason of a hole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hpcseg import metrics
from hpcseg.config import NoiseLevel
from hpcseg.report.collect import Records, Row
from hpcseg.report.sheet import csv_text, fixed, markdown_table

_CELL_COLUMNS = (
    *("cell", "split", "validation", "clean test", "noisy test", "mean IoU clean", "mean IoU noisy"),
    *("epochs", "seconds", "precision", "ranks", "commit"),
)
_CLASS_COLUMNS = ("cell", "class", "IoU clean", "IoU noisy", "Dice clean", "Dice noisy")
_CELLS_HEAD = "cell,tiles,split,noise_fraction,seed,set,noise,measure,class_value,value,precision,world_size,commit"


def cells_csv(records: Records) -> str:
    """One line per measured number of every cell, each with what it was made with."""
    return csv_text(_CELLS_HEAD, [line for row in records.rows for line in _observations(row)])


def cells_markdown(records: Records, hole_numbers: Mapping[str, int]) -> str:
    """One line per cell, then one line per class of the finished ones."""
    return "\n\n".join(
        [
            "## Cells",
            "Accuracy and mean IoU; noisy is at the table's sigma; seconds of training, summed over restarts.",
            markdown_table(_CELL_COLUMNS, [_cell_line(row, hole_numbers) for row in records.rows]),
            "Per class (by its value in the label images), on the test set:",
            markdown_table(_CLASS_COLUMNS, [line for row in records.rows for line in _class_lines(row)]),
        ]
    )


def _cell_line(row: Row, hole_numbers: Mapping[str, int]) -> list[str]:
    """One line of the table of cells."""
    made = ["-"] * 5
    if row.training:
        record = row.training.record
        commit = short_commit(record["provenance"].get("commit"))
        made = [
            str(record["epochs"]),
            f"{record['seconds']:.0f}",
            record["precision"],
            str(record["world_size"]),
            commit,
        ]
    measured = [
        row.validation_accuracy(),
        *(None if matrix is None else metrics.accuracy(matrix) for matrix in _clean_and_noisy(row)),
        *(None if matrix is None else metrics.mean_iou(matrix) for matrix in _clean_and_noisy(row)),
    ]
    numbers = ["-" if value is None else _ratio(value) for value in measured]
    hole = f" **hole {hole_numbers[row.id]}**" if row.hole else ""
    return [f"`{row.id}`{hole}", row.config.data.split, *numbers, *made]


def _class_lines(row: Row) -> list[list[str]]:
    """One line per class of a finished cell."""
    clean, noisy = _clean_and_noisy(row)
    if row.evaluation is None or clean is None or noisy is None:
        return []
    ratios = [ratio(matrix) for ratio in (metrics.iou_per_class, metrics.dice_per_class) for matrix in (clean, noisy)]
    return [
        [f"`{row.id}`", str(value), *(_ratio(float(column[index])) for column in ratios)]
        for index, value in enumerate(row.evaluation.record["class_values"])
    ]


def _clean_and_noisy(row: Row) -> tuple[np.ndarray | None, np.ndarray | None]:
    return row.test_confusion(NoiseLevel(0.0)), row.test_confusion(NoiseLevel(row.config.evaluate.table_sigma))


def _observations(row: Row) -> Iterator[list[str]]:
    """The lines of cells.csv of one cell."""
    config = row.config
    who = [row.id, config.data.tiles, config.data.split, f"{config.train.noise_fraction:g}", str(config.train.seed)]
    if row.training:
        record, made = row.training.record, _made(row.training.record)
        classes = row.evaluation.record["class_values"] if row.evaluation else range(len(row.training.confusion))
        for measure in ("epochs", "steps", "parameters", "train_tiles", "validation_tiles"):
            yield [*who, "train", "", measure, "", str(record[measure]), *made]
        yield [*who, "train", "", "seconds", "", fixed(record["seconds"]), *made]
        yield [*who, "validation", "", "loss", "", fixed(record["validation_loss"]), *made]
        for line in _ratios(row.training.confusion, classes):
            yield [*who, "validation", "", *line, *made]
    if row.evaluation:
        record, made = row.evaluation.record, _made(row.evaluation.record)
        yield [*who, "test", "", "test_tiles", "", str(record["test_tiles"]), *made]
        for level, confusion in row.evaluation.confusion.items():
            for line in _ratios(confusion, record["class_values"]):
                yield [*who, "test", level.key, *line, *made]


def _ratios(confusion: np.ndarray, classes: Sequence[int]) -> Iterator[list[str]]:
    yield ["accuracy", "", fixed(metrics.accuracy(confusion))]
    yield ["mean_iou", "", fixed(metrics.mean_iou(confusion))]
    of_classes = {"iou": metrics.iou_per_class, "dice": metrics.dice_per_class, "recall": metrics.recall_per_class}
    for measure, ratio in of_classes.items():
        for value, of_class in zip(classes, ratio(confusion), strict=True):
            yield [measure, str(value), fixed(float(of_class))]
    for value, counts in zip(classes, confusion.tolist(), strict=True):
        for predicted, count in zip(classes, counts, strict=True):
            yield [f"pixels taken for {predicted}", str(value), str(count)]


def _made(record: Mapping[str, Any]) -> list[str]:
    origin = record["provenance"]
    return [record["precision"], str(record["world_size"]), str(origin.get("commit") or "")]


def short_commit(commit: str | None) -> str:
    """Seven digits of a commit, and whether its checkout was changed."""
    if not commit:
        return "none"
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def _ratio(value: float) -> str:
    return "absent" if math.isnan(value) else f"{value:.3f}"
