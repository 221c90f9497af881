"""One optimizer step: a batch in, its loss and right pixels out, and nothing that waits for the device."""

from __future__ import annotations

import torch
from torch import nn

from hpcseg.learn.objective import Objective
from hpcseg.learn.precision import autocast

CROSS_ENTROPY = Objective()


class TrainStep:
    """Forward pass, loss, backward pass and update of one model.

    Args:
        model: as the steps call it, over all ranks where there are several.
        optimizer: of its weights; fused, so that a scaled loss that is not finite is left out without a wait.
        scaler: of the loss, from `loss_scaler`.
        precision: a resolved one.
        objective: what it minimises.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        precision: str,
        objective: Objective = CROSS_ENTROPY,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.precision = precision
        self._objective = objective

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, *, share: torch.Tensor | float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            images: (B, 1, H, W) float32, this rank's part of the batch; B may be 0.
            labels: (B, H, W) int64, class indices; pixels of `IGNORED` are in no loss and are never right.
            share: what the loss of a pixel counts: 1 over the pixels with a class of the whole batch, over all ranks,
                times the ranks whose gradients are averaged; a number, or a float32 scalar on the device.

        Returns:
            Scalars on the device: the cross-entropy summed over this rank's pixels before the update, float32, and
            how many of them were right, int64.
        """
        with autocast(self.precision, images.device):
            scores = self.model(images.contiguous(memory_format=torch.channels_last))
        minimised, loss = self._objective(scores.float(), labels, share)
        # Parts of unequal size weigh right only as a sum.
        torch.autograd.backward(self.scaler.scale(minimised))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach(), (scores.detach().argmax(1) == labels).sum()
