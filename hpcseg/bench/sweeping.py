"""Evaluation at many noise levels: our sweep, and the network alone on one chunk."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from hpcseg.bench.measure import Piece, rate
from hpcseg.bench.training import network, settings, synchronise
from hpcseg.config import DataConfig, NoiseLevel
from hpcseg.data.batches import EVALUATION_CHUNK, open_source
from hpcseg.data.noisy_tiles import NoisyTestSet, noisy_set
from hpcseg.data.tile_sets import TileSet
from hpcseg.launch.environment import read_environment
from hpcseg.learn.folding import folded
from hpcseg.learn.precision import autocast, resolve_precision, to_device
from hpcseg.learn.ranks import join
from hpcseg.segment.sweep import Sweep

OURS, RESIDENT = "ours", "resident chunk"
_SIGMAS = (0.0, 5_000.0, 30_000.0)
_LEVELS = tuple(NoiseLevel(sigma) for sigma in _SIGMAS)


@contextlib.contextmanager
def our_piece(data: str, width: int) -> Iterator[Piece]:
    """Our sweep, with the counting: a step is a chunk of the test set, at all noise levels."""
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, 1)
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        whole = noisy_set(source, source.split.test, levels=_LEVELS, seed=0, device=ranks.device)
        model = network(source, config)
        to_device(model, ranks.device)
        precision = resolve_precision(config.precision, ranks.device)

        def work(tiles: NoisyTestSet, times: int) -> None:
            for _ in range(times):
                sweep = Sweep(model, tiles, _LEVELS, classes=source.classes, precision=precision)
                for number in range(len(sweep)):
                    sweep.count(number)
            synchronise(ranks.device)

        def piece(steps: int) -> float:
            some = slice(0, steps * EVALUATION_CHUNK)
            clean = TileSet(whole.clean.images[some], whole.clean.labels[some])
            tiles = dataclasses.replace(whole, clean=clean, unit=whole.unit[some])
            times = max(1, round(steps * EVALUATION_CHUNK / len(tiles)))
            return rate(times * len(tiles) * len(_SIGMAS), lambda: work(tiles, times))

        yield piece


@contextlib.contextmanager
def resident_piece(data: str, width: int) -> Iterator[Piece]:
    """The folded network on one chunk that never changes: no noise, no counting. What the sweep cannot exceed."""
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, 1)
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        model = network(source, config)
        to_device(model, ranks.device)
        lean, precision = folded(model), resolve_precision(config.precision, ranks.device)
        images = torch.rand(EVALUATION_CHUNK, 1, source.size, source.size).to(
            ranks.device, memory_format=torch.channels_last
        )

        def work(steps: int) -> None:
            with torch.inference_mode(), autocast(precision, ranks.device):
                for _ in range(steps):
                    lean(images)
            synchronise(ranks.device)

        yield lambda steps: rate(steps * EVALUATION_CHUNK, lambda: work(steps))
