"""Tiles in, training, validation and test sets out: a function of policy, seed and the tiles' places alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hpcseg.data.likeness import usual_step
from hpcseg.data.streams import Purpose, stream
from hpcseg.errors import DatasetError

TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15
FEW_TEST_SLICES = 5
"""Of fewer test slices the standard deviation between them is itself uncertain by 40 % or more, its relative error
being 1 / sqrt(2 (n - 1)), so that no interval says how another slice would fare."""
NO_GAP = (
    "there are too few slices to leave any out between two sets, so test slices may be like training slices, and a new "
    "scan is segmented less well than they are."
)


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of tiles by their rows, each (K,) int64 and ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    gap_slices: int | None = None
    """Slice numbers between two blocks that no set has; None: shuffled."""

    def sha256(self) -> str:
        """Identifies the sets themselves: a record keeps it, so that no later run can test on other tiles."""
        whole = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            whole.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return whole.hexdigest()


def split_tiles(
    tiles: np.ndarray,
    *,
    numbers: np.ndarray,
    policy: str,
    seed: int,
    gap_slices: int,
    overlapping: bool = False,
    train_slices: int = 0,
) -> Split:
    """Divide tiles 70 / 15 / 15 into training, validation and test set, each of which gets one at least.

    `shuffled` is the paper's: every tile for itself, so that crops of one slice, and of neighbouring slices that
    are nearly the same picture, land on both sides. No pixel does: tiles that overlap, which the paper has not, stay
    together with all others of their slice. `blocked` gives each set one contiguous run of slices, whose numbers are
    more than `gap_slices` from those of the others, which is what new material is like. The stack is taken as a ring
    and the seed says where the training block begins; a set that runs over the end goes on at the first slice.

    Args:
        tiles: (T, 3) int64 rows (slice index, y, x) from `tiles.all_tiles`.
        numbers: (N,) int64, ascending: the number of each slice in its stack.
        policy: "shuffled" or "blocked".
        seed: of the split.
        gap_slices: slice numbers between two blocks that no set gets, 0 or more; "blocked" only. Slices that are
            farther apart than that are all used.
        overlapping: whether tiles of one slice share pixels.
        train_slices: keep the training tiles of this many slices only, 0: of all. They are drawn by lot, and those of
            a smaller number are among those of every larger one. The other two sets stay as they are.

    Raises:
        DatasetError: there are too few tiles or slices for three sets, or for `train_slices`.

    Source: the paper's data section (shuffled); what it did not see (blocked).
    """
    slices = np.unique(tiles[:, 0])
    if policy == "blocked":
        blocks = _blocks(numbers[slices], gap_slices, seed)
        if not blocks:
            raise DatasetError(_too_few_for_blocks(len(tiles), numbers[slices], gap_slices, seed))
        sets = [np.flatnonzero(np.isin(tiles[:, 0], slices[block])) for block in blocks]
    else:
        drawn = slices if overlapping else np.arange(len(tiles))
        if len(drawn) < len(_LEAST):
            raise DatasetError(_too_few_by_lot(len(tiles), len(slices), overlapping))
        train, validation, _ = _cut(len(drawn))
        sets = np.split(drawn[stream(Purpose.SPLIT, seed).permutation(len(drawn))], [train, train + validation])
        if overlapping:
            sets = [np.flatnonzero(np.isin(tiles[:, 0], some)) for some in sets]
    if train_slices:
        sets[0] = _of_some_slices(tiles, sets[0], train_slices, seed)
    train_rows, validation_rows, test_rows = (np.sort(rows).astype(np.int64) for rows in sets)
    return Split(train_rows, validation_rows, test_rows, gap_slices if policy == "blocked" else None)


def few_test_slices(count: int) -> str:
    """What so few test slices cannot tell; empty where they are enough."""
    if count >= FEW_TEST_SLICES:
        return ""
    return (
        f"accuracy on {count} test slice{'s' if count > 1 else ''} says little: on others it may be quite another, and "
        'no interval can tell by how much. --set "data.split_seed=[0,1,2]" tests on other slices as well.'
    )


def widest_gap(numbers: np.ndarray, *, seed: int, at_most: int) -> int | None:
    """The largest gap, up to one that is wished for, with which slices have a blocked split; None: there is none.

    Args:
        numbers: as of `split_tiles`, of the slices that are divided.
        seed: of the split.
        at_most: slice numbers.
    """
    if not _blocks(numbers, 0, seed):
        return None
    low, high = 0, at_most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _blocks(numbers, middle, seed) else (low, middle - 1)
    return low


class _Sizes(NamedTuple):
    train: int
    validation: int
    test: int


_LEAST = _Sizes(1, 1, 1)


def _blocks(numbers: np.ndarray, gap: int, seed: int) -> list[np.ndarray]:
    """The places of each block's slices, of as many as fit; none where not even one slice for each does.

    The training begins where the seed says, or, where nothing fits from there, at the first slice behind it from which
    it does: of bundles of slices that are far apart each belongs to one set.
    """
    count = len(numbers)
    drawn = int(stream(Purpose.SPLIT, seed).integers(count))
    steps = np.diff(numbers)
    # From the last slice to the first it is as far as between two neighbours at most: in truth it is no less.
    steps = np.append(steps, steps.max(initial=1))
    for start in range(drawn, drawn + count):
        along = np.append(0, np.cumsum(np.roll(steps, -start)))
        if _starts(along, _LEAST, gap):
            break
    else:
        return []
    order = np.roll(np.arange(count), -start)
    fit = (_starts(along, _cut(used), gap) for used in range(count, len(_LEAST) - 1, -1))
    starts = next(found for found in fit if found)
    # Up to the gap: of slices that are not evenly numbered more may fit than the block was to have.
    ends = np.searchsorted(along, along[[*starts[1:], count]] - gap, side="left")
    return [order[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]


def _starts(along: np.ndarray, sizes: _Sizes, gap: int) -> list[int]:
    """Where on the ring each block begins; nothing where the blocks do not fit.

    Args:
        along: (N + 1,) int64, ascending from 0: slice numbers from the first slice to each, and once round.
        sizes: slices of each block.
        gap: slice numbers between two.
    """
    starts, start = [], 0
    for size in sizes:
        starts.append(start)
        last = start + size - 1
        if last > len(along) - 2:
            return []
        start = int(np.searchsorted(along, along[last] + gap, side="right"))
    return starts if start < len(along) else []


def _too_few_for_blocks(tiles: int, numbers: np.ndarray, gap: int, seed: int) -> str:
    """Why there is no blocked split, with what it takes and what would make fewer do."""
    if len(numbers) < len(_LEAST):
        return _too_few_by_lot(tiles, len(numbers), overlapping=True)
    left_out = gap // usual_step(numbers)
    text = (
        f"{tiles} tiles on {len(numbers)} slices are too few for a blocked split into three sets with {gap} slice "
        f"numbers between any two: it takes {3 + 3 * left_out} slices that are numbered like these, one for each set "
        f"and three times {left_out} left out. Label more slices, or some farther apart, or set data.gap_slices to "
    )
    widest = widest_gap(numbers, seed=seed, at_most=gap)
    if widest:
        sizes = ", ".join(str(len(block)) for block in _blocks(numbers, widest, seed))
        text += f"{widest} or less, which leaves {sizes} slices to training, validation and test,"
    else:
        text += '"auto", which here leaves none out,'
    return f'{text} or data.split to "shuffled"; both make the test set more like the training set than a new scan is.'


def _too_few_by_lot(tiles: int, slices: int, overlapping: bool) -> str:
    """Why there is no shuffled split of so few."""
    if not overlapping:
        return f"{tiles} tiles on {slices} slices are too few for three sets. Label more slices, or set data.tiles."
    return (
        f"{tiles} tiles on {slices} slices are too few for three sets: of blocks, and of tiles that overlap, each set "
        'has whole slices, so it takes 3. Label more slices. Or set data.split to "shuffled" and data.tiles to a grid '
        'without overlap, such as "3x3": the test set then has tiles of the slices that are trained on, and tells '
        "nothing of another slice."
    )


def _of_some_slices(tiles: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    slices = np.unique(tiles[rows, 0])
    if count > len(slices):
        raise DatasetError(
            f"data.train_slices is {count}, but the training tiles come from {len(slices)} slices. Ask for fewer."
        )
    rng = stream(Purpose.TRAINING_SLICES, seed)
    return rows[np.isin(tiles[rows, 0], rng.permutation(slices)[:count])]


def _cut(count: int) -> _Sizes:
    """The shares of 3 or more, one each at least."""
    validation = max(1, round(VALIDATION_SHARE * count))
    train = min(round(TRAIN_SHARE * count), count - validation - 1)
    return _Sizes(train, validation, count - train - validation)
