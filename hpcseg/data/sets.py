"""A layout in, the sizes of its three sets and what few slices cannot tell out, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from hpcseg.config import DataConfig, shown
from hpcseg.counted import counted
from hpcseg.data.layout import lay_out
from hpcseg.data.splits import NO_GAP, Split, few_test_slices
from hpcseg.data.store import DatasetInfo


def describe_sets(info: DatasetInfo, configs: Iterable[DataConfig]) -> Iterator[str]:
    """A line for each different config: slices and tiles of its sets; then notes on what they cannot tell.

    Raises:
        ConfigError, DatasetError: as `lay_out`.
    """
    notes: dict[str, None] = {}
    for config in dict.fromkeys(configs):
        tiles, split = lay_out(info, config)
        yield f"Sets ({_named(config)}): {_sizes(tiles, split, info.shape[0] if not config.slices else config.slices)}"
        notes.update(dict.fromkeys(_notes(tiles, split)))
    yield from (f"Note: {note}" for note in notes)


def _sizes(tiles: np.ndarray, split: Split, slices: int) -> str:
    sets = {"training": split.train, "validation": split.validation, "test": split.test}
    within = {name: np.unique(tiles[rows, 0]) for name, rows in sets.items()}
    text = ", ".join(
        f"{name} {counted(len(within[name]), 'slice')} ({counted(len(rows), 'tile')})" for name, rows in sets.items()
    )
    used = len(np.unique(np.concatenate(list(within.values()))))
    if split.gap_slices is None:
        return text
    return f"{text}; {slices - used} of {slices} slices left out, gap {split.gap_slices} between two sets"


def _notes(tiles: np.ndarray, split: Split) -> Iterator[str]:
    places = np.unique(tiles[split.test, 0])
    if few := few_test_slices(len(places)):
        yield few
    if split.gap_slices == 0:
        yield NO_GAP
    if split.gap_slices is None and np.isin(places, tiles[split.train, 0]).any():
        yield "test tiles are of slices that are trained on, so the accuracy is not that on another slice."


def _named(config: DataConfig) -> str:
    """What tells a config from others: tiles, split, and what is not the default."""
    placed = {"tiles", "split", "gap_slices"}
    others = [
        f"{item.name} {shown(getattr(config, item.name))}"
        for item in dataclasses.fields(config)
        if item.name not in placed and getattr(config, item.name) != item.default
    ]
    return ", ".join([f"tiles {config.tiles}", config.split, *others])
