"""The loop that people write.

A DataLoader that reads one tile per item from the HDF5 file and adds noise with numpy, fp32, batch before height and
width (NCHW), an optimizer and a network with their defaults, and a number fetched from the device in every step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from contenders.work import Loop, Work
from hpcseg.bench.training import network
from hpcseg.config import TrainConfig
from hpcseg.data.batches import TileSource
from hpcseg.hdf5 import h5py


def plain_network(source: TileSource, config: TrainConfig) -> nn.Module:
    """hpcseg's U-Net with torch's own kernel for its up-convolutions, as people would build it."""
    model = network(source, config)
    for module in model.up:
        module.__class__ = nn.ConvTranspose2d
    return model


class TilesOnDisk(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One tile per item, read from the packed file when it is asked for.

    Args:
        source: the tiles.
        split: "train", "validation" or "test".
        sigma: standard deviation of the noise in counts; of "test" all tiles have it, of the others half, up to sigma.
    """

    def __init__(self, source: TileSource, split: str, sigma: float) -> None:
        self.file = h5py.File(source.info.path, "r")
        self.tiles = source.tiles[getattr(source.split, split)]
        self.size = source.size
        self.grey = source.info.grey
        self.sigma = sigma
        self.fixed = split == "test"

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


def training(source: TileSource, work: Work, device: torch.device) -> Loop:
    """The contender."""
    model = plain_network(source, work.config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def load(split: str, sigma: float) -> DataLoader:
        return DataLoader(TilesOnDisk(source, split, sigma), batch_size=work.batch_size, shuffle=split == "train")

    return Loop(source, work, model, model, step, load)
