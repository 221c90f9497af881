"""The training loop: tiles and settings in, a trained model and one line per epoch out.

    restore -> fit -> for each epoch: for each step: stop or save if it is time, then step -> validate -> one line

Stopping and saving happen between two steps and nowhere else. All ranks decide it together, so that none enters a
collective that the others have left.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpcseg.config import TrainConfig
from hpcseg.data.batches import TileSet, TrainingTiles, epoch_order, rank_share
from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.learn.evaluate import validate
from hpcseg.learn.precision import to_device
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.sharded import share_update
from hpcseg.learn.step import TrainStep
from hpcseg.learn.syncnorm import synchronise

_GO_ON, _SAVE, _STOP = 0, 1, 2


class OnEpoch(Protocol):
    """Told of every finished epoch, on every rank."""

    def __call__(self, history: list[dict[str, Any]], seconds: float, tiles: int) -> None:
        """`history` has one line per epoch so far.

        `seconds` and `tiles` are what this start spent on the training steps of the last epoch, which a stop may
        have cut in two.
        """


@dataclass
class Position:
    """How far a training has come: all of a checkpoint but the tensors of model and optimizer."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the epoch under way."""
    seconds: float = 0.0
    """Time spent so far, over all starts."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One line per finished epoch, as in metrics.jsonl."""


