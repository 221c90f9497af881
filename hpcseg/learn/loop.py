"""The training loop: tiles and settings in, a trained model and one line per epoch out.

    restore -> fit -> for each epoch: for each step: stop or save if it is time, then step -> validate -> one line

Stopping and saving happen between two steps and nowhere else. All ranks decide it together, every few steps, so that
none enters a collective that the others have left.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpcseg.config import TrainConfig
from hpcseg.data.batches import epoch_order
from hpcseg.data.tile_sets import AwayTiles, TileSet
from hpcseg.data.training_tiles import TrainingTiles
from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.learn.adam import Adam
from hpcseg.learn.captured import graphs_wanted
from hpcseg.learn.epoch_steps import EpochSteps
from hpcseg.learn.evaluate import validate
from hpcseg.learn.folding import Folding
from hpcseg.learn.norm import synchronise
from hpcseg.learn.objective import Objective
from hpcseg.learn.precision import loss_scaler, to_device
from hpcseg.learn.ranks import GO_ON, STOP, Agreement, Ranks
from hpcseg.learn.schedule import learning_rates
from hpcseg.learn.step import TrainStep
from hpcseg.learn.writer import Writer

KEPT = ("origin", "precision", "model", "optimizer", "scaler", "sums", "position")
"""What every checkpoint of a training holds."""


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
    validation: TileSet | AwayTiles
    classes: int
    precision: str
    """A resolved one."""
    origin: Mapping[str, Any]
    """What else the numbers depend on, in plain values: kept in the checkpoint, which goes on with nothing else."""
    ranks: Ranks
    checkpoint_file: Path
    previous_checkpoint_file: Path
    seconds_between_checkpoints: float
    """A kill loses at most this and one write of the checkpoint, which goes on beside the steps."""
    should_stop: Callable[[], bool]
    on_step: Callable[[Position, int], None]
    """Told of every finished step, and of the number of steps per epoch."""
    on_epoch: Callable[[list[dict[str, Any]], float, int], None]
    """Told of every finished epoch, on every rank: a line per epoch so far, and seconds and tiles of the training steps
    of the last one in this start, as a stop may have cut it in two."""
    weights: Sequence[float] | None = None
    """Of the cross-entropy of each class's pixels; None: 1 each."""
    writer: Writer = field(default_factory=Writer)

    def __post_init__(self) -> None:
        self.position = Position()
        to_device(self.model, self.ranks.device)
        # A step takes its learning rate from the device, where it is not always the same.
        self._rate = None if self.config.schedule == "constant" else torch.zeros((), device=self.ranks.device)
        self.optimizer = Adam(
            self.model.parameters(),
            lr=self.config.learning_rate if self._rate is None else self._rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.scaler = loss_scaler(self.precision, self.ranks.device)
        # DistributedDataParallel and a loss that is scaled stay as they are.
        alone_on_gpu = self.ranks.device.type == "cuda" and self.ranks.world_size == 1
        self.graphs = graphs_wanted() and alone_on_gpu and not self.scaler.is_enabled()
        self.passes, self.steps = self.config.passes(len(self.training)), self.config.steps(len(self.training))
        # Loss and correct pixels of each step: a vector, not a running sum, so that the sum of an epoch is rounded
        # in the same order whether or not a checkpoint came between, and no step waits for a number.
        self.sums = torch.zeros(self.steps, 2, dtype=torch.float64, device=self.ranks.device)
        # Of the best epoch so far, where that is kept: on the CPU, and the same on all ranks.
        self._best: dict[str, torch.Tensor] = {}
        self._agree = Agreement(self.ranks, self.seconds_between_checkpoints)

    def fit(self) -> bool:
        """Train from where `restore` has put it, or from the start, to the last epoch; then have the weights to keep.

        Returns:
            True when all epochs are done; False when `should_stop` ended it, with the checkpoint written.

        Raises:
            HpcsegError: the loss is not a number, or a file cannot be written.
        """
        with self.writer:
            while self.position.epoch < self.config.epochs:
                if not self._train_epoch():
                    return False
                self._finish_epoch()
        if self._best:
            self.model.load_state_dict(self._best)
        return True

    @property
    def kept_epoch(self) -> int:
        """Of the finished epochs the one, counted from 1, whose weights the model shall have in the end."""
        history = self.position.history
        if self.config.keep == "last":
            return len(history)
        # The same pixels in every epoch, so the right ones are compared; among equals the first wins.
        right = [int(np.trace(line["validation_confusion"])) for line in history]
        return 1 + right.index(max(right))

    def restore(self, content: dict[str, Any] | None) -> None:
        """Go to where a checkpoint says; without one stay at the start. Called by all ranks, before `fit`.

        Args:
            content: of the file, as `checkpoint.load_newest` reads it.

        Raises:
            HpcsegError: the checkpoint is of something else, or the ranks do not see the same one.
        """
        assert "_steps" not in vars(self), "steps that are captured know the optimizer's tensors of before"
        if content is not None:
            if content["origin"] != self.origin:
                raise HpcsegError(
                    f"{self.checkpoint_file} is not of this cell: {_differences(content['origin'], self.origin)}. Were "
                    "files of another cell copied here? Put its own back, or move these away to begin afresh."
                )
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self._rate is not None:
                for group in self.optimizer.param_groups:
                    group["lr"] = self._rate
            self.scaler.load_state_dict(content["scaler"])
            self._best = content.get("best", {})
            self.position = Position(**content["position"])
            if self.ranks.is_main:
                self.sums.copy_(content["sums"])
        reached = self.position.epoch * self.steps + self.position.step
        if self.ranks.largest(reached) != -self.ranks.largest(-reached):
            raise HpcsegError(
                f"The ranks read different checkpoints from {self.checkpoint_file.parent}. Does every node see the "
                "same file system? Start the cell again; it goes on from what is there then."
            )

    @property
    def called(self) -> str:
        """The type of what a step calls: the network itself, or torch's own around it."""
        return type(self._steps.step.model).__name__

    @functools.cached_property
    def _steps(self) -> EpochSteps:
        """The steps, over all ranks; made once, since the ranks meet for them."""
        model = self.model
        if self.ranks.world_size > 1:
            synchronise(self.model)
            model = _distribute(self.model)
        weights = None if self.weights is None else torch.tensor(self.weights, device=self.ranks.device)
        objective = Objective(self.config.loss, weights, self.ranks)
        step = TrainStep(model, self.optimizer, self.scaler, precision=self.precision, objective=objective)
        return EpochSteps(
            *(step, self.sums),
            batch_size=self.config.batch_size,
            ranks=self.ranks,
            captured=self.graphs,
            rate=self._rate,
        )

    @functools.cached_property
    def _folding(self) -> Folding:
        """What validation computes with, made once."""
        return Folding(self.model)

    def _train_epoch(self) -> bool:
        self._epoch_started = self._counted_to = time.monotonic()
        self._first_step = self.position.step
        order = epoch_order(len(self.training), seed=self.config.order, epoch=self.position.epoch, passes=self.passes)
        # Once per epoch, so that no step sends anything to the device.
        tiles = self.training.of_epoch(self.position.epoch)
        rates = None
        if self._rate is not None:
            rates = learning_rates(self.config, steps=self.steps, epoch=self.position.epoch)
        self._steps.begin(tiles, order, self.training.labelled, step=self.position.step, rates=rates)
        while self.position.step < self.steps:
            self.writer.look()
            action = self._agree(stop=self.should_stop())
            if action != GO_ON:
                self._save()
            if action == STOP:
                return False
            self._steps.take(self.position.step)
            self.position.step += 1
            self.on_step(self.position, self.steps)
        return True

    def _finish_epoch(self) -> None:
        self.ranks.sum_(self.sums)
        loss, correct = (self.sums.sum(0) / (self.passes * self.training.pixels)).tolist()
        seconds = time.monotonic() - self._epoch_started
        tiles = self.passes * len(self.training) - self._first_step * self.config.batch_size
        self.position.epoch += 1
        self.position.step = 0
        self.sums.zero_()
        if not np.isfinite(loss):
            raise self._diverged(f"{loss}")
        self._folding.refresh()
        validation_loss, confusion = validate(
            self._folding.lean, self.validation, classes=self.classes, precision=self.precision, ranks=self.ranks
        )
        if not np.isfinite(validation_loss):  # the last update may be the one that went wrong
            raise self._diverged(f"{validation_loss} in validation")
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
        if self.config.keep == "best" and self.kept_epoch == self.position.epoch:
            self._best, wait_for_best = checkpoint.copied(dict(self.model.state_dict()))
            wait_for_best()
        self.on_epoch(self.position.history, seconds, tiles)

    def _diverged(self, what: str) -> HpcsegError:
        return HpcsegError(
            f"The training loss became {what} in epoch {self.position.epoch + (self.position.step > 0)}. "
            "Lower train.learning_rate or train.weight_decay, or set train.precision to fp32 if it is another."
        )

    def _count_time(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self._counted_to
        self._counted_to = now

    def _save(self) -> None:
        self._count_time()
        self.ranks.sum_(self.sums)
        content = {
            "origin": self.origin,
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": self.sums,
            "position": vars(self.position),
            **({"best": self._best} if self._best else {}),
        }
        # The same on all ranks. A training that goes on from there would end in the same way, and so for ever.
        broken = checkpoint.not_finite(content)
        if broken:
            raise self._diverged(f"not finite ({broken})")
        if self.ranks.is_main:
            self.writer.wait()  # two copies need not be in memory
            self.writer.begin(self._write, *checkpoint.copied(content))
        else:
            # Rank 0 goes on with the sums so far, so the others' must not be counted again.
            self.sums.zero_()
        self._agree.saved()

    def _write(self, content: dict[str, Any], wait_for_content: Callable[[], None]) -> None:
        wait_for_content()
        checkpoint.save(self.checkpoint_file, content, previous=self.previous_checkpoint_file)


def _distribute(model: nn.Module) -> DistributedDataParallel:
    # Running statistics are equal on all ranks already, so buffers need no broadcast (torch 2.13 has a new name).
    known = inspect.signature(DistributedDataParallel).parameters
    switch: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **switch)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} is {found.get(name)} there and {wanted.get(name)} here" for name in names)
