"""What needs no network on the test tiles of a run's cells: the commonest class, and a blur with grey thresholds.

Both are chosen on training tiles: the class once, blur and thresholds at each noise level on tiles that have the same
noise. A filter that is chosen on clean tiles falls to 0.71 on the paper's at sigma 5000, where this one has 0.95. The
test tiles and their noise are the evaluation's, and pixels are counted as there.
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
from hpcseg.runs.schema import Baseline, BaselinePoint, BaselineSlice, Provenance
from hpcseg.runs.tested import TestSet, missing_baselines
from hpcseg.segment.edges import BANDS, edge_bands, near_edge
from hpcseg.segment.grey_filter import BLURS, GreyFilter, blurred, fit_filters, order_by_grey

COMMONEST, FILTER = "commonest class", "filter"
_BASELINES = (COMMONEST, FILTER)
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
    return tuple(f"There are no baselines for {', '.join(those)}: {reason}" for reason, those in missing.items())


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
        commonest, filters, choices = _choose(_noisy(source, training, wanted, to_learn=True), source, wanted, pool)
        by_band, right, labelled = _count(source, test, wanted, commonest, filters, pool)
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
        commonest_class=commonest,
        filter={"blurs_tried": list(BLURS), "choices": choices},
        points=[
            BaselinePoint(
                **level.as_record(),
                baseline=baseline,
                confusion=matrices.sum(0).tolist(),
                near_edge=near_edge(matrices),
            )
            for baseline, of_baseline in zip(_BASELINES, by_band, strict=True)
            for level, matrices in zip(wanted.levels, of_baseline, strict=True)
        ],
        slices=_by_slice(source, test, wanted, right, labelled),
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
) -> tuple[int, list[GreyFilter], list[dict[str, Any]]]:
    """The commonest class of training tiles, a filter for each level, and what the record says about it."""
    grey, labels = source.info.grey, tiles.clean.labels.numpy()
    order = order_by_grey(_middle(tiles.clean.images).numpy(), labels, source.classes)
    commonest = int(np.bincount(labels[labels != IGNORED], minlength=source.classes).argmax())

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
    return commonest, filters, choices


def _count(
    source: TileSource,
    rows: np.ndarray,
    wanted: TestSet,
    commonest: int,
    filters: list[GreyFilter],
    pool: ThreadPoolExecutor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of both baselines at L levels on K tiles: (2, L, BANDS, C, C), (2, L, K) right and (K,) labelled pixels."""
    step = max(1, _PIXELS_AT_ONCE // source.size**2)
    starts = range(0, len(rows), step)

    def counted(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tiles = _noisy(source, rows[start : start + step], wanted)
        return *_count_some(tiles, source.classes, wanted.levels, commonest, filters), tiles.clean.labelled

    by_band = np.zeros((2, len(wanted.levels), BANDS, source.classes, source.classes), dtype=np.int64)
    right = np.zeros((2, len(wanted.levels), len(rows)), dtype=np.int64)
    labelled = np.zeros(len(rows), dtype=np.int64)
    for start, (matrices, of_tiles, known) in zip(starts, pool.map(counted, starts), strict=True):
        by_band += matrices
        right[:, :, start : start + step] = of_tiles
        labelled[start : start + step] = known
    return by_band, right, labelled


def _count_some(
    tiles: NoisyTestSet, classes: int, levels: Sequence[NoiseLevel], commonest: int, filters: list[GreyFilter]
) -> tuple[np.ndarray, np.ndarray]:
    """The same of some of the tiles."""
    labels = tiles.clean.labels.int()
    known = labels != IGNORED
    places = (edge_bands(labels).int() * classes + labels) * classes
    by_band = np.zeros((2, len(levels), BANDS, classes, classes), dtype=np.int64)
    right = np.zeros((2, len(levels), len(labels)), dtype=np.int64)

    def count(baseline: int, index: int | slice, predicted: torch.Tensor) -> None:
        counts = torch.bincount((places + predicted)[known], minlength=BANDS * classes**2)
        by_band[baseline, index] = counts.view(BANDS, classes, classes).numpy()
        right[baseline, index] = (predicted == labels).sum((1, 2)).numpy()

    # Noise does not change the commonest class: counted once for all levels.
    count(0, slice(None), torch.full_like(labels, commonest))
    for blur in {one.blur for one in filters}:
        places_of_blur = [index for index, one in enumerate(filters) if one.blur == blur]
        smooth = _smooth(tiles, [levels[index] for index in places_of_blur], blur)
        for index, images in zip(places_of_blur, smooth, strict=True):
            count(1, index, torch.from_numpy(filters[index].classes(images)))
    return by_band, right


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


def _by_slice(
    source: TileSource, rows: np.ndarray, wanted: TestSet, right: np.ndarray, labelled: np.ndarray
) -> list[BaselineSlice]:
    """For each slice that the test tiles come from, their right pixels at the levels that tables show."""
    slices = source.tiles[rows, 0]
    shown = [(wanted.levels.index(level), level.key) for level in wanted.shown]
    return [
        BaselineSlice(
            slice=int(source.info.numbers[index]),
            pixels=int(labelled[slices == index].sum()),
            right={
                baseline: {key: int(of_baseline[level, slices == index].sum()) for level, key in shown}
                for baseline, of_baseline in zip(_BASELINES, right, strict=True)
            },
        )
        for index in np.unique(slices).tolist()
    ]


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