@dataclass
class Trainer:
    """One cell's training on one rank; `fit` runs it to its end or to a stop."""

    config: TrainConfig
    model: nn.Module
    training: TrainingTiles
    validation: TileSet
    classes: int
    precision: str
    ranks: Ranks
    checkpoint_file: Path
    previous_checkpoint_file: Path
    seconds_between_checkpoints: float
    """A kill loses at most this and one write of the checkpoint."""
    should_stop: Callable[[], bool]
    on_step: Callable[[Position, int], None]
    """Told of every finished step, and of the number of steps per epoch."""
    on_epoch: OnEpoch

    def __post_init__(self) -> None:
        self.position = Position()
        to_device(self.model, self.ranks.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        self.steps = -(-len(self.training) // self.config.batch_size)
        # Loss and correct pixels of each step: a vector, not a running sum, so that the sum of an epoch is rounded
        # in the same order whether or not a checkpoint came between, and no step waits for a number.
        self.sums = torch.zeros(self.steps, 2, dtype=torch.float64, device=self.ranks.device)
        self._saved_at = time.monotonic()

    def fit(self) -> bool:
        """Train from where `restore` has put it, or from the start, to the last epoch.

        Returns:
            True when all epochs are done; False when `should_stop` ended it, with the checkpoint written.

        Raises:
            HpcsegError: the loss is not a number.
        """
        while self.position.epoch < self.config.epochs:
            if not self._train_epoch():
                return False
            self._finish_epoch()
        return True

    def restore(self) -> list[str]:
        """Go to where the newest checkpoint that can be read says; without any, stay at the start.

        Returns:
            What was wrong with newer checkpoints. A start from further back ends in the same bits.

        Raises:
            HpcsegError: the checkpoint is another cell's, or the ranks do not see the same one.
        """
        content, complaints = checkpoint.load_newest((self.checkpoint_file, self.previous_checkpoint_file))
        if content is not None:
            if content["config"] != _settings(self.config):
                raise HpcsegError(f"{self.checkpoint_file} belongs to other settings. Delete it to start afresh.")
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.position = Position(**content["position"])
            if self.ranks.is_main:
                self.sums.copy_(content["sums"])
        reached = self.position.epoch * self.steps + self.position.step
        if self.ranks.largest(reached) != -self.ranks.largest(-reached):
            raise HpcsegError(
                f"The ranks read different checkpoints from {self.checkpoint_file.parent}. Does every node see the "
                "same file system? Start the cell again; it goes on from what is there then."
            )
        return complaints

    @functools.cached_property
    def _step(self) -> TrainStep:
        """The step, over all ranks; made once, since the ranks meet for it."""
        if self.ranks.world_size == 1:
            return TrainStep(self.model, self.optimizer, precision=self.precision)
        self.model = synchronise(self.model, self.ranks)
        shared = share_update(list(self.model.parameters()), self.optimizer, self.ranks)
        if shared is not None:
            return TrainStep(self.model, shared, precision=self.precision)
        model, ranks = _distribute(self.model), self.ranks.world_size
        return TrainStep(model, self.optimizer, precision=self.precision, averaged_over=ranks)

    def _train_epoch(self) -> bool:
        self._epoch_started = self._counted_to = time.monotonic()
        self._first_step = self.position.step
        order = epoch_order(len(self.training), seed=self.config.seed, epoch=self.position.epoch)
        # Once per epoch, so that no step sends anything to the device.
        rows = torch.from_numpy(order).to(self.ranks.device)
        epoch = self.training.of_epoch(self.position.epoch)
        while self.position.step < self.steps:
            action = self._agree()
            if action != _GO_ON:
                self._save()
            if action == _STOP:
                return False
            start = self.position.step * self.config.batch_size
            batch = rows[start : start + self.config.batch_size]
            images, labels = epoch.take(rank_share(batch, self.ranks.rank, self.ranks.world_size))
            sums = self.sums[self.position.step]
            sums[0], sums[1] = self._step(images, labels, pixels=len(batch) * labels.shape[1:].numel())
            self.position.step += 1
            self.on_step(self.position, self.steps)
        return True

    def _finish_epoch(self) -> None:
        self._gather_sums()
        loss, correct = (self.sums.sum(0) / self.training.pixels).tolist()
        seconds = time.monotonic() - self._epoch_started
        tiles = len(self.training) - self._first_step * self.config.batch_size
        self.position.epoch += 1
        self.position.step = 0
        self.sums.zero_()
        if not np.isfinite(loss):
            raise HpcsegError(
                f"The training loss became {loss} in epoch {self.position.epoch}. "
                "Lower train.learning_rate, or set train.precision to fp32."
            )
        validation_loss, confusion = validate(
            self.model, self.validation, classes=self.classes, precision=self.precision, ranks=self.ranks
        )
        self._count_time()
        self.position.history.append(
            {
                "epoch": self.position.epoch,
                "step": self.position.epoch * self.steps,
                "train_loss": loss,
                "train_accuracy": correct,
                "validation_loss": validation_loss,
                "validation_confusion": confusion.tolist(),
            }
        )
        self.on_epoch(self.position.history, seconds, tiles)

    def _agree(self) -> int:
        """What all ranks do before the next step: the most urgent of their wishes."""
        wish = _GO_ON
        if self.ranks.is_main and time.monotonic() - self._saved_at > self.seconds_between_checkpoints:
            wish = _SAVE
        return self.ranks.largest(_STOP if self.should_stop() else wish)

    def _gather_sums(self) -> None:
        """Give every rank the per-step sums of all ranks."""
        self.ranks.sum_(self.sums)

    def _count_time(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self._counted_to
        self._counted_to = now

    def _save(self) -> None:
        self._count_time()
        self._gather_sums()
        if self.ranks.is_main:
            checkpoint.save(
                self.checkpoint_file,
                {
                    "config": _settings(self.config),
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "sums": self.sums,
                    "position": vars(self.position),
                },
                previous=self.previous_checkpoint_file,
            )
        else:
            # Rank 0 goes on with the sums so far, so the others' must not be counted again.
            self.sums.zero_()
        self._saved_at = time.monotonic()


def _distribute(model: nn.Module) -> DistributedDataParallel:
    # Running statistics are equal on all ranks already, so buffers need no broadcast (torch 2.13 has a new name).
    known = inspect.signature(DistributedDataParallel).parameters
    switch: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **switch)


def _settings(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
