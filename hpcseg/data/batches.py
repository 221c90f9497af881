"""A packed data set in, the tiles of its sets as arrays and the order in which they are used out.

Rank and world size come in as plain numbers. Nothing here depends on them but which part of a batch a rank takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hpcseg.config import DataConfig
from hpcseg.data import noise, store
from hpcseg.data.classes import IGNORED
from hpcseg.data.layout import lay_out
from hpcseg.data.splits import Split
from hpcseg.data.streams import Purpose, stream
from hpcseg.slices.neighbours import neighbours

# Tiles per forward pass outside training. Fixed, and whole chunks go to ranks, so that a chunk's arithmetic, and
# with it the confusion matrix, is the same on any number of ranks.
EVALUATION_CHUNK = 32
# So many that reading them costs more than beginning to.
_TILES_AT_ONCE = 256
LABEL_EDGE = 16
"""Pixels of a square that is labelled or not: about what a few strokes of a brush cover."""


@dataclass(frozen=True)
class TileSource:
    """The tiles of a packed file under one DataConfig: where they lie and which set each belongs to."""

    info: store.DatasetInfo
    tiles: np.ndarray
    """(T, 3) int64 rows (slice index, y, x)."""
    split: Split
    config: DataConfig

    @property
    def size(self) -> int:
        """Edge of a tile in pixels."""
        return self.config.tile_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a tile as the network takes it."""
        return self.config.channels, self.size, self.size

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return len(self.info.class_values)

    def read(self, rows: np.ndarray, *, to_learn: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tiles (K, S, S) of limited grey values, labels (K, S, S) uint8 and noise keys (K, 3) of rows of `tiles`.

        With context tiles are (K, C, S, S) and their keys (K, C, 3).

        Args:
            rows: (K,) int64.
            to_learn: with the labels that `data.label_share` leaves to what learns from them.
        """
        tiles = self.tiles[rows]
        places = self._with_context(tiles)
        counts, labels = store.read_tiles(self.info.path, places, self.size)
        if to_learn and self.config.label_share < 1:
            share, seed = self.config.label_share, self.config.split_seed
            labels = keep_share(labels, tiles, self.info.numbers, self.info.shape[1:], share=share, seed=seed)
        keys = np.concatenate([self.info.numbers[places[..., :1]], places[..., 1:]], axis=-1)
        return self.info.grey.limited(counts), labels, keys

    def _with_context(self, tiles: np.ndarray) -> np.ndarray:
        """(K, 3) places as they are, or of all channels (K, C, 3)."""
        if not self.config.context:
            return tiles
        places = np.repeat(tiles[:, None], self.config.channels, axis=1)
        for channels in places:
            channels[:, 0] = self._around(int(channels[0, 0]))
        return places

    def _around(self, index: int) -> list[int]:
        return neighbours(self.info.numbers, index, self.config.context)

    def labelled(self, rows: np.ndarray, *, to_learn: bool = False) -> np.ndarray:
        """(K,) int64, pixels of tiles that have a class, read in parts; arguments as of `read`."""
        counts = [labelled_pixels(labels) for labels in self._labels(rows, to_learn=to_learn)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *counts])

    def class_pixels(self, rows: np.ndarray, *, to_learn: bool = False) -> np.ndarray:
        """(C,) int64, pixels of each class in tiles, read in parts; arguments as of `read`."""
        counts = np.zeros(IGNORED + 1, dtype=np.int64)
        for labels in self._labels(rows, to_learn=to_learn):
            counts += np.bincount(labels.ravel(), minlength=len(counts))
        return counts[: self.classes]

    def _labels(self, rows: np.ndarray, *, to_learn: bool) -> Iterator[np.ndarray]:
        for part in parts(len(rows)):
            yield self.read(rows[part], to_learn=to_learn)[1]

    def ends(self, noisy: np.ndarray) -> tuple[np.float32, np.float32]:
        """The smallest and the largest grey value of tiles, as `normalised` takes them of a whole set."""
        kept = noise.within_range(noisy, np.dtype(self.info.dtype), self.config.out_of_range)
        values = kept.astype(np.float32, copy=False)
        return values.min(), values.max()

    def normalised(self, noisy: np.ndarray, ends: tuple[np.float32, np.float32] | None = None) -> np.ndarray:
        """Tiles, grey values with whatever noise they have, in the range in which the network takes them: float32.

        Args:
            noisy: a whole set of tiles, or some of it, of the form that `read` gives them.
            ends: of the whole set, for `data.normalise` "set"; None where these are all of it.

        Source: the paper's data section: noise first, then grey value / 65535, without clipping; the other settings are
        readings of "between 0 and 1".
        """
        kept = noise.within_range(noisy, np.dtype(self.info.dtype), self.config.out_of_range)
        if self.config.normalise == "full-scale":
            return self.info.grey.normalised(kept)
        values = kept.astype(np.float32, copy=False)
        if self.config.normalise == "tile":
            within = tuple(range(1, values.ndim))
            low, high = values.min(within, keepdims=True), values.max(within, keepdims=True)
        else:
            low, high = map(np.asarray, ends or (values.min(), values.max()))
        # Of one value alone nothing is told, and it becomes 0.
        scaled: np.ndarray = (values - low) / np.where(high > low, high - low, np.float32(1))
        return scaled

    def images(self, noisy: np.ndarray, ends: tuple[np.float32, np.float32] | None = None) -> torch.Tensor:
        """(T, C, S, S) float32 on the CPU, as the network takes them; arguments as of `normalised`."""
        return torch.from_numpy(self.normalised(noisy, ends)).view(-1, *self.shape)

    def read_channels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """As `read_slice`, with the neighbours that the network takes beside it: (C, H, W) of limited grey values."""
        image, labels = self.read_slice(index)
        around = [image if other == index else self.read_slice(other)[0] for other in self._around(index)]
        return np.stack(around), labels

    def read_slice(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One whole slice (H, W) of limited grey values and its labels (H, W) uint8, by its index in the file."""
        counts, labels = store.read_slices(self.info.path, index, index + 1)
        return self.info.grey.limited(counts[0]), labels[0]

    def test_slices(self) -> np.ndarray:
        """(N,) int64 indices of the slices that test tiles come from, ascending."""
        return np.unique(self.tiles[self.split.test, 0])


def open_source(path: Path, config: DataConfig) -> TileSource:
    """Lay out the tiles of a packed file; reads no pixels.

    Raises:
        DatasetError: no usable packed file, too few slices for the split, or a gap that was not measured.
        ConfigError: the tiles do not fit on the slices.
    """
    info = store.read_info(path)
    return TileSource(info, *lay_out(info, config), config)


def parts(tiles: int) -> Iterator[slice]:
    """Rows of many tiles in parts that are no matter to the host's memory."""
    for start in range(0, tiles, _TILES_AT_ONCE):
        yield slice(start, min(start + _TILES_AT_ONCE, tiles))


def outermost(ends: Sequence[tuple[np.float32, np.float32]]) -> tuple[np.float32, np.float32]:
    """The smallest and the largest grey value of a set, of those of its parts as `TileSource.ends` has them."""
    return min(low for low, _ in ends), max(high for _, high in ends)


def keep_share(
    labels: np.ndarray, tiles: np.ndarray, numbers: np.ndarray, shape: tuple[int, int], *, share: float, seed: int
) -> np.ndarray:
    """Labels in some squares of each slice, drawn by lot; those of a smaller share are among those of a larger one.

    Args:
        labels: (K, S, S) uint8, class indices of tiles.
        tiles: (K, 3) int64, slice index, y and x of each.
        numbers: (N,) int64, the number of each slice, on which it depends what is drawn on it.
        shape: height and width of the slices, in pixels.
        share: of each slice's squares that is kept, over 0, at most 1; one of them at least is.
        seed: of the draw.

    Returns:
        (K, S, S) uint8, `IGNORED` outside of the squares that are kept.
    """
    rows, columns = (-(-length // LABEL_EDGE) for length in shape)
    kept: dict[int, np.ndarray] = {}
    for index in np.unique(tiles[:, 0]).tolist():
        drawn = stream(Purpose.LABEL_SHARE, seed, int(numbers[index])).permutation(rows * columns)
        kept[index] = np.zeros((rows, columns), dtype=bool)
        kept[index].flat[drawn[: max(1, round(share * rows * columns))]] = True
    size, left = labels.shape[1], labels.copy()
    for label, (index, y, x) in zip(left, tiles.tolist(), strict=True):
        down, across = (np.arange(start, start + size) // LABEL_EDGE for start in (y, x))
        label[~kept[index][np.ix_(down, across)]] = IGNORED
    return left


def labelled_pixels(labels: np.ndarray) -> np.ndarray:
    """(T,) int64, of labels (T, S, S) uint8: pixels of each tile that have a class."""
    counts: np.ndarray = (labels != IGNORED).sum((1, 2))
    return counts


def epoch_order(tiles: int, *, seed: int, epoch: int, passes: int = 1) -> np.ndarray:
    """The order in which an epoch visits the training tiles, (passes * tiles,) int64: each once in each pass.

    A function of seed and epoch alone.
    """
    rng = stream(Purpose.EPOCH_ORDER, seed, epoch)
    return np.concatenate([rng.permutation(tiles) for _ in range(passes)])


def epoch_symmetries(tiles: int, *, augment: str, seed: int, epoch: int) -> np.ndarray:
    """How each training tile is moved in an epoch, (tiles,) int64 as `transformed` takes it; `augment` is the moves.

    "flips" draws from the four mirrorings, "symmetries" from all eight symmetries of the square.
    """
    rng = stream(Purpose.EPOCH_SYMMETRIES, seed, epoch)
    return rng.integers(4 if augment == "flips" else 8, size=tiles)


def rank_share(batch: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """A rank's part of a global batch: contiguous parts whose sizes differ by at most one (25 on 2: 13 and 12)."""
    return batch.tensor_split(world_size)[rank]


def evaluation_chunks(tiles: int, rank: int, world_size: int, size: int = EVALUATION_CHUNK) -> Iterator[slice]:
    """The chunks of tile rows that a rank evaluates: over all ranks each tile exactly once, none padded."""
    for start in range(rank * size, tiles, world_size * size):
        yield slice(start, min(start + size, tiles))
