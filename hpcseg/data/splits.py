"""Tiles in, training, validation and test sets out: a function of policy, seed and the tiles' places alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from hpcseg.data.streams import Purpose, stream
from hpcseg.errors import DatasetError

TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of tiles by their rows, each (K,) int64 and ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    gap_slices: int | None = None
    """Slices between two blocks that no set has; None: shuffled."""

    def sha256(self) -> str:
        """Identifies the sets themselves: a record keeps it, so that no later run can test on other tiles."""
        whole = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            whole.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return whole.hexdigest()


def split_tiles(
    tiles: np.ndarray,
    *,
    policy: str,
    seed: int,
    gap_slices: int,
    overlapping: bool = False,
    train_slices: int = 0,
) -> Split:
    """Divide tiles 70 / 15 / 15 into training, validation and test set.

    `shuffled` is the paper's: every tile for itself, so that crops of one slice, and of neighbouring slices that
    are nearly the same picture, land on both sides. No pixel does: tiles that overlap, which the paper has not, stay
    together with all others of their slice. `blocked` gives each set one contiguous run of slices with `gap_slices`
    between it and the others, which is what new material is like. The stack is taken as a ring and the seed says where
    the training block begins; a set that runs over the end goes on at the first slice.

    Args:
        tiles: (T, 3) int64 rows (slice index, y, x) from `tiles.all_tiles`.
        policy: "shuffled" or "blocked".
        seed: of the split.
        gap_slices: slices between two blocks that no set gets; "blocked" only.
        overlapping: whether tiles of one slice share pixels.
        train_slices: keep the training tiles of this many slices only, 0: of all. They are drawn by lot, and those of
            a smaller number are among those of every larger one. The other two sets stay as they are.

    Raises:
        DatasetError: there are too few tiles or slices for three sets, or for `train_slices`.

    Source: the paper's data section (shuffled); what it did not see (blocked).
    """
    rng, slices = stream(Purpose.SPLIT, seed), np.unique(tiles[:, 0])
    blocked = policy == "blocked"
    if not blocked:
        drawn = slices if overlapping else np.arange(len(tiles))
        train, validation, _ = _cut(len(drawn))
        sets = np.split(drawn[rng.permutation(len(drawn))], [train, train + validation])
        if overlapping:
            sets = [np.flatnonzero(np.isin(tiles[:, 0], some)) for some in sets]
    else:
        train, validation, test = _cut(max(0, len(slices) - 3 * gap_slices))
        ring = np.roll(slices, -int(rng.integers(len(slices))))
        starts = (0, train + gap_slices, train + validation + 2 * gap_slices)
        blocks = [ring[start : start + size] for start, size in zip(starts, (train, validation, test), strict=True)]
        sets = [np.flatnonzero(np.isin(tiles[:, 0], block)) for block in blocks]
    if min(len(rows) for rows in sets) == 0:
        what = f"{len(tiles)} tiles on {len(slices)} slices are too few for a {policy} split into three sets"
        if blocked:
            raise DatasetError(
                f"{what} with {gap_slices} slices between them. Pack more slices, or lower data.gap_slices."
            )
        whole = ", since tiles that overlap are not divided" if overlapping else ""
        raise DatasetError(f"{what}{whole}. Pack more slices.")
    if train_slices:
        sets[0] = _of_some_slices(tiles, sets[0], train_slices, seed)
    train_rows, validation_rows, test_rows = (np.sort(rows).astype(np.int64) for rows in sets)
    return Split(train_rows, validation_rows, test_rows, gap_slices if blocked else None)


def _of_some_slices(tiles: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    slices = np.unique(tiles[rows, 0])
    if count > len(slices):
        raise DatasetError(
            f"data.train_slices is {count}, but the training tiles come from {len(slices)} slices. Ask for fewer."
        )
    rng = stream(Purpose.TRAINING_SLICES, seed)
    return rows[np.isin(tiles[rows, 0], rng.permutation(slices)[:count])]


def _cut(count: int) -> tuple[int, int, int]:
    train, validation = round(TRAIN_SHARE * count), round(VALIDATION_SHARE * count)
    return train, validation, max(0, count - train - validation)
