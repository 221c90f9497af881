"""A model and tiles in, integer confusion matrices out; each tile counts exactly once on any number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hpcseg.config import NoiseLevel
from hpcseg.data.batches import NoisyTestSet, TileSet, evaluation_chunks
from hpcseg.learn.precision import autocast
from hpcseg.learn.ranks import Ranks

_MATRICES = 64
"""Confusion matrices that the rows of pixels are shared out to while they are counted."""


def count_confusion(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, C) int64 confusion matrix on the tensors' device: rows are true classes, columns predicted ones.

    Args:
        labels: (..., H, W) int64 class indices.
        predicted: the same shape, int64.
        classes: C.
    """
    pairs = (labels * classes + predicted).flatten(0, -2)
    # Not bincount, which on a GPU waits for the largest value; and not one counter per pair of classes, for which
    # hundreds of thousands of atomic additions would queue up there.
    matrix = torch.arange(len(pairs), device=pairs.device) % _MATRICES
    places = (pairs + matrix[:, None] * classes**2).flatten()
    counts = torch.zeros(_MATRICES * classes**2, dtype=torch.int64, device=pairs.device)
    return counts.scatter_add_(0, places, torch.ones_like(places)).view(_MATRICES, classes, classes).sum(0)


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations, synchronised or not, are part of the convolutions before.

    Its scores are the model's to rounding, with a third of the memory traffic.
    """
    lean = copy.deepcopy(model).eval()
    for block in [module for module in lean.modules() if isinstance(module, nn.Sequential)]:
        for index, module in enumerate(block):
            before = block[index - 1]
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(before, nn.Conv2d):
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
            # reduction="sum" adds with atomics on a GPU, in another order each time.
            loss += functional.cross_entropy(scores, labels, reduction="none").sum()
            confusion += count_confusion(labels, scores.argmax(1), classes)
    mean = ranks.sum_(loss) / tiles.labels.numel()
    return float(mean), ranks.sum_(confusion).cpu().numpy()


class Sweep:
    """One model on T test tiles at L noise levels, in pieces that are counted in any order and on any rank.

    A piece is a chunk of tiles at one noise level. Counts stay on the device until someone asks for them.

    Args:
        model: on the device of the tiles, in any mode; left as it is.
        tiles: test tiles with their noise.
        levels: of noise, L of them.
        classes: C.
        precision: the model's, as `autocast` takes it.
    """

    def __init__(
        self, model: nn.Module, tiles: NoisyTestSet, levels: Sequence[NoiseLevel], *, classes: int, precision: str
    ) -> None:
        self._lean, self._tiles, self._levels, self._precision = folded(model), tiles, levels, precision
        self._chunks = list(evaluation_chunks(len(tiles), 0, 1))
        device = tiles.unit.device
        self.confusion = torch.zeros(len(levels), classes, classes, dtype=torch.int64, device=device)
        """(L, C, C) int64, of the pieces that were counted here."""
        self.right = torch.zeros(len(levels), len(tiles), dtype=torch.int64, device=device)
        """(L, T) int64, pixels of a tile whose class is right."""

    def __len__(self) -> int:
        return len(self._chunks) * len(self._levels)

    def count(self, piece: int) -> None:
        """Add one piece, 0 to `len` - 1, to the counts. A tile meets its noise levels one after the other."""
        chunk, level = divmod(piece, len(self._levels))
        predicted, labels = self.predict(self._chunks[chunk], self._levels[level])
        self.confusion[level] += count_confusion(labels, predicted, self.confusion.shape[-1])
        self.right[level, self._chunks[chunk]] = (predicted == labels).sum((1, 2))

    def predict(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted and true classes of some tiles at a noise level, (B, S, S) int64 both."""
        images, labels = self._tiles.take(rows, level)
        with torch.inference_mode():
            return _scores(self._lean, images, self._precision).argmax(1), labels


def _scores(model: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    with autocast(precision, images.device):
        scores: torch.Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return scores.float()
