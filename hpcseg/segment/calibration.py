"""Scores and labels in, integer counts out of how sure a model is and how often it is right then, on their device."""

from __future__ import annotations

import math

import torch

from hpcseg.data.classes import IGNORED
from hpcseg.learn.evaluate import add_up
from hpcseg.metrics import SURE_BINS, SURE_UNIT


def count_sure(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(2, SURE_BINS, 3) int64: of the probability of the chosen class, and of the uncertainty, in bins of equal width.

    Of each bin the pixels, those of them whose class is right, and the sum of the values in units of 1 / SURE_UNIT, in
    whole numbers, so that sums do not depend on an order.

    Args:
        scores: (B, C, H, W) float32.
        labels: (B, H, W) int64 class indices; pixels of `IGNORED` are not counted.
    """
    logarithms = scores.log_softmax(1)
    probabilities = logarithms.exp()
    # As `hpcseg predict --uncertainty` has it: 0 sure, 1 nothing known.
    entropy = -(probabilities * logarithms).sum(1) / math.log(scores.shape[1])
    right = scores.argmax(1) == labels
    return torch.stack([_counted(values, right, labels != IGNORED) for values in (probabilities.amax(1), entropy)])


def _counted(values: torch.Tensor, right: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(SURE_BINS, 3) int64, of (B, H, W) values from 0 to 1."""
    bins = torch.where(known, (values * SURE_BINS).long().clamp(0, SURE_BINS - 1), SURE_BINS)
    amounts = (torch.ones_like(bins), right.long(), (values * SURE_UNIT).round().long())
    return torch.stack([add_up(bins, SURE_BINS + 1, each)[:-1] for each in amounts], dim=1)
