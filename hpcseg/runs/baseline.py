"""What needs no network on the test tiles of a run's cells: a blur with grey thresholds.

They are chosen on training tiles, at each noise level on tiles that have the same noise. A filter that is chosen on
clean tiles falls to 0.71 on the paper's at sigma 5000, where this one has 0.95. The test tiles and their noise are the
evaluation's, and pixels are counted as there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcseg.config import NoiseLevel
from hpcseg.data.batches import TileSource, open_source
from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.noisy_tiles import NoisyTestSet, noisy_set
from hpcseg.data.store import read_info
from hpcseg.data.tile_sets import TileSet
from hpcseg.errors import DatasetError, HpcsegError, IncompleteError
from hpcseg.runs import provenance
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.machine import device_facts
from hpcseg.runs.record import SCHEMA, write_record
from hpcseg.runs.schema import Baseline, BaselinePoint, Provenance
from hpcseg.runs.tested import TestSet, missing_baselines
from hpcseg.segment.grey_filter import BLURS, GreyFilter, blurred, fit_filters, order_by_grey

_CPU = torch.device("cpu")
# Of larger sets evenly spaced tiles are taken, so that neither memory nor time grows with the data.
_TRAINING_PIXELS = 2**21
_TEST_PIXELS = 2**25
_PIXELS_AT_ONCE = 2**20


def make_baselines(
    run: RunFolder, data: Path | None = None, on_set: Callable[[int, int], None] = lambda done, of: None
) -> tuple[str, ...]:
    """Write the baselines for all test sets of finished cells that a run has none for yet.

    Args:
        run: with its grid.json.
        data: the packed file; None: where the run was planned.
        on_set: told how many test sets of how many are done.

    Returns:
        What is missing, one sentence each.

    Raises:
        IncompleteError: the run has no plan that can be read.
    """
    wanted = missing_baselines(run)
    missing: dict[str, list[str]] = {}
    for done, (one, file) in enumerate(wanted.items()):
        on_set(done, len(wanted))
        try:
            write_record(file, _measure(_open(data or one.data_file, one), one).as_dict())
        except HpcsegError as error:
            missing.setdefault(str(error), []).append(one.words)
    on_set(len(wanted), len(wanted))
    return tuple(f"There are no baselines for {', '.join(dict.fromkeys(of))}: {why}" for why, of in missing.items())


def _open(path: Path, wanted: TestSet) -> TileSource:
    """The tiles of a packed file; raises HpcsegError where it is not there, or is another than the run's."""
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise IncompleteError(f"there is no packed file {path.name} where the run was planned. Name one with --data.")
    if read_info(path).data_sha256 != wanted.data_sha256:
        raise DatasetError(
            f"{path.name} holds other data than the run was planned for. Name the right file with --data."
        )
    return open_source(path, wanted.data)


def _measure(source: TileSource, wanted: TestSet) -> Baseline:
    """The content of a file."""
    started = time.monotonic()
    training = _some(source, _with_labels(source), _TRAINING_PIXELS)
    test = _some(source, source.split.test, _TEST_PIXELS)
    with _threads() as pool:
        filters, choices = _choose(_noisy(source, training, wanted, to_learn=True), source, wanted, pool)
        matrices = _count(source, test, wanted, filters, pool)
    facts = provenance.collect(
        device=device_facts(_CPU), command=provenance.command_line(), data_sha256=source.info.data_sha256
    )
    return Baseline(
        schema=SCHEMA,
        data=dataclasses.asdict(wanted.data),
        data_sha256=source.info.data_sha256,
        evaluate_seed=wanted.seed,
        split_sha256=source.split.sha256(),
        training_tiles=len(training),
        test_tiles=len(test),
        class_values=list(source.info.class_values),
        grey=source.info.grey.as_dict(),
        filter={"blurs_tried": list(BLURS), "choices": choices},
        points=[
            BaselinePoint(**level.as_record(), baseline="filter", confusion=matrix.tolist())
            for level, matrix in zip(wanted.levels, matrices, strict=True)
        ],
        seconds=round(time.monotonic() - started, 3),
        provenance=Provenance(**facts),
    )


@contextlib.contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch would use; meanwhile torch itself takes one in each of them."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(number) as pool:
            yield pool
    finally:
        torch.set_num_threads(number)


