"""cells.csv: every measured number of every cell, one a line.

A function of the published records alone, so that a published folder rebuilds it byte for byte: no time, no path, no
reason of a hole.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg import metrics
from hpcseg.files import read_regular
from hpcseg.records.collect import Records
from hpcseg.records.row import Row
from hpcseg.runs.record import MOST_BYTES_OF_LINES
from hpcseg.runs.schema import Evaluated, Trained
from hpcseg.text import cell_text

_WHOSE = ("cell", "tiles", "split", "noise_fraction", "seed")
_WHAT = ("set", "noise", "measure", "class_value", "value")
_COLUMNS = (*_WHOSE, *_WHAT, "precision", "world_size", "commit")


def cells_table(records: Records) -> list[dict[str, Any]]:
    """Every number with what it was made with, by the names of its columns; None where one says nothing."""
    return [dict(zip(_COLUMNS, line, strict=True)) for row in records.rows for line in _of_cell(row)]


def cells_csv(records: Records) -> str:
    """The same as a text."""
    return csv_text(",".join(_COLUMNS), (list(map(_text, line, line.values())) for line in cells_table(records)))


def cells_of_report(folder: Path) -> set[str]:
    """The ids of the cells in the cells.csv of a folder; none where there is no such file."""
    try:
        text = read_regular(folder / "cells.csv", MOST_BYTES_OF_LINES).decode(errors="replace")
        return {line[0] for line in itertools.islice(csv.reader(io.StringIO(text, newline="")), 1, None) if line}
    except (OSError, csv.Error):
        return set()


def csv_text(head: str, lines: Iterable[Sequence[str]]) -> str:
    """A CSV of a comma-separated head and lines of texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head.split(","), *lines])
    return text.getvalue()


def fixed(value: float | None) -> str:
    """Six decimals for a CSV; empty for what is not there. The sum with 0.0 turns a rounded -0.0 into 0.0."""
    return "" if value is None or math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"


def _text(column: str, value: Any) -> str:
    if column == "noise_fraction":
        return f"{value:g}"
    if isinstance(value, str):
        return cell_text(value)
    return fixed(value) if isinstance(value, float) else "" if value is None else str(value)


def _of_cell(row: Row) -> Iterator[list[Any]]:
    config = row.config
    who = [row.id, config.data.tiles, config.data.split, config.train.noise_fraction, config.train.seed]
    if row.training:
        record, made = row.training.record, _made(row.training.record)
        classes = row.evaluation.record.class_values if row.evaluation else range(len(row.training.confusion))
        for measure in ("epochs", "steps", "parameters", "train_tiles", "validation_tiles"):
            yield [*who, "train", None, measure, None, getattr(record, measure), *made]
        yield [*who, "train", None, "seconds", None, record.seconds, *made]
        yield [*who, "validation", None, "loss", None, record.validation_loss, *made]
        yield from ([*who, "validation", None, *line, *made] for line in _ratios(row.training.confusion, classes))
    if row.evaluation:
        tested, made = row.evaluation.record, _made(row.evaluation.record)
        yield [*who, "test", None, "test_tiles", None, tested.test_tiles, *made]
        for level, confusion in row.evaluation.confusion.items():
            yield from ([*who, "test", level.key, *line, *made] for line in _ratios(confusion, tested.class_values))


def _ratios(confusion: np.ndarray, classes: Sequence[int]) -> Iterator[list[Any]]:
    yield ["accuracy", None, metrics.accuracy(confusion)]
    yield ["mean_iou", None, metrics.mean_iou(confusion)]
    per_class = {
        "iou": metrics.iou_per_class,
        "recall": metrics.recall_per_class,
        "precision": metrics.precision_per_class,
    }
    for name, ratios in per_class.items():
        for value, ratio in zip(classes, ratios(confusion), strict=True):
            yield [name, value, float(ratio)]
    for value, counts in zip(classes, confusion.tolist(), strict=True):
        for predicted, count in zip(classes, counts, strict=True):
            yield [f"pixels taken for {predicted}", value, count]


def _made(record: Trained | Evaluated) -> list[Any]:
    return [record.precision, record.world_size, record.provenance.commit or None]
