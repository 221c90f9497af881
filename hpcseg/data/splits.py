"""A tile table in, train, validation and test sets out: a function of policy, seed and table alone."""

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
    """Three disjoint sets of rows of a tile table, each (K,) int64 and ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def sha256(self) -> str:
        """Identifies the sets themselves: a record keeps it, so that no later run can test on other tiles."""
        whole = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            whole.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return whole.hexdigest()


def split_tiles(table: np.ndarray, *, policy: str, seed: int, gap_slices: int, train_slices: int = 0) -> Split:
    """Divide tiles 70 / 15 / 15 into training, validation and test set.

    `shuffled` is the paper's: every tile for itself, so that crops of one slice, and of neighbouring slices that
    are nearly the same picture, land on both sides. `blocked` gives each set one contiguous run of slices, at
    least `gap_slices` away from the others, which is what new material is like. The stack is taken as a ring and
    the seed says where the training block begins; a set that runs over the end goes on at the first slice.

    Args:
        table: (T, 3) int64 rows (slice index, y, x) from `tiles.tile_table`.
        policy: "shuffled" or "blocked".
        seed: of the split.
        gap_slices: slices between two blocks that no set gets; "blocked" only.
        train_slices: keep the training tiles of this many slices only, 0: of all. They are drawn by lot, and those of
            a smaller number are among those of every larger one. The other two sets stay as they are.

    Raises:
        DatasetError: there are too few tiles or slices for three sets, or for `train_slices`.

    Source: the paper's data section (shuffled); what it did not see (blocked).
    """
    rng = stream(Purpose.SPLIT, seed)
    if policy == "shuffled":
        order = rng.permutation(len(table))
        train, validation, test = _cut(len(table))
        parts = np.split(order, [train, train + validation])
    else:
        slices = np.unique(table[:, 0])
        train, validation, test = _cut(max(0, len(slices) - 3 * gap_slices))
        ring = np.roll(slices, -int(rng.integers(len(slices))))
        starts = (0, train + gap_slices, train + validation + 2 * gap_slices)
        blocks = [ring[start : start + size] for start, size in zip(starts, (train, validation, test), strict=True)]
        parts = [np.flatnonzero(np.isin(table[:, 0], block)) for block in blocks]
    if min(len(part) for part in parts) == 0:
        what = f"{len(table)} tiles on {len(np.unique(table[:, 0]))} slices"
        raise DatasetError(f"{what} are too few for a {policy} split into three sets. Pack more slices.")
    if train_slices:
        parts[0] = _of_some_slices(table, parts[0], train_slices, seed)
    return Split(*(np.sort(part).astype(np.int64) for part in parts))


def _of_some_slices(table: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    slices = np.unique(table[rows, 0])
    if count > len(slices):
        raise DatasetError(
            f"data.train_slices is {count}, but the training tiles come from {len(slices)} slices. Ask for fewer."
        )
    rng = stream(Purpose.TRAINING_SLICES, seed)
    return rows[np.isin(table[rows, 0], rng.permutation(slices)[:count])]


def _cut(count: int) -> tuple[int, int, int]:
    train, validation = round(TRAIN_SHARE * count), round(VALIDATION_SHARE * count)
    return train, validation, max(0, count - train - validation)
