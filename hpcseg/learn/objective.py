"""Scores and labels of a batch in, what a training minimises out: cross-entropy, with weights or with Dice."""

from __future__ import annotations

import torch
from torch.nn import functional

from hpcseg.data.classes import IGNORED
from hpcseg.errors import ConfigError
from hpcseg.learn.ranks import Ranks

# Of a class without a pixel in a batch the overlap is then whole.
_SMOOTH = 1.0


class Objective:
    """What the steps of one training minimise, over all ranks.

    Args:
        loss: "cross-entropy", or "cross-entropy+dice": the sum of it and of 1 minus the mean Dice of the classes.
        weights: (C,) float32 on the device, of the cross-entropy of each class's pixels; None: 1 each.
        ranks: that share each batch; None: there is one.

    Source: soft Dice over a batch, Milletari et al. 2016 without squares, as nnU-Net takes it.
    """

    def __init__(
        self, loss: str = "cross-entropy", weights: torch.Tensor | None = None, ranks: Ranks | None = None
    ) -> None:
        self._with_dice = loss == "cross-entropy+dice"
        self._weights = weights
        self._ranks = ranks

    def __call__(
        self, scores: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is to be minimised, and the plain cross-entropy summed over this rank's pixels, both scalars.

        Args:
            scores: (B, C, H, W) float32, of this rank's part of the batch; B may be 0.
            labels: (B, H, W) int64, class indices or `IGNORED`.
            share: what the loss of a pixel counts, as of `TrainStep`.
        """
        # torch's own sum adds up in an order that changes from run to run on a GPU.
        losses = functional.cross_entropy(scores, labels, reduction="none", ignore_index=IGNORED)
        plain = losses.sum()
        minimised = plain * share
        if self._weights is not None:
            places = labels.clamp_max(len(self._weights) - 1)  # what is ignored has no loss to weigh
            minimised = (losses * self._weights.index_select(0, places.flatten()).view_as(losses)).sum() * share
        if self._with_dice:
            minimised = minimised + (1 - self._dice(scores, labels)) * (self._ranks.world_size if self._ranks else 1)
        return minimised, plain

    def _dice(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the classes of the Dice of the whole batch, of which each rank has the gradient of its part."""
        known = (labels != IGNORED)[:, None]
        probabilities = scores.softmax(1) * known
        classes = torch.arange(scores.shape[1], device=scores.device)[:, None, None]
        truth = ((labels[:, None] == classes) & known).float()
        # (3, C), summed one axis after the other, so that a GPU adds in one order.
        own = torch.stack([probabilities * truth, probabilities, truth]).sum((1, 3, 4))
        # The values of all ranks with the gradient of this one's: those of the others come from them.
        of_all = own + (self._ranks.sum_(own.detach().clone()) - own.detach()) if self._ranks else own
        both, predicted, labelled = of_all
        dice: torch.Tensor = ((2 * both + _SMOOTH) / (predicted + labelled + _SMOOTH)).mean()
        return dice


def class_weights(setting: str, pixels: list[int]) -> list[float]:
    """What the cross-entropy of a pixel of each class counts: on average over the labelled training pixels 1.

    Args:
        setting: "frequency" (the rarer the more: each class counts as much as any other), or a number for each class,
            in the order of the label values, as "1+4+1".
        pixels: of each class in the training set.

    Raises:
        ConfigError: none of the pixels is of a class whose number is above 0.
    """
    if setting == "frequency":
        wanted = [1 / count if count else 0.0 for count in pixels]
    else:
        wanted = [float(text) for text in setting.split("+")]
    mean = sum(weight * count for weight, count in zip(wanted, pixels, strict=True)) / sum(pixels)
    if not mean:
        raise ConfigError(
            f'train.class_weights is "{setting}", but no training pixel is of a class whose number is above 0, so that '
            "there would be no loss. Give a number above 0 to a class that the training slices have."
        )
    return [weight / mean for weight in wanted]
