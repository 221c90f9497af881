"""A model and tiles in, summed integer confusion matrices out; each tile counts exactly once on any number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hpcseg.config import NoiseLevel
from hpcseg.data.batches import NoisyTestSet, TileSet, TileSource, evaluation_chunks
from hpcseg.learn.precision import autocast
from hpcseg.learn.ranks import Ranks


def count_confusion(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, C) int64 confusion matrix on the tensors' device: rows are true classes, columns predicted ones.

    Args:
        labels: any shape, int64 class indices.
        predicted: the same shape, int64.
        classes: C.
    """
    cells = (labels * classes + predicted).flatten()
    # Not bincount, which on a GPU waits for the largest value.
    counts = torch.zeros(classes**2, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, torch.ones_like(cells)).view(classes, classes)


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations are part of the convolutions before them.

    Its scores are the model's to rounding, with a third of the memory traffic.
    """
    lean = copy.deepcopy(model).eval()
    for block in [module for module in lean.modules() if isinstance(module, nn.Sequential)]:
        for index, module in enumerate(block):
            before = block[index - 1]
            if isinstance(module, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
                block[index - 1], block[index] = fuse_conv_bn_eval(before, module), nn.Identity()
    return lean


def validate(
    model: nn.Module, tiles: TileSet, *, classes: int, precision: str, ranks: Ranks
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy per pixel and the (C, C) int64 confusion matrix of a model on a set of tiles.

    Called by all ranks, which share the work; every rank gets the sums.
    """
    loss = torch.zeros((), dtype=torch.float64, device=ranks.device)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=ranks.device)
    lean = folded(model)
    with torch.inference_mode():
        for rows in evaluation_chunks(len(tiles), ranks.rank, ranks.world_size):
            images, labels = tiles.take(rows)
            scores = _scores(lean, images, precision)
            loss += functional.cross_entropy(scores, labels, reduction="sum")
            confusion += count_confusion(labels, scores.argmax(1), classes)
    mean = ranks.sum_(loss) / tiles.labels.numel()
    return float(mean), ranks.sum_(confusion).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Counts:
    """What L noise levels of T test tiles gave."""

    confusion: np.ndarray
    """(L, C, C) int64."""
    right: np.ndarray
    """(L, T) int64, pixels of a tile whose class is right."""


def sweep(
    model: nn.Module,
    tiles: NoisyTestSet,
    levels: Sequence[NoiseLevel],
    *,
    classes: int,
    precision: str,
    ranks: Ranks,
    on_chunk: Callable[[int, int], bool],
) -> Counts | None:
    """Confusion matrices of one model at many noise levels.

    Called by all ranks, which share the work; every rank gets the sums. A tile meets all its noise levels while it is
    at hand, and counts stay on the device until the end.

    Args:
        model: in any mode; left as it is.
        tiles: test tiles with their noise.
        levels: of noise, L of them.
        classes: C.
        precision: "bf16" or "fp32".
        ranks: of this cell.
        on_chunk: called by every rank equally often, with the number of passes over a chunk of tiles that are done and
            of all; True ends the sweep on all ranks.

    Returns:
        The counts of all ranks together, or None if `on_chunk` ended the sweep.
    """
    confusion = torch.zeros(len(levels), classes, classes, dtype=torch.int64, device=ranks.device)
    right = torch.zeros(len(levels), len(tiles), dtype=torch.int64, device=ranks.device)
    lean = folded(model)
    own = list(evaluation_chunks(len(tiles), ranks.rank, ranks.world_size))
    # Rank 0 has the most chunks. Whoever has none left still answers when all are asked.
    most = len(list(evaluation_chunks(len(tiles), 0, ranks.world_size)))
    with torch.inference_mode():
        for number in range(most):
            for index, level in enumerate(levels):
                if on_chunk(number * len(levels) + index, most * len(levels)):
                    return None
                if number < len(own):
                    images, labels = tiles.take(own[number], level)
                    predicted = _scores(lean, images, precision).argmax(1)
                    confusion[index] += count_confusion(labels, predicted, classes)
                    right[index, own[number]] = (predicted == labels).sum((1, 2))
    return Counts(ranks.sum_(confusion).cpu().numpy(), ranks.sum_(right).cpu().numpy())


def count_whole_slices(
    model: nn.Module,
    source: TileSource,
    slices: np.ndarray,
    *,
    precision: str,
    ranks: Ranks,
    on_slice: Callable[[int, int], bool],
) -> np.ndarray | None:
    """Confusion matrices of whole slices without noise, each segmented in one piece.

    Called by all ranks, which share the work; every rank gets the sums.

    Args:
        model: in any mode; left as it is.
        source: where the slices are.
        slices: (N,) int64 indices of slices.
        precision: "bf16" or "fp32".
        ranks: of this cell.
        on_slice: as `on_chunk` of `sweep`, of slices.

    Returns:
        (N, C, C) int64, or None if `on_slice` ended it.

    Source: Figure 9 of the paper.
    """
    confusion = torch.zeros(len(slices), source.classes, source.classes, dtype=torch.int64, device=ranks.device)
    lean, most = folded(model), -(-len(slices) // ranks.world_size)
    for number in range(most):
        if on_slice(number, most):
            return None
        place = number * ranks.world_size + ranks.rank
        if place < len(slices):
            counts, classes = source.read_slice(int(slices[place]))
            labels = torch.from_numpy(classes).to(ranks.device).long()
            predicted = segment(lean, counts, source.info.full_scale, precision, ranks.device)
            confusion[place] = count_confusion(labels, predicted, source.classes)
    return ranks.sum_(confusion).cpu().numpy()


def segment(
    lean: nn.Module, counts: np.ndarray, full_scale: float, precision: str, device: torch.device
) -> torch.Tensor:
    """(H, W) int64 class indices of one slice or tile of any size.

    Args:
        lean: a `folded` network on `device`.
        counts: (H, W) grey values.
        full_scale: grey values are divided by it.
        precision: "bf16" or "fp32".
        device: of the network.
    """
    image = torch.from_numpy(counts.astype(np.float32) / np.float32(full_scale)).to(device)
    with torch.inference_mode():
        return _scores(lean, image[None, None], precision)[0].argmax(0)


def _scores(model: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    with autocast(precision, images.device):
        scores: torch.Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return scores.float()
