"""The tiles that a cell learns from and is validated on, with their noise, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from hpcseg.config import TrainConfig
from hpcseg.data import noise
from hpcseg.data.batches import TileSource, epoch_symmetries, labelled_pixels, outermost, parts
from hpcseg.data.exposure import exposed
from hpcseg.data.grey import GreyScale
from hpcseg.data.room import Place, Room
from hpcseg.data.sets import unlabelled
from hpcseg.data.tile_sets import AwayTiles, TileSet, transformed

_CPU = torch.device("cpu")
# float32 of each pixel of each channel, and uint8 of each pixel.
_IMAGE, _LABEL = 4, 1


class _Stored:
    """The tiles of some rows of a packed file, with the cell's noise, some at a time.

    Args:
        source, rows, config: as of `TrainingTiles`.
        to_learn: as of `TileSource.read`.
        epoch: that they are drawn for; None: once for all.
    """

    def __init__(
        self, source: TileSource, rows: np.ndarray, config: TrainConfig, *, to_learn: bool, epoch: int | None = None
    ) -> None:
        self._source, self._rows, self._config, self._to_learn = source, rows, config, to_learn
        self.epoch = epoch
        self._ends: tuple[np.float32, np.float32] | None = None
        if source.config.normalise == "set":
            all_of_them = np.arange(len(rows))
            self._ends = outermost([source.ends(self._noisy(all_of_them[part])[0]) for part in parts(len(rows))])

    def load(self, some: np.ndarray) -> TileSet:
        """On the CPU."""
        noisy, labels = self._noisy(some)
        return TileSet(self._source.images(noisy, self._ends), torch.from_numpy(labels))

    def _noisy(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts, labels, keys = self._source.read(self._rows[some], to_learn=self._to_learn)
        return _of_epoch(counts, keys, self._config, self._source.info.grey, self.epoch), labels


def validation_set(
    source: TileSource, rows: np.ndarray, config: TrainConfig, device: torch.device, room: Room | None = None
) -> TileSet | AwayTiles:
    """Tiles with the cell's noise drawn once, as the network takes them; arguments as of `TrainingTiles`.

    Raises:
        DatasetError: none of them has a labelled pixel, so that there is no loss to validate by.
    """
    kept, made = _sizes(source, rows)
    place = room.place(kept=kept, made=made) if room else Place.DEVICE
    if place is Place.FILE:
        labelled = source.labelled(rows)
        _refuse_unlabelled(source, labelled, "validation")
        return AwayTiles(_Stored(source, rows, config, to_learn=False).load, labelled, source.shape, device)
    counts, labels, keys = source.read(rows)
    _refuse_unlabelled(source, labelled_pixels(labels), "validation")
    noisy, _ = noise.training_noise(counts, keys, config, source.info.grey)
    memory = device if place is Place.DEVICE else _CPU
    tiles = TileSet(source.images(noisy).to(memory), torch.from_numpy(labels).to(memory))
    return tiles if place is Place.DEVICE else AwayTiles(tiles.some, tiles.labelled, source.shape, device)


class TrainingTiles:
    """The training tiles of a cell, epoch by epoch.

    Without augmentation, and with noise that is drawn once, every epoch sees the same tiles. What has no labelled pixel
    says nothing, and a batch of such tiles would have no loss, so it is not among them. Noise and exposures that are
    drawn for each epoch are drawn for the next one while a GPU trains on this one.

    Args:
        source: of the tiles.
        rows: (K,) int64, of the source.
        config: with the noise, the symmetries and the seed.
        device: that computes.
        room: what there is for them; None: all that they need.

    Raises:
        DatasetError: no tile has a labelled pixel.
    """

    def __init__(
        self, source: TileSource, rows: np.ndarray, config: TrainConfig, device: torch.device, room: Room | None = None
    ) -> None:
        self._config, self._device, self._source = config, device, source
        self._anew = config.exposures or (config.noise_each_epoch and config.noise_fraction > 0)
        # What changes from epoch to epoch is there twice for a moment.
        twice = self._anew or bool(config.moves)
        kept, made = _sizes(source, rows, drawn=2 if self._anew else 1)
        self.place = room.place(kept=kept * (2 if twice else 1), made=made) if room else Place.DEVICE
        """Where they are kept."""
        if self.place is Place.FILE:
            labelled = source.labelled(rows, to_learn=True)
        else:
            counts, labels, keys = source.read(rows, to_learn=True)
            labelled = labelled_pixels(labels)
        _refuse_unlabelled(source, labelled, "training")
        known = labelled > 0
        self.labelled: np.ndarray = labelled[known]
        """(T,) int64, pixels of each tile that have a class."""
        if self.place is Place.FILE:
            self._rows = rows[known]
            self._stored = _Stored(source, self._rows, config, to_learn=True, epoch=0 if self._anew else None)
            return
        if not known.all():
            counts, labels, keys = counts[known], labels[known], keys[known]
        self._memory = device if self.place is Place.DEVICE else _CPU
        self._raw, self._labels = (counts, keys), torch.from_numpy(labels).to(self._memory)
        self._drawer, self._drawn = ThreadPoolExecutor(1), dict[int | None, Future[torch.Tensor]]()
        if not self._anew:
            self._tiles = self._with_noise_of(None)
            del self._raw

    def __len__(self) -> int:
        return len(self.labelled)

    @property
    def pixels(self) -> int:
        """Of all tiles together, that have a class."""
        return int(self.labelled.sum())

    def of_epoch(self, epoch: int) -> TileSet | AwayTiles:
        """The tiles as epoch 0, 1, ... sees them: a function of the cell's seed and the epoch alone."""
        load: Callable[[np.ndarray], TileSet]
        if self.place is Place.FILE:
            if self._anew and self._stored.epoch != epoch:
                self._stored = _Stored(self._source, self._rows, self._config, to_learn=True, epoch=epoch)
            load = self._stored.load
        else:
            tiles = self._with_noise_of(epoch) if self._anew else self._tiles
            load = tiles.some
        if self._config.moves:
            moves = epoch_symmetries(len(self), augment=self._config.moves, seed=self._config.seed, epoch=epoch)
            if self.place is Place.DEVICE:
                return transformed(tiles, moves)
            return self._away(lambda rows: transformed(load(rows), moves[rows]))
        return tiles if self.place is Place.DEVICE else self._away(load)

    def _away(self, load: Callable[[np.ndarray], TileSet]) -> AwayTiles:
        return AwayTiles(load, self.labelled, self._source.shape, self._device)

    def _with_noise_of(self, epoch: int | None) -> TileSet:
        drawn = self._drawn.pop(epoch, None) or self._drawer.submit(self._draw, epoch)
        if epoch is not None and self._device.type == "cuda" and epoch + 1 < self._config.epochs:
            self._drawn[epoch + 1] = self._drawer.submit(self._draw, epoch + 1)
        return TileSet(drawn.result().to(self._memory), self._labels)

    def _draw(self, epoch: int | None) -> torch.Tensor:
        return self._source.images(_of_epoch(*self._raw, self._config, self._source.info.grey, epoch))


