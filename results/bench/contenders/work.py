"""What every contender is given to do, and the loop that most of them are: batches through a step, then an accuracy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from hpcseg.bench.training import settings, synchronise
from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.batches import TileSource, open_source


@dataclass(frozen=True)
class Work:
    """One training with its evaluation, as JSON has it."""

    data: str
    """The packed data set."""
    width: int
    """Channels of the network's first block."""
    batch_size: int
    tiles: str = "large"
    """As `data.tiles`."""
    slices: int = 0
    """As `data.slices`."""

    def source(self) -> TileSource:
        """The tiles of the data set, the same for all."""
        return open_source(Path(self.data), DataConfig(tiles=self.tiles, slices=self.slices))

    @property
    def config(self) -> TrainConfig:
        """What `hpcseg bench` trains with."""
        return settings(self.width, self.batch_size)

    def sigma_max(self, source: TileSource) -> float:
        """Of the noise in training and validation, in counts."""
        return source.info.grey.counts(self.config.noise_sigma_max)


@dataclass(frozen=True)
class Accuracies:
    """Shares of pixels that a trained network names right."""

    validation: list[float]
    """After each epoch."""
    test: list[float]
    """At each sigma."""


class Training(Protocol):
    """A contender that has its data and its network."""

    network: nn.Module
    dtype: torch.dtype
    """Of the convolutions."""

    def rate(self, steps: int) -> float:
        """Take some steps, wherever the last ones ended; tiles per second."""

    def cell(self, epochs: int, sigmas: Sequence[float]) -> Accuracies:
        """Train, validate after each epoch, and test at each sigma, in counts."""


Load = Callable[[str, float], DataLoader]
"""A loader of "train" or "validation", half of whose tiles have noise of up to sigma (counts), or of "test", where all
have noise of sigma."""


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """A block whose convolutions compute in a type."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class Loop:
    """A training of batches that a loader brings.

    Args:
        source: the tiles.
        work: what to do.
        network: on its device.
        forward: the same, as it is to be called.
        step: of images and labels on that device; updates the weights and tells the loss.
        load: makes the loaders.
        dtype: of the convolutions.
        begin_epoch: told the epoch and the number of epochs.
    """

    def __init__(
        self,
        source: TileSource,
        work: Work,
        network: nn.Module,
        forward: nn.Module,
        step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float],
        load: Load,
        *,
        dtype: torch.dtype = torch.float32,
        begin_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
    ) -> None:
        self.network, self.forward, self.step, self.load = network, forward, step, load
        self.dtype, self.begin_epoch = dtype, begin_epoch
        self.sigma_max = work.sigma_max(source)
        self.device = next(network.parameters()).device
        self.loader = load("train", self.sigma_max)
        self._batches = self._forever()

    def rate(self, steps: int) -> float:
        """As `Training` says."""
        started, (tiles, _) = time.perf_counter(), self.steps(steps)
        synchronise(self.device)
        return tiles / (time.perf_counter() - started)

    def steps(self, count: int) -> tuple[int, float]:
        """Take some steps: how many tiles they were, and the mean loss, as people print it."""
        self.network.train()
        tiles, total = 0, torch.zeros((), device=self.device)
        for _ in range(count):
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in next(self._batches))
            total += self.step(images, labels)
            tiles += len(images)
        return tiles, float(total) / count

    def cell(self, epochs: int, sigmas: Sequence[float]) -> Accuracies:
        """As `Training` says."""
        validation = self.load("validation", self.sigma_max)
        accuracies = []
        for epoch in range(epochs):
            self.begin_epoch(epoch, epochs)
            self.steps(len(self.loader))
            accuracies.append(self.accuracy(validation))
        return Accuracies(accuracies, [self.accuracy(self.load("test", sigma)) for sigma in sigmas])

    def accuracy(self, loader: DataLoader) -> float:
        """Share of the pixels that are right."""
        self.network.eval()
        right, pixels = torch.zeros((), dtype=torch.int64, device=self.device), 0
        with torch.inference_mode(), autocast(self.device, self.dtype):
            for images, labels in loader:
                predicted = self.forward(images.to(self.device, non_blocking=True)).argmax(1)
                right += (predicted == labels.to(self.device, non_blocking=True)).sum()
                pixels += labels.numel()
        return int(right) / pixels

    def _forever(self) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from self.loader
