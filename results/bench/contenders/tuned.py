"""The loop of somebody who has read torch's tuning guide.

Tiles in memory, noise by the workers of a DataLoader (on a GPU, with pinned memory), channels last, bf16 where the
hardware multiplies in it, a fused optimizer, no number fetched but at the end, and torch.compile on a GPU.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from contenders.plain import plain_network
from contenders.work import Load, Loop, Work, autocast
from hpcseg.data.batches import TileSource
from hpcseg.learn.precision import resolve_precision, to_device


class TilesInMemory(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """As `plain.TilesOnDisk`, but read at once, and with numpy's quicker generator."""

    def __init__(self, source: TileSource, split: str, sigma: float) -> None:
        self.counts, self.labels, _ = source.read(getattr(source.split, split))
        self.grey, self.sigma, self.fixed = source.info.grey, np.float32(sigma), split == "test"

    def __len__(self) -> int:
        return len(self.counts)

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        """Made when a worker asks first, or all would draw the same."""
        return np.random.default_rng()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.counts[index].astype(np.float32)
        if self.fixed or self.rng.random() < 0.5:
            share = np.float32(1 if self.fixed else self.rng.random())
            image += share * self.sigma * self.rng.standard_normal(image.shape, dtype=np.float32)
        label = self.labels[index].astype(np.int64)
        return torch.from_numpy(self.grey.normalised(image))[None], torch.from_numpy(label)


def loaders(source: TileSource, work: Work, device: torch.device) -> Load:
    """Loaders of tiles in memory."""
    on_gpu = device.type == "cuda"
    # On a CPU a worker would take the cores from the network, whose work is a hundred times as much.
    workers = min(8, len(os.sched_getaffinity(0))) if on_gpu else 0

    def load(split: str, sigma: float) -> DataLoader:
        return DataLoader(
            TilesInMemory(source, split, sigma),
            batch_size=work.batch_size,
            shuffle=split == "train",
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu,
        )

    return load


def quick_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies in it; emulated it is slower than fp32."""
    return torch.bfloat16 if resolve_precision("auto", device) == "bf16" else torch.float32


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """By torch.compile on a GPU; on CPUs it did not pay (results/bench/README.md)."""
    return torch.compile(network) if device.type == "cuda" else network


def training(source: TileSource, work: Work, device: torch.device, network: nn.Module | None = None) -> Loop:
    """The contender; with a network of others where one is given."""
    torch.backends.cudnn.benchmark = True
    model = network or plain_network(source, work.config)
    to_device(model, device)
    forward, dtype = compiled(model, device), quick_dtype(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            scores = forward(images)
        loss = functional.cross_entropy(scores.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Loop(source, work, model, forward, step, loaders(source, work, device), dtype=dtype)