def _choose(
    tiles: NoisyTestSet, source: TileSource, wanted: TestSet, pool: ThreadPoolExecutor
) -> tuple[list[GreyFilter], list[dict[str, Any]]]:
    """A filter for each level that fits training tiles, and what the record says about it."""
    grey, labels = source.info.grey, tiles.clean.labels.numpy()
    order = order_by_grey(_middle(tiles.clean.images).numpy(), labels, source.classes)

    def smooth(blur: float) -> Iterator[np.ndarray]:
        return _smooth(tiles, wanted.levels, blur)

    filters, choices = [], []
    for level, (chosen, accuracy) in zip(wanted.levels, fit_filters(smooth, labels, order, pool.map), strict=True):
        counts = [grey.low + threshold * (grey.high - grey.low) for threshold in chosen.thresholds]
        filters.append(chosen)
        choices.append(
            {
                **level.as_record(),
                "blur": chosen.blur,
                "thresholds": [value if math.isfinite(value) else None for value in counts],
                "classes_from_dark": list(order),
                "training_accuracy": accuracy,
            }
        )
    return filters, choices


def _count(
    source: TileSource, rows: np.ndarray, wanted: TestSet, filters: list[GreyFilter], pool: ThreadPoolExecutor
) -> np.ndarray:
    """(L, C, C) confusion matrices of the filters at L levels on K tiles."""
    step, classes = max(1, _PIXELS_AT_ONCE // source.size**2), source.classes

    def counted(start: int) -> np.ndarray:
        tiles = _noisy(source, rows[start : start + step], wanted)
        labels = tiles.clean.labels.int()
        known = labels != IGNORED
        found = np.zeros((len(filters), classes, classes), dtype=np.int64)
        for blur in {one.blur for one in filters}:
            places = [place for place, one in enumerate(filters) if one.blur == blur]
            smooth = _smooth(tiles, [wanted.levels[place] for place in places], blur)
            for place, images in zip(places, smooth, strict=True):
                predicted = torch.from_numpy(filters[place].classes(images))
                counts = torch.bincount((labels * classes + predicted)[known], minlength=classes**2)
                found[place] = counts.view(classes, classes).numpy()
        return found

    found = np.zeros((len(filters), classes, classes), dtype=np.int64)
    for some in pool.map(counted, range(0, len(rows), step)):
        found += some
    return found


def _smooth(tiles: NoisyTestSet, levels: Sequence[NoiseLevel], blur: float) -> Iterator[np.ndarray]:
    """(B, S, S) grey values with a blur, at one level after the other.

    A blur is linear, so where the noise of levels is a multiple of one draw, it is enough to blur the tiles and the
    draw: to rounding, and in a tenth of the time.
    """
    clean, unit = (
        torch.from_numpy(blurred(_middle(one).numpy(), blur))[:, None] for one in (tiles.clean.images, tiles.unit)
    )
    smoothed = dataclasses.replace(tiles, clean=TileSet(clean, tiles.clean.labels), unit=unit)
    for level in levels:
        if level in tiles.others:
            yield blurred(_images(tiles, level), blur)
        else:
            yield _images(smoothed, level)


def _noisy(source: TileSource, rows: np.ndarray, wanted: TestSet, *, to_learn: bool = False) -> NoisyTestSet:
    return noisy_set(source, rows, levels=wanted.levels, seed=wanted.seed, device=_CPU, to_learn=to_learn)


def _images(tiles: NoisyTestSet, level: NoiseLevel) -> np.ndarray:
    return np.asarray(_middle(tiles.images(slice(None), level)))


def _middle(images: torch.Tensor) -> torch.Tensor:
    """(T, S, S) of (T, C, S, S): the slice that is labelled, since a filter has no use for its neighbours."""
    return images[:, images.shape[1] // 2]


def _with_labels(source: TileSource) -> np.ndarray:
    """The training tiles that something can be learnt from: of strokes on some slices not each, and perhaps few."""
    rows = source.split.train
    if source.info.ignored_pixels.any() or source.config.label_share < 1:
        rows = rows[source.labelled(rows, to_learn=True) > 0]
    if not len(rows):
        raise DatasetError(f"no training tile of {source.info.path.name} has a labelled pixel.")
    return rows


def _some(source: TileSource, rows: np.ndarray, pixels: int) -> np.ndarray:
    """At most so many pixels' tiles of a set, evenly spaced; at least one."""
    some: np.ndarray = rows[evenly(len(rows), max(1, pixels // source.size**2))]
    return some
