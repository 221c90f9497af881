"""What is measured of a group: numbers by repetition, from the tidy table or from the counts of a cell's records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcseg import metrics
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group
from hpcseg.records.observations import NOT_BY_SLICE, WHOLE, observations
from hpcseg.records.row import CLEAN, Row
from hpcseg.report.table import Unit
from hpcseg.statistics import Estimate, Repetition, counted, difference, of_setting

Measure = Callable[[Group], list[Repetition]]


@dataclass(frozen=True)
class Column:
    """What is measured of a group, and how it is written."""

    measure: Measure
    unit: Unit
    ranked: bool = False
    """The best of a block is marked."""


SETS: dict[str, Callable[[Row], np.ndarray | None]] = {
    "clean": lambda row: row.test_confusion(CLEAN),
    "noisy": lambda row: row.test_confusion(row.noisy),
    WHOLE: Row.whole_confusion,
}
"""Confusion matrices of the test set of a cell, by what a table calls them."""


RATIOS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "IoU": metrics.iou_per_class,
    "recall": metrics.recall_per_class,
    "precision": metrics.precision_per_class,
}
"""What is said of a class, of a confusion matrix (C, C): (C,) float64 each."""


def at(records: Records, level: str) -> Measure:
    """Accuracy at a level of the tidy table."""
    return lambda group: [one for row in group.rows if (one := of_cell(records, row.id, level)) is not None]


def of_cell(records: Records, cell: str, level: str, among: np.ndarray | None = None) -> Repetition | None:
    """The same of one cell, perhaps on those of its test slices that are `among` some; None where it has none."""
    table = observations(records)
    lines = np.arange(len(table.cell))[table.places.get((cell, level), slice(0, 0))]
    if among is not None:
        lines = lines[np.isin(table.slice[lines], among)]
    if not len(lines):
        return None
    seed, position = int(table.seed[lines[0]]), int(table.position[lines[0]])
    right, pixels = table.right[lines], table.pixels[lines]
    if table.slice[lines[0]] == NOT_BY_SLICE:
        return Repetition(seed, position, float(right[0] / pixels[0]))
    return counted(seed, position, table.slice[lines], right, pixels)


def repeated(measure: Callable[[Row], float | None]) -> Measure:
    """A measure of a cell as one of a group, one number per cell that has it."""

    def values(group: Group) -> list[Repetition]:
        found = ((row, measure(row)) for row in group.rows)
        return [
            Repetition(row.config.train.seed, row.position, value)
            for row, value in found
            if value is not None and not np.isnan(value)
        ]

    return values


def of_confusion(confusion: Callable[[Row], np.ndarray | None], ratio: Callable[[np.ndarray], float]) -> Measure:
    """A ratio of a confusion matrix of every cell."""
    return repeated(lambda row: None if (found := confusion(row)) is None else float(ratio(found)))


def of_class(ratios: Callable[[np.ndarray], np.ndarray], place: int) -> Callable[[np.ndarray], float]:
    """One class's part of a measure that has one number per class."""
    return lambda confusion: float(ratios(confusion)[place])


def made(stage: str, *keys: str) -> Measure:
    """A number of training.json or evaluation.json; none in a record of before it was kept."""

    def number(row: Row) -> float | None:
        part = getattr(row, stage)
        value: Any = part.record if part else None
        for key in keys:
            value = getattr(value, key, None)
        return float(value) if isinstance(value, int | float) else None

    return repeated(number)


def of_slices(records: Records, choose: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """Accuracy on those whole slices of every cell that are chosen of their numbers."""
    table = observations(records)

    def measure(group: Group) -> list[Repetition]:
        slices = {row.id: choose(table.slices(row.id, WHOLE)) for row in group.rows}
        found = (of_cell(records, cell, WHOLE, among) for cell, among in slices.items())
        return [one for one in found if one is not None]

    return measure


def matched(records: Records, ours: Group, theirs: Group, level: str) -> list[tuple[Repetition, Repetition]]:
    """Pairs of one seed and position, each on the test slices that both have."""
    others = {(row.config.train.seed, row.config.data.split_seed): row.id for row in theirs.rows}
    table, pairs = observations(records), []
    for row in ours.rows:
        other = others.get((row.config.train.seed, row.config.data.split_seed), "")
        common = np.intersect1d(table.slices(row.id, level), table.slices(other, level))
        one, against = (of_cell(records, cell, level, common) for cell in (row.id, other))
        pairs += [(one, against)] if one and against else []
    return pairs


def comparable(
    records: Records, ours: Group, theirs: Group, level: str
) -> tuple[Sequence[Repetition], Sequence[Repetition]]:
    """Both on the test slices that both have, for `difference`; of what is not counted by slice, of equal sets."""
    if pairs := matched(records, ours, theirs, level):
        one, other = zip(*pairs, strict=True)
        return one, other
    same = ours.config.data == theirs.config.data
    return (at(records, level)(ours), at(records, level)(theirs)) if same else ((), ())


def gain_of_slices(records: Records, ours: Group, theirs: Group, level: str) -> Estimate | None:
    """Ours minus theirs, of what is `comparable`."""
    return difference(*comparable(records, ours, theirs, level))


def same_pixels(records: Records, ours: Group, theirs: Group, level: str) -> bool:
    """Whether two groups were tested on as many pixels of the same slices, so that ratios of all may be compared."""
    table = observations(records)
    one, other = (table.places.get((group.id, level), slice(0, 0)) for group in (ours, theirs))
    columns = (table.slice, table.pixels)
    return all(np.array_equal(column[one], column[other]) for column in columns)


def gain(
    records: Records, series: Sequence[dict[object, Group]], value: object, usual: object, key: str
) -> Estimate | None:
    """What one value of a setting brings against another at a level, all else equal, over all series that have both."""
    ours, theirs = list[Repetition](), list[Repetition]()
    for place, of in enumerate(series):
        if {value, usual} <= of.keys():
            one, other = comparable(records, of[value], of[usual], key)
            ours += of_setting(one, place)
            theirs += of_setting(other, place)
    return difference(ours, theirs)
