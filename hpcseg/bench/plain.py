"""The loops that people write, as the reference that ours is measured against. Nothing else uses them.

A DataLoader that reads one tile per item from the HDF5 file and adds noise with numpy, fp32, batch before height and
width (NCHW), an optimizer and a network with their defaults, and a number fetched from the device in every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from hpcseg.data.batches import TileSource
from hpcseg.hdf5 import h5py


def plain_pack(images: Path, labels: Path, output: Path) -> None:
    """Slice after slice from two stacks into an HDF5 file, labels compressed and mapped by the values of the first."""
    with tifffile.TiffFile(images) as grey, tifffile.TiffFile(labels) as marked, h5py.File(output, "w") as file:
        first = grey.pages[0].asarray()
        shape, chunks = (len(grey.pages), *first.shape), (1, 128, 128)
        slices = file.create_dataset("slices", shape, dtype=first.dtype, chunks=chunks)
        classes = file.create_dataset("labels", shape, dtype="u1", chunks=chunks, compression="gzip")
        values = np.unique(marked.pages[0].asarray())
        for index in range(shape[0]):
            slices[index] = grey.pages[index].asarray()
            classes[index] = np.searchsorted(values, marked.pages[index].asarray())


class TilesOnDisk(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One tile per item, read from the packed file when it is asked for.

    Args:
        source: the tiles.
        rows: of `source.tiles`, in order.
        sigma: largest standard deviation of the noise, in counts.
        fixed: every tile gets noise of exactly sigma, as in a test; otherwise half of them, up to sigma.
    """

    def __init__(self, source: TileSource, rows: np.ndarray, *, sigma: float, fixed: bool) -> None:
        self.file = h5py.File(source.info.path, "r")
        self.tiles = source.tiles[rows]
        self.size = source.size
        self.grey = source.info.grey
        self.sigma = sigma
        self.fixed = fixed

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, y, x = self.tiles[index]
        window = (number, slice(y, y + self.size), slice(x, x + self.size))
        image = self.file["slices"][window].astype(np.float32)
        label = self.file["labels"][window].astype(np.int64)
        if self.fixed:
            image += np.random.normal(0, self.sigma, image.shape)
        elif np.random.rand() < 0.5:
            image += np.random.normal(0, np.random.rand() * self.sigma, image.shape)
        return torch.from_numpy(self.grey.normalised(image))[None], torch.from_numpy(label)


class PlainTraining:
    """Trains a network step by step; an object, since the loader goes on where the last piece ended."""

    def __init__(self, model: nn.Module, tiles: TilesOnDisk, *, batch_size: int, device: torch.device) -> None:
        self.model = model.to(device)
        self.device = device
        self.loader = DataLoader(tiles, batch_size=batch_size, shuffle=True, drop_last=True)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.batches = self._forever()

    def steps(self, count: int) -> float:
        """Take some steps; the mean loss, as people print it."""
        running = 0.0
        for _ in range(count):
            images, labels = (tensor.to(self.device) for tensor in next(self.batches))
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images), labels)
            torch.autograd.backward(loss)
            self.optimizer.step()
            running += loss.item()
        return running / count

    def _forever(self) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from self.loader


def plain_evaluation(model: nn.Module, tiles: TilesOnDisk, *, batch_size: int, device: torch.device) -> float:
    """Pixel accuracy at one noise level, batch by batch."""
    model.eval()
    right = pixels = 0
    with torch.no_grad():
        for images, labels in DataLoader(tiles, batch_size=batch_size):
            predicted = model(images.to(device)).argmax(1)
            right += (predicted == labels.to(device)).sum().item()
            pixels += labels.numel()
    return right / pixels
