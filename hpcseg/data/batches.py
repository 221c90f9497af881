"""A packed data set in, tiles resident on this rank's device and the order in which they are used out.

Rank and world size come in as plain numbers. Nothing here depends on them but which part of a batch a rank takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data import noise, store
from hpcseg.data.layout import lay_out
from hpcseg.data.splits import Split

# Tiles per forward pass outside training. Fixed, and whole chunks go to ranks, so that a chunk's arithmetic, and
# with it the confusion matrix, is the same on any number of ranks.
EVALUATION_CHUNK = 32


@dataclass(frozen=True)
class TileSet:
    """Tiles with their labels, resident on a device.

    `images` is (T, 1, S, S) float32, normalised; `labels` is (T, S, S) uint8, class indices.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows`, (B,) int64 on the device or a slice, with labels as int64 for the loss."""
        return self.images[rows], self.labels[rows].long()


@dataclass(frozen=True)
class TileSource:
    """The tiles of a packed file under one DataConfig: where they lie and which set each belongs to."""

    info: store.DatasetInfo
    table: np.ndarray
    split: Split
    size: int

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return len(self.info.class_values)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw tiles (K, S, S), labels (K, S, S) uint8 and noise keys (K, 3) of rows of the table."""
        table = self.table[rows]
        counts, labels = store.read_tiles(self.info.path, table, self.size)
        keys = np.column_stack([self.info.numbers[table[:, 0]], table[:, 1:]])
        return counts, labels, keys


def open_source(path: Path, config: DataConfig) -> TileSource:
    """Lay out the tiles of a packed file; reads no pixels.

    Raises:
        DatasetError: no usable packed file, or too few slices for the split.
        ConfigError: the tiles do not fit on the slices.
    """
    info = store.read_info(path)
    table, split = lay_out(info.shape, config)
    return TileSource(info, table, split, config.tile_size)


def training_set(source: TileSource, rows: np.ndarray, config: TrainConfig, device: torch.device) -> TileSet:
    """Load training or validation tiles with the cell's noise, normalised by the full scale of the data.

    Source: the paper's data section: noise first, then grey value / 65535, without clipping.
    """
    counts, labels, keys = source.read(rows)
    noisy, _ = noise.training_noise(
        counts, keys, fraction=config.noise_fraction, sigma_max=config.noise_sigma_max, seed=config.seed
    )
    images = torch.from_numpy(noisy / np.float32(source.info.full_scale)).unsqueeze(1)
    return TileSet(images.to(device), torch.from_numpy(labels).to(device))


@dataclass(frozen=True)
class NoisyTestSet:
    """Test tiles and their noise at sigma 1, resident on a device; `at(sigma)` is the set at one noise level."""

    clean: TileSet
    unit: torch.Tensor
    full_scale: float

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, rows: slice, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows` at one noise level in counts, with labels as int64."""
        images, labels = self.clean.take(rows)
        return torch.add(images, self.unit[rows], alpha=sigma / self.full_scale), labels


def test_set(source: TileSource, *, seed: int, device: torch.device) -> NoisyTestSet:
    """Load the test tiles and draw their noise once for all noise levels."""
    counts, labels, keys = source.read(source.split.test)
    unit = noise.test_noise(keys, size=source.size, seed=seed)
    images = torch.from_numpy(counts.astype(np.float32) / np.float32(source.info.full_scale)).unsqueeze(1)
    clean = TileSet(images.to(device), torch.from_numpy(labels).to(device))
    return NoisyTestSet(clean, torch.from_numpy(unit).unsqueeze(1).to(device), source.info.full_scale)


def epoch_order(tiles: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the training tiles, (tiles,) int64: a function of seed and epoch alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(tiles)


def rank_share(batch: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """A rank's part of a global batch: contiguous parts whose sizes differ by at most one (25 on 2: 13 and 12)."""
    return batch.tensor_split(world_size)[rank]


def evaluation_chunks(tiles: int, rank: int, world_size: int) -> Iterator[slice]:
    """The chunks of tile rows that a rank evaluates: over all ranks each tile exactly once, none padded."""
    for number, start in enumerate(range(0, tiles, EVALUATION_CHUNK)):
        if number % world_size == rank:
            yield slice(start, min(start + EVALUATION_CHUNK, tiles))
