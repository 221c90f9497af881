"""Test tiles at all noise levels of an evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpcseg.config import NoiseLevel
from hpcseg.data import noise
from hpcseg.data.batches import TileSource, outermost, parts
from hpcseg.data.grey import GreyScale
from hpcseg.data.room import Place, Room
from hpcseg.data.tile_sets import TileSet

_Ends = Mapping[NoiseLevel | None, tuple[np.float32, np.float32]]


@dataclass(frozen=True)
class NoisyTestSet:
    """Test tiles at all noise levels, resident on a device."""

    clean: TileSet
    unit: torch.Tensor
    """(T, C, S, S) float32, Gaussian noise at sigma 1: one draw for all its levels."""
    others: Mapping[NoiseLevel, torch.Tensor]
    """(T, C, S, S) float32 images at the levels that are not clean tiles plus sigma times `unit`."""
    grey: GreyScale

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.unit.device

    @property
    def labelled(self) -> np.ndarray:
        """(T,) int64, pixels of each tile that have a class."""
        return self.clean.labelled

    def take(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiles of `rows` at one noise level, whatever statistics a model takes there, with labels as int64."""
        return self.images(rows, level), self.clean.labels[rows].long()

    def images(self, rows: slice, level: NoiseLevel) -> torch.Tensor:
        """(B, C, S, S) float32: the tiles of `rows` at one noise level."""
        level = dataclasses.replace(level, norm_tiles=0)
        if level in self.others:
            return self.others[level][rows]
        alpha = self.grey.counts(level.sigma) / (self.grey.high - self.grey.low)
        return torch.add(self.clean.images[rows], self.unit[rows], alpha=alpha)


class StoredTestSet:
    """The same of tiles that a device has no room for: some of them at a time, loaded when they are asked for.

    Args:
        source, rows, levels, seed, device: as of `noisy_set`.
    """

    def __init__(
        self, source: TileSource, rows: np.ndarray, *, levels: Sequence[NoiseLevel], seed: int, device: torch.device
    ) -> None:
        self._source, self._rows, self._levels, self._seed = source, rows, levels, seed
        self.device = device
        """Where they go."""
        self.labelled = source.labelled(rows)
        """(T,) int64, pixels of each tile that have a class."""
        self._ends: _Ends = self._of_all() if source.config.normalise == "set" else {}
        self._loaded: tuple[slice, NoisyTestSet] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `NoisyTestSet`."""
        # A tile meets its noise levels one after the other.
        if self._loaded is None or self._loaded[0] != rows:
            self._loaded = None
            loaded = noisy_set(
                self._source,
                self._rows[rows],
                levels=self._levels,
                seed=self._seed,
                device=self.device,
                ends=self._ends,
            )
            self._loaded = rows, loaded
        return self._loaded[1].take(slice(None), level)

    def _of_all(self) -> _Ends:
        """Of all tiles, the smallest and the largest grey value at each level, and without noise."""
        found: dict[NoiseLevel | None, list[tuple[np.float32, np.float32]]] = {}
        for part in parts(len(self._rows)):
            counts, _, keys = self._source.read(self._rows[part])
            found.setdefault(None, []).append(self._source.ends(counts))
            for level in _made(self._source, self._levels):
                noisy = noise.noisy_tests(counts, keys, level, seed=self._seed, grey=self._source.info.grey)
                found.setdefault(level, []).append(self._source.ends(noisy))
        return {level: outermost(ends) for level, ends in found.items()}


def test_tiles(
    source: TileSource, rows: np.ndarray, *, levels: Sequence[NoiseLevel], seed: int, device: torch.device, room: Room
) -> NoisyTestSet | StoredTestSet:
    """The same, where there is room for them; arguments as of `noisy_set`."""
    pixels, values = len(rows) * source.size**2, len(rows) * math.prod(source.shape)
    kept = pixels + values * 4 * (2 + len(_made(source, levels)))
    made = kept + values * (4 + np.dtype(source.info.dtype).itemsize)
    resident = room.place(kept=kept, made=made) is Place.DEVICE
    return (noisy_set if resident else StoredTestSet)(source, rows, levels=levels, seed=seed, device=device)


def noisy_set(
    source: TileSource,
    rows: np.ndarray,
    *,
    levels: Sequence[NoiseLevel],
    seed: int,
    device: torch.device,
    to_learn: bool = False,
    ends: _Ends | None = None,
) -> NoisyTestSet:
    """Load some tiles and draw their noise, which is the same whatever tiles are loaded beside them.

    Args:
        source: the packed tiles, of which `rows`, (K,) int64, are loaded as by `TileSource.read`.
        levels: at which the set is looked at. The Gaussian ones need not be named where the settings of the tiles leave
            all to the grey scale of the data; else each is made of its own, and all are kept.
        seed: the evaluation's.
        device: that computes.
        to_learn: as of `TileSource.read`.
        ends: of each level, and without noise, as `TileSource.normalised` takes them; none where these are all tiles.
    """
    counts, labels, keys = source.read(rows, to_learn=to_learn)
    grey, ends = source.info.grey, ends or {}

    def images(noisy: np.ndarray, level: NoiseLevel | None = None) -> torch.Tensor:
        return source.images(noisy, ends.get(level)).to(device)

    unit = torch.from_numpy(noise.test_noise(keys, size=source.size, seed=seed)).view(-1, *source.shape)
    others = {
        level: images(noise.noisy_tests(counts, keys, level, seed=seed, grey=grey), level)
        for level in _made(source, levels)
    }
    clean = TileSet(images(counts), torch.from_numpy(labels).to(device))
    return NoisyTestSet(clean, unit.to(device), others, grey)


def _made(source: TileSource, levels: Sequence[NoiseLevel]) -> list[NoiseLevel]:
    """Those of the levels that are no multiple of the one draw."""
    affine = source.config.normalise == "full-scale" and source.config.out_of_range == "keep"
    return [
        level for level in levels if not level.norm_tiles and (level.mixed or level.model != "gaussian" or not affine)
    ]
