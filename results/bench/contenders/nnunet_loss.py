"""nnU-Net's loss: Dice + cross-entropy, at every resolution of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

_SMOOTH = 1e-5


def dice_and_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy minus the mean soft Dice of all classes but the first, over the whole batch."""
    shares = scores.float().softmax(1)
    truth = functional.one_hot(labels, scores.shape[1]).movedim(-1, 1)
    axes = (0, 2, 3)
    both = 2 * (shares * truth).sum(axes) + _SMOOTH
    dice = both / (shares.sum(axes) + truth.sum(axes) + _SMOOTH).clamp(min=1e-8)
    return functional.cross_entropy(scores.float(), labels) - dice[1:].mean()


def deeply_supervised(scores: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """The loss at every resolution but the lowest, each with half the weight of the one above; weights add up to 1."""
    weights = [0.5**level for level in range(len(scores) - 1)]
    losses = [
        weight * dice_and_cross_entropy(part, labels[:, :: 2**level, :: 2**level])
        for level, (weight, part) in enumerate(zip(weights, scores, strict=False))
    ]
    return torch.stack(losses).sum() / sum(weights)
