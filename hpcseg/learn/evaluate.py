"""A model and tiles in, summed integer confusion matrices out; each tile counts exactly once on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hpcseg.data.batches import NoisyTestSet, TileSet, evaluation_chunks
from hpcseg.learn.precision import autocast
from hpcseg.learn.ranks import Ranks


def count_confusion(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, C) int64 confusion matrix on the tensors' device: rows are true classes, columns predicted ones.

    Args:
        labels: any shape, int64 class indices.
        predicted: the same shape, int64.
        classes: C.
    """
    return torch.bincount((labels * classes + predicted).flatten(), minlength=classes**2).view(classes, classes)


def validate(
    model: nn.Module, tiles: TileSet, *, classes: int, precision: str, ranks: Ranks
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy per pixel and the (C, C) int64 confusion matrix of a model on a set of tiles.

    Called by all ranks, which share the work; every rank gets the sums. The model is left in training mode.
    """
    loss = torch.zeros((), dtype=torch.float64, device=ranks.device)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=ranks.device)
    model.eval()
    with torch.inference_mode():
        for rows in evaluation_chunks(len(tiles), ranks.rank, ranks.world_size):
            images, labels = tiles.take(torch.from_numpy(rows).to(ranks.device))
            scores = _scores(model, images, precision)
            loss += functional.cross_entropy(scores, labels, reduction="sum")
            confusion += count_confusion(labels, scores.argmax(1), classes)
    model.train()
    mean = ranks.sum_(loss) / tiles.labels.numel()
    return float(mean), ranks.sum_(confusion).cpu().numpy()


def sweep(
    model: nn.Module,
    tiles: NoisyTestSet,
    sigmas: tuple[float, ...],
    *,
    classes: int,
    precision: str,
    ranks: Ranks,
    on_sigma: Callable[[int], bool],
) -> np.ndarray | None:
    """Confusion matrices of one model at many noise levels.

    Called by all ranks, which share the work; every rank gets the sums. Counts stay on the device until the end.

    Args:
        model: in any mode; left in evaluation mode.
        tiles: test tiles with their noise at sigma 1.
        sigmas: S noise levels in counts.
        classes: C.
        precision: "bf16" or "fp32".
        ranks: of this cell.
        on_sigma: called before each noise level with its index; True ends the sweep on all ranks.

    Returns:
        (S, C, C) int64, or None if `on_sigma` ended the sweep.
    """
    confusion = torch.zeros(len(sigmas), classes, classes, dtype=torch.int64, device=ranks.device)
    model.eval()
    with torch.inference_mode():
        for index, sigma in enumerate(sigmas):
            if on_sigma(index):
                return None
            for rows in evaluation_chunks(len(tiles), ranks.rank, ranks.world_size):
                images, labels = tiles.take(torch.from_numpy(rows).to(ranks.device), sigma)
                scores = _scores(model, images, precision)
                confusion[index] += count_confusion(labels, scores.argmax(1), classes)
    return ranks.sum_(confusion).cpu().numpy()


def _scores(model: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    with autocast(precision, images.device):
        scores: torch.Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return scores.float()
