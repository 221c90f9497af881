"""Two U-Nets that have learnt something in a second or two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpcseg.config import DataConfig
from hpcseg.data import batches
from hpcseg.learn.unet import build_unet
from hpcseg.segment.network import TrainedUNet

TILE_SIZE = 64


@pytest.fixture(scope="session")
def source(tiny_dataset) -> batches.TileSource:
    """Four tiles of 64 x 64 from each of 16 slices of 128 x 128."""
    return batches.open_source(tiny_dataset, DataConfig(tiles="2x2", tile_size=TILE_SIZE))


@pytest.fixture(scope="session")
def models(source) -> list[TrainedUNet]:
    """Two that differ in their seed: width 4, depth 2."""
    counts, labels, _ = source.read(np.arange(24))
    images = torch.from_numpy(source.info.grey.normalised(counts)).unsqueeze(1)
    found = []
    for seed in (0, 1):
        network = build_unet(classes=3, width=4, depth=2, batch_norm=True, seed=seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(network(images), torch.from_numpy(labels).long()))
            optimizer.step()
        found.append(TrainedUNet(network=network, classes=3, width=4, depth=2, tile_size=TILE_SIZE, precision="fp32"))
    return found
