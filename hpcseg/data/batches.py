"""A packed data set in, tiles resident on this rank's device and the order in which they are used out.

Rank and world size come in as plain numbers. Nothing here depends on them but which part of a batch a rank takes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hpcseg.config import DataConfig, NoiseLevel, TrainConfig
from hpcseg.data import noise, store
from hpcseg.data.classes import IGNORED
from hpcseg.data.grey import GreyScale
from hpcseg.data.label_share import keep_share
from hpcseg.data.layout import lay_out
from hpcseg.data.splits import Split
from hpcseg.data.streams import Purpose, stream
from hpcseg.errors import DatasetError

# Tiles per forward pass outside training. Fixed, and whole chunks go to ranks, so that a chunk's arithmetic, and
# with it the confusion matrix, is the same on any number of ranks.
EVALUATION_CHUNK = 32


@dataclass(frozen=True)
class TileSet:
    """Tiles with their labels, resident on a device.

    `images` is (T, 1, S, S) float32, normalised; `labels` is (T, S, S) uint8, class indices, `IGNORED` for none.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """(T,) int64, pixels of each tile that have a class."""
        counts: np.ndarray = (self.labels != IGNORED).sum((1, 2)).cpu().numpy()
        return counts

    def take(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows`, with labels as int64 for the loss."""
        return self.images[rows], self.labels[rows].long()


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
    def classes(self) -> int:
        """Number of classes of the labels."""
        return len(self.info.class_values)

    def read(self, rows: np.ndarray, *, to_learn: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tiles (K, S, S) of limited grey values, labels (K, S, S) uint8 and noise keys (K, 3) of rows of `tiles`.

        Args:
            rows: (K,) int64.
            to_learn: with the labels that `data.label_share` leaves to what learns from them.
        """
        tiles = self.tiles[rows]
        counts, labels = store.read_tiles(self.info.path, tiles, self.size)
        if to_learn and self.config.label_share < 1:
            share, seed = self.config.label_share, self.config.split_seed
            labels = keep_share(labels, tiles, self.info.numbers, self.info.shape[1:], share=share, seed=seed)
        keys = np.column_stack([self.info.numbers[tiles[:, 0]], tiles[:, 1:]])
        return self.info.grey.limited(counts), labels, keys

    def normalised(self, noisy: np.ndarray) -> np.ndarray:
        """A set of tiles (T, S, S), grey values with whatever noise they have, as the network takes them: float32.

        Source: the paper's data section: noise first, then grey value / 65535, without clipping; the other settings are
        readings of "between 0 and 1".
        """
        kept = noise.within_range(noisy, np.dtype(self.info.dtype), self.config.out_of_range)
        if self.config.normalise == "full-scale":
            return self.info.grey.normalised(kept)
        values = kept.astype(np.float32, copy=False)
        axes = (1, 2) if self.config.normalise == "tile" else None
        low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
        # Of one value alone nothing is told, and it becomes 0.
        scaled: np.ndarray = (values - low) / np.where(high > low, high - low, np.float32(1))
        return scaled

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


def validation_set(source: TileSource, rows: np.ndarray, config: TrainConfig, device: torch.device) -> TileSet:
    """Load tiles with the cell's noise drawn once, as the network takes them.

    Raises:
        DatasetError: none of them has a labelled pixel, so that there is no loss to validate by.
    """
    return _labelled_set(source, source.read(rows), config, device, "validation")


class TrainingTiles:
    """The training tiles of a cell, epoch by epoch.

    Without augmentation, and with noise that is drawn once, every epoch sees the same resident tiles. What has no
    labelled pixel says nothing, and a batch of such tiles would have no loss, so it is not among them.

    Raises:
        DatasetError: no tile has a labelled pixel.
    """

    def __init__(self, source: TileSource, rows: np.ndarray, config: TrainConfig, device: torch.device) -> None:
        self._config, self._device, self._source = config, device, source
        read = source.read(rows, to_learn=True)
        known = (read[1] != IGNORED).any((1, 2))
        counts, labels, keys = read if known.all() else (part[known] for part in read)
        self._tiles = _labelled_set(source, (counts, labels, keys), config, device, "training")
        # The raw values are only needed where noise is drawn again.
        self._raw = (counts, keys) if config.noise_each_epoch and config.noise_fraction else None

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def labelled(self) -> np.ndarray:
        """(T,) int64, pixels of each tile that have a class."""
        return self._tiles.labelled

    @property
    def pixels(self) -> int:
        """Of all tiles together, that have a class."""
        return int(self.labelled.sum())

    def of_epoch(self, epoch: int) -> TileSet:
        """The tiles as epoch 0, 1, ... sees them: a function of the cell's seed and the epoch alone."""
        tiles = self._tiles
        if self._raw is not None:
            noisy, _ = noise.training_noise(*self._raw, self._config, self._source.info.grey, epoch=epoch)
            tiles = TileSet(_images(self._source, noisy, self._device), tiles.labels)
        if self._config.augment != "none":
            moves = epoch_symmetries(len(self), augment=self._config.augment, seed=self._config.seed, epoch=epoch)
            tiles = transformed(tiles, moves)
        return tiles


def transformed(tiles: TileSet, moves: np.ndarray) -> TileSet:
    """A copy of T tiles, images and labels alike moved by symmetries of the square.

    `moves` is (T,) int64 in 0..7: a transposition where bit 2 is set, then mirrored up-down for bit 0 and left-right
    for bit 1.
    """
    images, labels = tiles.images.clone(), tiles.labels.clone()
    for move in range(1, 8):
        rows = torch.from_numpy(np.flatnonzero(moves == move)).to(images.device)
        mirrored = [axis for bit, axis in ((1, -2), (2, -1)) if move & bit]
        for tensor in (images, labels):
            part = tensor[rows]
            tensor[rows] = (part.transpose(-2, -1) if move & 4 else part).flip(mirrored)
    return TileSet(images, labels)


@dataclass(frozen=True)
class NoisyTestSet:
    """Test tiles at all noise levels, resident on a device."""

    clean: TileSet
    unit: torch.Tensor
    """(T, 1, S, S) float32, Gaussian noise at sigma 1: one draw for all its levels."""
    others: Mapping[NoiseLevel, torch.Tensor]
    """(T, 1, S, S) float32 images at the levels that are not clean tiles plus sigma times `unit`."""
    slices: np.ndarray
    """(T,) int64, the number of the slice that a tile comes from."""
    grey: GreyScale

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows` at one noise level, whatever statistics a model takes there, with labels as int64."""
        return self.images(rows, level), self.clean.labels[rows].long()

    def images(self, rows: slice, level: NoiseLevel) -> torch.Tensor:
        """(B, 1, S, S) float32: the tiles of `rows` at one noise level."""
        level = dataclasses.replace(level, norm_tiles=0)
        if level in self.others:
            return self.others[level][rows]
        alpha = self.grey.counts(level.sigma) / (self.grey.high - self.grey.low)
        return torch.add(self.clean.images[rows], self.unit[rows], alpha=alpha)


def noisy_set(
    source: TileSource,
    rows: np.ndarray,
    *,
    levels: Sequence[NoiseLevel],
    seed: int,
    device: torch.device,
    to_learn: bool = False,
) -> NoisyTestSet:
    """Load some tiles and draw their noise, which is the same whatever tiles are loaded beside them.

    Args:
        source: the packed tiles, of which `rows`, (K,) int64, are loaded as by `TileSource.read`.
        levels: at which the set is looked at. The Gaussian ones need not be named where the settings of the tiles leave
            all to the grey scale of the data; else each is made of its own, and all are kept.
        seed: the evaluation's.
    """
    counts, labels, keys = source.read(rows, to_learn=to_learn)
    grey = source.info.grey
    unit = noise.test_noise(keys, size=source.size, seed=seed)
    affine = source.config.normalise == "full-scale" and source.config.out_of_range == "keep"
    others = {
        level: _images(source, noise.noisy_tests(counts, keys, level, seed=seed, grey=grey), device)
        for level in levels
        if not level.norm_tiles and (level.mixed or level.model != "gaussian" or not affine)
    }
    clean = TileSet(_images(source, counts, device), torch.from_numpy(labels).to(device))
    return NoisyTestSet(clean, torch.from_numpy(unit).unsqueeze(1).to(device), others, keys[:, 0], grey)


def _labelled_set(
    source: TileSource,
    read: tuple[np.ndarray, np.ndarray, np.ndarray],
    config: TrainConfig,
    device: torch.device,
    name: str,
) -> TileSet:
    counts, labels, keys = read
    if not (labels != IGNORED).any():
        raise DatasetError(
            f"{source.info.path}: no {name} tile has a labelled pixel. Label more slices, farther apart, or set "
            "data.tiles to a grid that covers more of each, such as cover."
        )
    noisy, _ = noise.training_noise(counts, keys, config, source.info.grey)
    return TileSet(_images(source, noisy, device), torch.from_numpy(labels).to(device))


def _images(source: TileSource, noisy: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(source.normalised(noisy)).unsqueeze(1).to(device)


def epoch_order(tiles: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the training tiles, (tiles,) int64: a function of seed and epoch alone."""
    return stream(Purpose.EPOCH_ORDER, seed, epoch).permutation(tiles)


def epoch_symmetries(tiles: int, *, augment: str, seed: int, epoch: int) -> np.ndarray:
    """How each training tile is moved in an epoch, (tiles,) int64 as `transformed` takes it.

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
