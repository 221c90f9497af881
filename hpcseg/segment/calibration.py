"""Scores and labels in, integer counts out of how sure a model is and how often it is right then, on their device."""

from __future__ import annotations

import math

import torch

from hpcseg.data.classes import IGNORED
from hpcseg.metrics import SURE_BINS, SURE_UNIT

_COPIES = 64
"""Sets of counters that the rows of pixels are shared out to, so that a GPU's additions do not queue up at a few."""


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
    bins = (values * SURE_BINS).long().clamp(0, SURE_BINS - 1)
    bins = torch.where(known, bins, SURE_BINS).flatten(0, 1)
    counters = torch.arange(len(bins), device=bins.device) % _COPIES
    places = (bins + counters[:, None] * (SURE_BINS + 1)).flatten()
    parts = torch.stack(
        [torch.ones_like(bins), right.long().flatten(0, 1), (values * SURE_UNIT).round().long().flatten(0, 1)]
    )
    counts = torch.zeros(3, _COPIES * (SURE_BINS + 1), dtype=torch.int64, device=bins.device)
    counts.scatter_add_(1, places.expand(3, -1), parts.flatten(1))
    return counts.view(3, _COPIES, -1).sum(1)[:, :-1].T