def _of_epoch(
    counts: np.ndarray, keys: np.ndarray, config: TrainConfig, grey: GreyScale, epoch: int | None
) -> np.ndarray:
    """Tiles as an epoch sees them, in counts: exposed, then with noise; None: as every epoch does."""
    if config.exposures and epoch is not None:
        counts = exposed(counts, keys, grey, seed=config.seed, epoch=epoch)
    noisy, _ = noise.training_noise(counts, keys, config, grey, epoch=epoch if config.noise_each_epoch else None)
    return noisy


def _sizes(source: TileSource, rows: np.ndarray, *, drawn: int = 1) -> tuple[int, int]:
    """Bytes that tiles take as the network takes them, and while they are made, with noise that is `drawn` at once."""
    pixels, values = len(rows) * source.size**2, len(rows) * math.prod(source.shape)
    kept = values * _IMAGE + pixels * _LABEL
    return kept, kept + values * (np.dtype(source.info.dtype).itemsize + drawn * _IMAGE)


def _refuse_unlabelled(source: TileSource, labelled: np.ndarray, name: str) -> None:
    if not labelled.any():
        share, way = source.config.label_share, ""
        if share < 1 and name == "training":
            way = f"Of a data.label_share of {share:g} none is left: take a larger one. "
        raise unlabelled(source.info, name, way)
