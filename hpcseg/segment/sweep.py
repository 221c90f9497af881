"""One model and test tiles at many noise levels in, integer confusion matrices out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpcseg.config import NoiseLevel
from hpcseg.data.batches import EVALUATION_CHUNK, NoisyTestSet, evaluation_chunks
from hpcseg.learn.evaluate import count_confusion, folded, scores_of, with_batch_statistics


class Sweep:
    """One model on T test tiles at L noise levels, in pieces that are counted in any order and on any rank.

    A piece is a chunk of tiles at one noise level; where the model takes the statistics of batches, a chunk is a batch:
    consecutive tiles, the last one with what is left. Counts stay on the device until someone asks for them.

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
        self._batchwise = with_batch_statistics(model) if any(level.norm_tiles for level in levels) else None
        # A tile meets its noise levels one after the other.
        self._pieces = [
            (rows, index)
            for size in dict.fromkeys(level.norm_tiles for level in levels)
            for rows in evaluation_chunks(len(tiles), 0, 1, size or EVALUATION_CHUNK)
            for index, level in enumerate(levels)
            if level.norm_tiles == size
        ]
        device = tiles.unit.device
        self.confusion = torch.zeros(len(levels), classes, classes, dtype=torch.int64, device=device)
        """(L, C, C) int64, of the pieces that were counted here."""
        self.right = torch.zeros(len(levels), len(tiles), dtype=torch.int64, device=device)
        """(L, T) int64, pixels of a tile whose class is right."""

    def __len__(self) -> int:
        return len(self._pieces)

    def count(self, piece: int) -> None:
        """Add one piece, 0 to `len` - 1, to the counts."""
        rows, level = self._pieces[piece]
        predicted, labels = self.predict(rows, self._levels[level])
        self.confusion[level] += count_confusion(labels, predicted, self.confusion.shape[-1])
        self.right[level, rows] = (predicted == labels).sum((1, 2))

    def predict(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted and true classes of some tiles at a noise level, (B, S, S) int64 both.

        Where that level takes the statistics of a batch, the tiles are the batch.
        """
        images, labels = self._tiles.take(rows, level)
        model = self._batchwise if level.norm_tiles else self._lean
        assert model is not None
        with torch.inference_mode():
            return scores_of(model, images, self._precision).argmax(1), labels
