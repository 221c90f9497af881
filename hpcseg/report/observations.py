"""Collected records in, one tidy table out: a line per cell, noise level and test slice, with its counts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hpcseg.report.collect import Group, Records, Row
from hpcseg.report.statistics import Repetition, counted

VALIDATION = "validation"
"""The level of the validation set, which has the cell's own training noise."""
WHOLE = "whole slices"
"""The level of whole test slices, without noise."""
NOT_BY_SLICE = -1
"""The slice of a line that counts a whole set: of validation, and of records from before slices were counted."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Columns of equal length, (N,) each; the lines of one cell and level stand together, by slice."""

    places: Mapping[tuple[str, str], tuple[int, int]]
    """First line, and the one after the last, by cell and level."""
    cell: np.ndarray
    seed: np.ndarray
    position: np.ndarray
    """Seed of the split, which says where a blocked split's blocks lie."""
    level: np.ndarray
    """Key of the noise level, `VALIDATION` or `WHOLE`."""
    slice: np.ndarray
    right: np.ndarray
    """Right pixels, int64."""
    pixels: np.ndarray

    def of(self, group: Group, level: str) -> list[Repetition]:
        """What each finished cell of a group says at a level."""
        return [found for row in group.rows if (found := self.of_cell(row.id, level)) is not None]

    def of_cell(self, cell: str, level: str, among: np.ndarray | None = None) -> Repetition | None:
        """The same of one cell, perhaps on those of its test slices that are `among` some; None where it has none."""
        begin, end = self.places.get((cell, level), (0, 0))
        lines = np.arange(begin, end)
        if among is not None:
            lines = lines[np.isin(self.slice[lines], among)]
        if not len(lines):
            return None
        seed, position, slices = int(self.seed[begin]), int(self.position[begin]), self.slice[lines]
        right, pixels = self.right[lines], self.pixels[lines]
        if slices[0] == NOT_BY_SLICE:
            return Repetition(seed, position, float(right[0] / pixels[0]))
        return counted(seed, position, slices, right, pixels)

    def slices(self, cell: str, level: str) -> np.ndarray:
        """(S,) numbers of the test slices of a cell; empty where it has none, or did not count by slice."""
        numbers = self.slice[slice(*self.places.get((cell, level), (0, 0)))]
        return np.compress(numbers != NOT_BY_SLICE, numbers)


@functools.lru_cache(maxsize=4)
def observations(records: Records) -> Observations:
    """The table of all cells of a run."""
    lines = [line for row in records.rows for line in _lines(row)]
    cell, seed, position, level, number, right, pixels = zip(*lines, strict=True) if lines else [()] * 7
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for place, key in enumerate(zip(cell, level, strict=True)):
        places[key] = places.get(key, (place, 0))[0], place + 1
    columns = map(np.array, (cell, seed, position, level, number, right, pixels))
    return Observations(places, *columns)


def _lines(row: Row) -> Iterator[tuple[str, int, int, str, int, int, int]]:
    who = row.id, row.config.train.seed, row.config.data.split_seed
    if row.training:
        yield (*who, VALIDATION, NOT_BY_SLICE, *_right(row.training.confusion))
    if row.evaluation is None:
        return
    slices = sorted(row.evaluation.slices, key=lambda one: one.number)
    for level, confusion in row.evaluation.confusion.items():
        if slices and all(level.key in one.right for one in slices):
            yield from ((*who, level.key, one.number, one.right[level.key], one.pixels) for one in slices)
        else:
            yield (*who, level.key, NOT_BY_SLICE, *_right(confusion))
    yield from ((*who, WHOLE, one.number, *_right(one.whole)) for one in slices if one.whole is not None)


def _right(confusion: np.ndarray) -> tuple[int, int]:
    return int(np.trace(confusion)), int(confusion.sum())
