"""One model and test tiles at many noise levels in, integer confusion matrices out."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import nn

from hpcseg.config import NoiseLevel
from hpcseg.data.batches import EVALUATION_CHUNK, evaluation_chunks
from hpcseg.data.classes import IGNORED
from hpcseg.data.noisy_tiles import NoisyTestSet, StoredTestSet
from hpcseg.learn.evaluate import scores_of, with_batch_statistics
from hpcseg.learn.folding import folded
from hpcseg.metrics import SURE_BINS
from hpcseg.segment.calibration import count_sure
from hpcseg.segment.edges import BANDS, count_by_band, count_interfaces, edge_bands


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
        sure: those of the levels at which it is counted how sure the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        tiles: NoisyTestSet | StoredTestSet,
        levels: Sequence[NoiseLevel],
        *,
        classes: int,
        precision: str,
        sure: Collection[NoiseLevel] = (),
    ) -> None:
        self._sure = sure
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
        self._bands: tuple[slice, torch.Tensor] | None = None
        zeros = functools.partial(torch.zeros, dtype=torch.int64, device=tiles.device)
        self.by_band = zeros(len(levels), BANDS, classes, classes)
        """(L, BANDS, C, C) int64, confusion matrices by distance to a label edge, of the pieces counted here."""
        self.right = zeros(len(levels), len(tiles))
        """(L, T) int64, pixels of a tile whose class is right."""
        self.interfaces = zeros(len(levels), classes, classes)
        """(L, C, C) int64, of the predictions."""
        self.label_interfaces = zeros(classes, classes)
        """(C, C) int64."""
        self.sure = zeros(len(levels), 2, SURE_BINS, 3)
        """(L, 2, SURE_BINS, 3) int64, as `count_sure` has them; nothing at the other levels."""

    @property
    def confusion(self) -> torch.Tensor:
        """(L, C, C) int64, of all distances."""
        return self.by_band.sum(1)

    def __len__(self) -> int:
        return len(self._pieces)

    def count(self, piece: int) -> None:
        """Add one piece, 0 to `len` - 1, to the counts."""
        (rows, level), classes = self._pieces[piece], self.label_interfaces.shape[-1]
        scores, labels = self._scores(rows, self._levels[level])
        predicted = scores.argmax(1)
        self.by_band[level] += count_by_band(labels, predicted, self._bands_of(rows, labels), classes)
        self.right[level, rows] = (predicted == labels).sum((1, 2))
        # Where the labels say nothing, interfaces of the predictions would have nothing to stand beside.
        self.interfaces[level] += count_interfaces(predicted.masked_fill(labels == IGNORED, IGNORED), classes)
        if self._levels[level] in self._sure:
            self.sure[level] += count_sure(scores, labels)
        if level == 0:
            self.label_interfaces += count_interfaces(labels, classes)

    def count_each(self, pieces: Iterable[int]) -> Iterator[None]:
        """`count` of several pieces, one each time."""
        return map(self.count, pieces)

    def _bands_of(self, rows: slice, labels: torch.Tensor) -> torch.Tensor:
        """The bands of some tiles, which are the same at all levels."""
        if self._bands is None or self._bands[0] != rows:
            self._bands = rows, edge_bands(labels)
        return self._bands[1]

    def predict(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted and true classes of some tiles at a noise level, (B, S, S) int64 both.

        Where that level takes the statistics of a batch, the tiles are the batch.
        """
        scores, labels = self._scores(rows, level)
        return scores.argmax(1), labels

    def _scores(self, rows: slice, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._tiles.take(rows, level)
        model = self._batchwise if level.norm_tiles else self._lean
        assert model is not None
        with torch.inference_mode():
            return scores_of(model, images, self._precision), labels
