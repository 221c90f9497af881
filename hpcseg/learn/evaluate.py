"""A model and tiles in, scores, loss and integer confusion matrices out."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hpcseg.data.batches import evaluation_chunks
from hpcseg.data.classes import IGNORED
from hpcseg.data.tile_sets import AwayTiles, TileSet
from hpcseg.learn.precision import autocast
from hpcseg.learn.ranks import Ranks

_COPIES = 64
"""Sets of counters that the rows of pixels are shared out to while they are counted."""
_COMPARED = 16
"""So many kinds are counted on a GPU by comparing with each, in half the time and no more memory."""


def count_confusion(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, C) int64 confusion matrix on the tensors' device: rows are true classes, columns predicted ones.

    Args:
        labels: (..., H, W) int64 class indices; a pixel that is `IGNORED` here or in `predicted` is not counted.
        predicted: the same shape, int64.
        classes: C.
    """
    known = (labels != IGNORED) & (predicted != IGNORED)
    values = torch.where(known, labels * classes + predicted, classes**2)
    return count_values(values, classes**2 + 1)[:-1].view(classes, classes)


def count_values(values: torch.Tensor, kinds: int) -> torch.Tensor:
    """(K,) int64: how often each whole number from 0 to K - 1 stands in a tensor, on its device.

    Args:
        values: (..., H, W) int64.
        kinds: K.
    """
    if values.is_cuda and kinds <= _COMPARED:
        each = torch.arange(kinds, dtype=torch.uint8, device=values.device)
        return (values.flatten().to(torch.uint8) == each[:, None]).sum(1)
    return add_up(values, kinds, torch.ones_like(values))


def add_up(values: torch.Tensor, kinds: int, amounts: torch.Tensor) -> torch.Tensor:
    """(K,) int64: the sum of the amounts where each whole number from 0 to K - 1 stands, on the tensors' device.

    Args:
        values: (..., H, W) int64.
        kinds: K.
        amounts: the same shape, int64.
    """
    rows = values.flatten(0, -2)
    # Not bincount, which on a GPU waits for the largest value; and not one counter for each number, for which hundreds
    # of thousands of atomic additions would queue up there.
    copy_of_row = torch.arange(len(rows), device=rows.device) % _COPIES
    places = (rows + copy_of_row[:, None] * kinds).flatten()
    counts = torch.zeros(_COPIES * kinds, dtype=torch.int64, device=rows.device)
    return counts.scatter_add_(0, places, amounts.flatten()).view(_COPIES, kinds).sum(0)


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations take the statistics of the batch at hand, and keep none."""
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return copied


def validate(
    model: nn.Module, tiles: TileSet | AwayTiles, *, classes: int, precision: str, ranks: Ranks
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy per labelled pixel and the (C, C) int64 confusion matrix of a model on a set of tiles.

    Called by all ranks, which share the work; every rank gets the sums. The model is in evaluation mode.
    """
    loss = torch.zeros((), dtype=torch.float64, device=ranks.device)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=ranks.device)
    with torch.inference_mode():
        for rows in evaluation_chunks(len(tiles), ranks.rank, ranks.world_size):
            images, labels = tiles.take(rows)
            scores = scores_of(model, images, precision)
            # reduction="sum" adds with atomics on a GPU, in another order each time.
            loss += functional.cross_entropy(scores, labels, reduction="none", ignore_index=IGNORED).sum()
            confusion += count_confusion(labels, scores.argmax(1), classes)
    mean = ranks.sum_(loss) / int(tiles.labelled.sum())
    return float(mean), ranks.sum_(confusion).cpu().numpy()


def scores_of(model: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    """(B, C, H, W) float32 scores of (B, channels, H, W) float32 images, computed in a resolved precision."""
    with autocast(precision, images.device):
        scores: torch.Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return scores.float()
