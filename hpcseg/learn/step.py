"""One optimizer step: a batch in, its loss and right pixels out, and nothing that waits for the device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from hpcseg.learn.precision import autocast


class Optimizer(Protocol):
    """What a step needs of torch's optimizers and of whatever takes their place."""

    def step(self) -> object:
        """Update the weights."""

    def zero_grad(self) -> None:
        """Forget the gradients."""


class TrainStep:
    """Forward pass, loss, backward pass and update of one model.

    Args:
        model: as the steps call it, over all ranks where there are several.
        optimizer: of its weights.
        precision: "bf16" or "fp32".
        averaged_over: number of ranks whose gradients are averaged before the update; 1 where they are summed.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, precision: str, averaged_over: int = 1) -> None:
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.averaged_over = averaged_over

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, *, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            images: (B, 1, H, W) float32, this rank's part of the batch; B may be 0.
            labels: (B, H, W) int64, class indices.
            pixels: of the whole batch, over all ranks.

        Returns:
            Scalars on the device: the cross-entropy summed over this rank's pixels before the update, float32, and
            how many of them were right, int64.
        """
        with autocast(self.precision, images.device):
            scores = self.model(images.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(scores.float(), labels, reduction="sum")
        # Parts of unequal size weigh right only as a sum.
        torch.autograd.backward(loss * (self.averaged_over / pixels))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), (scores.detach().argmax(1) == labels).sum()
