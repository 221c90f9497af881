"""Training: our trainer, and our step alone on one batch that is there already."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hpcseg.bench.contender import Contender, started
from hpcseg.bench.measure import Piece, rate
from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.batches import TileSource, open_source
from hpcseg.data.training_tiles import TrainingTiles, validation_set
from hpcseg.launch.environment import read_environment
from hpcseg.learn.loop import Trainer
from hpcseg.learn.precision import resolve_precision
from hpcseg.learn.ranks import Ranks, join
from hpcseg.learn.step import TrainStep
from hpcseg.learn.unet import UNet, build_unet
from hpcseg.memory import peak_bytes

OURS, RESIDENT = "ours", "resident batch"
_NO_CHECKPOINT_SECONDS = 1e9
# A graph is captured behind the third.
_STEPS_TO_THE_PEAK = 6
_HERE = "hpcseg.bench.training"


def measure_memory(data: Path, *, width: int, batch_size: int, device: torch.device) -> dict[str, dict[str, int]]:
    """MiB that our trainer holds before it begins ("base") and at its fullest ("peak"): of the "host", and of a "gpu".

    Args:
        data: the packed data set.
        width: channels of the network's first block.
        batch_size: tiles per step.
        device: that computes.
    """
    work = {"data": str(data), "width": width, "batch_size": batch_size}
    of = ("host", "gpu") if device.type == "cuda" else ("host",)
    contenders = {name: Contender(f"{_HERE}:memory_piece", {**work, "of": name}) for name in of}
    with started(contenders) as pieces:
        return {
            name: {"base": round(piece(0)), "peak": round(piece(_STEPS_TO_THE_PEAK))} for name, piece in pieces.items()
        }


def settings(width: int, batch_size: int) -> TrainConfig:
    """The training that is measured: the paper's, with half of the tiles noisy."""
    return TrainConfig(width=width, batch_size=batch_size, noise_fraction=0.5, epochs=1)


def network(source: TileSource, config: TrainConfig) -> UNet:
    """The network that is measured, with its first weights."""
    return build_unet(classes=source.classes, width=config.width, depth=config.depth, batch_norm=True, seed=0)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def our_piece(data: str, width: int, batch_size: int) -> Iterator[Piece]:
    """Our trainer, from the order of the tiles to the sums at the end of an epoch: so many steps, or whole epochs."""
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        trainers: dict[int, Trainer] = {}

        def piece(steps: int) -> float:
            if steps not in trainers:
                trainers.clear()
                trainers[steps] = _trainer(data, width, batch_size, steps, Path(folder), ranks)
            trainer = trainers[steps]
            tiles_trained, took = 0, 0.0

            def on_epoch(history: list[dict[str, Any]], seconds: float, tiles: int) -> None:
                nonlocal tiles_trained, took
                tiles_trained += tiles
                took += seconds

            trainer.on_epoch = on_epoch
            epochs = max(1, round(steps / trainer.steps))
            trainer.config = dataclasses.replace(trainer.config, epochs=trainer.position.epoch + epochs)
            trainer.fit()
            return tiles_trained / took

        yield piece


@contextlib.contextmanager
def memory_piece(data: str, width: int, batch_size: int, of: str) -> Iterator[Piece]:
    """So many steps of our trainer, and in the place of a rate the MiB that are the peak until then."""

    def peak() -> float:
        return (peak_bytes() if of == "host" else torch.cuda.max_memory_reserved()) / 2**20

    with our_piece(data, width, batch_size) as piece:

        def piece_of_memory(steps: int) -> float:
            if steps:
                piece(steps)
            return peak()

        yield piece_of_memory


@contextlib.contextmanager
def resident_piece(data: str, width: int, batch_size: int) -> Iterator[Piece]:
    """Our step on one batch that never changes: no order, no gather, no record. What the trainer cannot exceed but by
    graphs on a GPU.
    """
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        ours = _trainer(data, width, batch_size, 1, Path(folder), ranks)
        images, labels = ours.training.of_epoch(0).take(slice(None))
        step = TrainStep(ours.model, ours.optimizer, ours.scaler, precision=ours.precision)

        def work(steps: int) -> None:
            for _ in range(steps):
                step(images, labels, share=1 / labels.numel())
            synchronise(ranks.device)

        yield lambda steps: rate(steps * batch_size, lambda: work(steps))


def _trainer(data: str, width: int, batch_size: int, steps: int, folder: Path, ranks: Ranks) -> Trainer:
    """Our trainer over the first tiles of the training set; it writes no checkpoint."""
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, batch_size)
    return Trainer(
        config=config,
        model=network(source, config),
        training=TrainingTiles(source, source.split.train[: steps * batch_size], config, ranks.device),
        # One tile: what is measured are the steps, and evaluation has a bench of its own.
        validation=validation_set(source, source.split.validation[:1], config, ranks.device),
        classes=source.classes,
        precision=resolve_precision(config.precision, ranks.device),
        origin={},
        ranks=ranks,
        checkpoint_file=folder / "checkpoint.pt",
        previous_checkpoint_file=folder / "checkpoint-previous.pt",
        seconds_between_checkpoints=_NO_CHECKPOINT_SECONDS,
        should_stop=lambda: False,
        on_step=lambda *_: None,
        on_epoch=lambda *_: None,
    )
