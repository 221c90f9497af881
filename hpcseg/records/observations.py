"""Collected records in, one tidy table out: a line per cell, noise level and test slice, with its counts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from hpcseg.config import NoiseLevel
from hpcseg.records.collect import Records
from hpcseg.records.row import Row

VALIDATION = "validation"
"""The level of the validation set, which has the cell's own training noise."""
WHOLE = "whole slices"
"""The level of whole test slices, without noise."""
NOT_BY_SLICE = -1
"""The slice of a line that counts a whole set: of validation, and of records from before slices were counted."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Columns of equal length, (N,) each; the lines of one cell and level stand together, by slice."""

    places: Mapping[tuple[str, str], slice]
    """The lines of a cell and level."""
    cell: np.ndarray
    seed: np.ndarray
    position: np.ndarray
    """Of the split: the seed that says where a blocked split's blocks lie, one for all that test the same slices."""
    level: np.ndarray
    """Key of the noise level, `VALIDATION` or `WHOLE`."""
    slice: np.ndarray
    right: np.ndarray
    """Right pixels, int64."""
    pixels: np.ndarray

    def slices(self, cell: str, level: str) -> np.ndarray:
        """(S,) numbers of the test slices of a cell; empty where it has none, or did not count by slice."""
        numbers = self.slice[self.places.get((cell, level), slice(0, 0))]
        return np.compress(numbers != NOT_BY_SLICE, numbers)


@functools.lru_cache(maxsize=4)
def observations(records: Records) -> Observations:
    """The table of all cells of a run."""
    lines = [line for row in records.rows for line in _lines(row)]
    cell, seed, position, level, number, right, pixels = zip(*lines, strict=True) if lines else [()] * 7
    places: dict[tuple[str, str], slice] = {}
    for place, key in enumerate(zip(cell, level, strict=True)):
        places[key] = slice(places[key].start if key in places else place, place + 1)
    columns = map(np.array, (cell, seed, position, level, number, right, pixels))
    return Observations(places, *columns)


def _lines(row: Row) -> Iterator[tuple[str, int, int, str, int, int, int]]:
    who = row.id, row.config.train.seed, row.position
    if row.training:
        yield (*who, VALIDATION, NOT_BY_SLICE, *_right(row.training.confusion))
    if row.evaluation is None:
        return
    slices = sorted(row.evaluation.slices, key=lambda one: one.slice)
    for level, confusion in row.evaluation.confusion.items():
        if slices and all(level.key in one.right for one in slices):
            yield from ((*who, level.key, one.slice, one.right[level.key], one.pixels) for one in slices)
        else:
            yield (*who, level.key, NOT_BY_SLICE, *_right(confusion))
    yield from ((*who, WHOLE, one.slice, *_right(np.array(one.whole))) for one in slices if one.whole is not UNSET)


def _right(confusion: np.ndarray) -> tuple[int, int]:
    return int(np.trace(confusion)), int(confusion.sum())


def headline_levels(records: Records) -> dict[str, str]:
    """The key in the observations of validation and of every noise level that tables show, by a column's head."""
    found = {level: None for group in records.groups for level in group.config.evaluate.headline_levels()}
    # In the order of the settings.
    levels = sorted(found, key=lambda level: (level.mixed, level.model != "gaussian"))
    return {VALIDATION: VALIDATION, **{_level_name(level): level.key for level in levels}}


def _level_name(level: NoiseLevel) -> str:
    sigma = level.sigma if isinstance(level.sigma, str) else f"{level.sigma:g}"
    name = "clean" if level.sigma == 0 else f"{level.model} {sigma}"
    if level.fraction is not None:
        tiles = " of tiles," if isinstance(level.sigma, str) else ""
        name = f"mixed: {100 * level.fraction:g} %{tiles} up to {sigma}"
    return f"{name}, statistics of {level.norm_tiles} test tiles" if level.norm_tiles else name
