"""A layout in, the sizes of its three sets and what few slices cannot tell out, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from hpcseg.config import DataConfig
from hpcseg.counted import counted
from hpcseg.data.layout import lay_out
from hpcseg.data.splits import NO_GAP, few_test_slices
from hpcseg.data.store import DatasetInfo
from hpcseg.text import shown

_MIXED = "test tiles are of slices that are trained on, so the accuracy is not that on another slice."


def describe_sets(info: DatasetInfo, configs: Iterable[DataConfig]) -> Iterator[str]:
    """A line for each different config: slices and tiles of its sets; then notes on what they cannot tell.

    Raises:
        ConfigError, DatasetError: as `lay_out`.
    """
    notes: dict[str, None] = {}
    for config in dict.fromkeys(configs):
        tiles, split = lay_out(info, config)
        sets = {"training": split.train, "validation": split.validation, "test": split.test}
        within = {name: np.unique(tiles[rows, 0]) for name, rows in sets.items()}
        sizes = ", ".join(
            f"{name} {counted(len(within[name]), 'slice')} ({counted(len(rows), 'tile')})"
            for name, rows in sets.items()
        )
        if split.gap_slices is not None:
            slices, used = config.slices or info.shape[0], sum(map(len, within.values()))
            sizes += f"; {slices - used} of {slices} slices left out, gap {split.gap_slices} between two sets"
        yield f"Sets ({_named(config)}): {sizes}"
        mixed = split.gap_slices is None and np.isin(within["test"], within["training"]).any()
        told = (few_test_slices(len(within["test"])), NO_GAP if split.gap_slices == 0 else "", _MIXED if mixed else "")
        notes.update((note, None) for note in told if note)
    yield from (f"Note: {note}" for note in notes)


def _named(config: DataConfig) -> str:
    """What tells a config from others: tiles, split, and what is not the default."""
    others = [
        f"{item.name} {shown(getattr(config, item.name))}"
        for item in dataclasses.fields(config)
        if item.name not in ("tiles", "split", "gap_slices") and getattr(config, item.name) != item.default
    ]
    return ", ".join([f"tiles {config.tiles}", config.split, *others])
