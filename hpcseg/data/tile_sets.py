"""Tiles as the network takes them: on the device that computes, or elsewhere and loaded when their turn comes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hpcseg.data.classes import IGNORED


@dataclass(frozen=True)
class TileSet:
    """Tiles with their labels, resident on a device.

    `images` is (T, C, S, S) float32, normalised, C channels; `labels` is (T, S, S) uint8, class indices, `IGNORED` for
    none.
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

    def some(self, rows: np.ndarray) -> TileSet:
        """A copy of some tiles, (K,) int64 rows, where these are."""
        places = torch.from_numpy(rows).to(self.images.device)
        return TileSet(self.images[places], self.labels[places])


@dataclass(frozen=True)
class AwayTiles:
    """Tiles that the device has no room for."""

    load: Callable[[np.ndarray], TileSet]
    """Some of them, (K,) int64 rows, on the CPU; called by several threads."""
    labelled: np.ndarray
    """(T,) int64, pixels of each tile that have a class."""
    shape: tuple[int, int, int]
    """Channels, height and width of a tile."""
    device: torch.device
    """Where they are to go."""

    def __len__(self) -> int:
        return len(self.labelled)

    def take(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows` on the device, with labels as int64 for the loss."""
        loaded = self.load(np.arange(len(self))[rows])
        return loaded.images.to(self.device), loaded.labels.to(self.device).long()

    def load_to_send(self, rows: np.ndarray) -> TileSet:
        """As `load`, in memory from where a GPU fetches them while the host goes on."""
        loaded = self.load(rows)
        if self.device.type != "cuda":
            return loaded
        return TileSet(loaded.images.pin_memory(), loaded.labels.pin_memory())


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
