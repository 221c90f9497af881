"""Lightning's trainer with MONAI's BasicUNet, each with what it has by itself but for width, normalisation and ReLU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from monai.networks.nets import BasicUNet
from torch import nn
from torch.nn import functional

from contenders.tuned import compiled, loaders, quick_dtype
from contenders.work import Accuracies, Work
from hpcseg.bench.training import synchronise
from hpcseg.data.batches import TileSource


class Module(LightningModule):
    """A network with its steps, as Lightning wants them."""

    def __init__(self, network: nn.Module, forward: nn.Module) -> None:
        super().__init__()
        self.network, self.run = network, forward

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = functional.cross_entropy(self.run(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Share of the pixels that are right."""
        self.log("accuracy", self._accuracy(batch), batch_size=len(batch[0]))

    def test_step(self, batch: list[torch.Tensor], index: int, dataloader_idx: int = 0) -> None:
        """The same at one sigma."""
        self.log("accuracy", self._accuracy(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def _accuracy(self, batch: list[torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        return (self.run(images).argmax(1) == labels).float().mean()


class Clock(Callback):
    """Tiles and seconds from the first step to the last, and what each validation said."""

    def __init__(self) -> None:
        self.tiles, self.seconds, self.accuracies = 0, 0.0, []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin."""
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: list[torch.Tensor], index: int
    ) -> None:
        """Count."""
        self.tiles += len(batch[0])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """End."""
        synchronise(module.device)
        self.seconds = time.perf_counter() - self.started

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the accuracy; the look at two batches before the first step is none."""
        if not trainer.sanity_checking:
            self.accuracies.append(float(trainer.callback_metrics["accuracy"]))


class LightningTraining:
    """The contender: a `Training`."""

    def __init__(self, source: TileSource, work: Work, device: torch.device) -> None:
        width = work.width
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=source.classes,
            # The last is what comes out of the highest level of the decoder.
            features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width),
            norm="batch",
            act="relu",
        )
        self.module = Module(self.network, compiled(self.network, device))
        self.load, self.sigma_max = loaders(source, work, device), work.sigma_max(source)
        self.dtype = quick_dtype(device)
        self.loader = self.load("train", self.sigma_max)

    def rate(self, steps: int) -> float:
        """As `Training` says: from the first of the steps to the last, without the trainer's own start."""
        clock = Clock()
        trainer = self._trainer(clock, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False)
        trainer.fit(self.module, self.loader)
        return clock.tiles / clock.seconds

    def cell(self, epochs: int, sigmas: Sequence[float]) -> Accuracies:
        """As `Training` says."""
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(clock, max_epochs=epochs, default_root_dir=folder)
            trainer.fit(self.module, self.loader, self.load("validation", self.sigma_max))
            tests = [self.load("test", sigma) for sigma in sigmas]
            found = trainer.test(self.module, tests, verbose=False)
        return Accuracies(clock.accuracies, [next(iter(result.values())) for result in found])

    def _trainer(self, clock: Clock, **more: Any) -> Trainer:
        return Trainer(
            devices=1,
            precision="bf16-mixed" if self.dtype == torch.bfloat16 else "32-true",
            callbacks=[clock],
            enable_progress_bar=False,
            enable_model_summary=False,
            **more,
        )


training = LightningTraining
