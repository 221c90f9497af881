"""A layout in, the sizes of its three sets and what few slices, labels or steps cannot tell out, in words."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

import numpy as np

from hpcseg.config import CellConfig, DataConfig, TrainConfig
from hpcseg.data.classes import IGNORED
from hpcseg.data.layout import lay_out
from hpcseg.data.likeness import too_near
from hpcseg.data.notes import HARDLY_ANY
from hpcseg.data.splits import NO_GAP, SHORT_GAP, Split, few_test_slices, shared_tests
from hpcseg.data.store import DatasetInfo, read_labels
from hpcseg.errors import DatasetError
from hpcseg.text import counted, shown

_FEW_STEPS, _STEPS = 150, 50
_MIXED = "test tiles are of slices that are trained on, so the accuracy is not that on another slice."


def describe_sets(info: DatasetInfo, cells: Iterable[CellConfig]) -> Iterator[str]:
    """A line for each different layout: slices and tiles of its sets; then notes on what they cannot tell.

    Raises:
        ConfigError, DatasetError: as `lay_out`.
    """
    notes: dict[str, None] = {}
    labelled = info.class_counts.sum(1)
    trainings: dict[DataConfig, list[TrainConfig]] = {}
    for cell in cells:
        trainings.setdefault(cell.data, []).append(cell.train)
    laid = {config: lay_out(info, config) for config in trainings}
    positions: dict[DataConfig, set[bytes]] = {}
    for config, (_, split) in laid.items():
        positions.setdefault(_of_any_seed(config), set()).add(split.test.tobytes())
    for config, trained in trainings.items():
        tiles, split = laid[config]
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
        hardly = [
            f"{name} slices have {counted(int(labelled[of].sum()), 'labelled pixel')} in all, which tell little."
            for name, of in within.items()
            if labelled[of].mean() < HARDLY_ANY * labelled.mean()
        ]
        few = few_test_slices(len(within["test"]), len(positions[_of_any_seed(config)]))
        gap, alike = split.gap_slices, info.alike_slices
        near = gap is not None and (alike is None or too_near(within.values(), alike, info.numbers, config.context))
        short = (SHORT_GAP if alike else "") if gap else NO_GAP
        steps, shortest = min(((one.epochs * one.steps(len(split.train)), one) for one in trained), key=itemgetter(0))
        # What is so already is no advice.
        more = "train.epochs" if shortest.steps(len(split.train)) >= _STEPS else f"train.epoch_steps, as {_STEPS}"
        little = f"a training is {counted(steps, 'step')}, in which it learns little. Take more: {more}."
        told = (few, short if near else "", _MIXED if mixed else "", *hardly)
        told += (little,) if steps < _FEW_STEPS else ()
        notes.update((note, None) for note in told if note)
    notes.update((note, None) for note in _shared(laid))
    yield from (f"Note: {note}" for note in notes)


def shared_positions(info: DatasetInfo, configs: Iterable[DataConfig]) -> tuple[str, ...]:
    """Notes on positions of a split that test the same slices, each once; one position alone is not laid out.

    Raises:
        ConfigError, DatasetError: as `lay_out`.
    """
    once = dict.fromkeys(configs)
    positions = Counter(map(_of_any_seed, once))
    return _shared({config: lay_out(info, config) for config in once if positions[_of_any_seed(config)] > 1})


def _shared(laid: Mapping[DataConfig, tuple[np.ndarray, Split]]) -> tuple[str, ...]:
    tested: dict[DataConfig, dict[int, list[int]]] = {}
    for config, (tiles, split) in laid.items():
        test, others = tiles[split.test, 0], tiles[np.append(split.train, split.validation), 0]
        # Single tiles are drawn by lot, and other ones of the same slices.
        if not np.isin(test, others).any():
            tested.setdefault(_of_any_seed(config), {})[config.split_seed] = np.unique(test).tolist()
    return tuple(dict.fromkeys(note for of in tested.values() if (note := shared_tests(of))))


def _of_any_seed(config: DataConfig) -> DataConfig:
    return dataclasses.replace(config, split_seed=0)


def _named(config: DataConfig) -> str:
    """What tells a config from others: tiles, split, and what is not the default."""
    others = [
        f"{item.name} {shown(getattr(config, item.name))}"
        for item in dataclasses.fields(config)
        if item.name not in ("tiles", "split", "gap_slices") and getattr(config, item.name) != item.default
    ]
    return ", ".join([f"tiles {config.tiles}", config.split, *others])


def check_labelled(info: DatasetInfo, config: DataConfig) -> None:
    """See that each set has a labelled pixel; reads labels only where a set has no slice that is labelled all over.

    Raises:
        DatasetError: a set has none, so that nothing could be learnt, or said of the test; or as `lay_out`.
        ConfigError: as `lay_out`.
    """
    tiles, split = lay_out(info, config)
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if not _any_label(info, tiles[rows], config.tile_size):
            raise unlabelled(info, name)


def unlabelled(info: DatasetInfo, name: str, way: str = "") -> DatasetError:
    """What to raise where no tile of a set has a labelled pixel; `way` is a sentence of what else may be done."""
    return DatasetError(
        f"{info.path}: no {name} tile has a labelled pixel. {way}Label more slices, farther apart, or set data.tiles "
        "to a grid that covers more of each, such as cover."
    )


def _any_label(info: DatasetInfo, places: np.ndarray, size: int) -> bool:
    """Whether a tile (slice index, y, x) of some has a labelled pixel."""
    for index in np.unique(places[:, 0]).tolist():
        if info.ignored_pixels[index] == 0:
            return True
        label = read_labels(info.path, index)
        corners = places[places[:, 0] == index, 1:].tolist()
        if any((label[y : y + size, x : x + size] != IGNORED).any() for y, x in corners):
            return True
    return False
