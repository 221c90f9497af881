"""Labelled slices and a network in, a confusion matrix for each of them out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hpcseg.ahead import ahead, slices_ahead
from hpcseg.data.batches import TileSource
from hpcseg.learn.evaluate import count_confusion
from hpcseg.segment.network import Network


class WholeSlices:
    """N slices of a packed file without noise, each segmented as `hpcseg predict` does it, in any order, on any rank.

    Args:
        network: on `device`.
        source: where the slices are.
        slices: (N,) int64 indices of slices.
        edge: of tiles; None: each slice in one piece.
        device: where the counting is done.

    Source: Figure 9 of the paper.
    """

    def __init__(
        self, network: Network, source: TileSource, slices: np.ndarray, *, edge: int | None, device: torch.device
    ) -> None:
        self._network, self._source, self._slices, self._edge = network, source, slices, edge
        shape = (len(slices), source.classes, source.classes)
        self.confusion = torch.zeros(shape, dtype=torch.int64, device=device)
        """(N, C, C) int64, of the slices that were counted here."""

    def __len__(self) -> int:
        return len(self._slices)

    def count_each(self, pieces: Sequence[int]) -> Iterator[None]:
        """Count the slices at these places of the list, one each time; threads read the next ones meanwhile."""
        device, classes = self.confusion.device, self._source.classes
        most = slices_ahead(math.prod(self._source.info.shape[1:]))
        for piece, (image, labels) in zip(pieces, ahead(self._read, pieces, at_most=most), strict=True):
            predicted = self._network.answer(image, self._edge).classes
            true, found = (torch.from_numpy(array).to(device).long() for array in (labels, predicted))
            self.confusion[piece] = count_confusion(true, found, classes)
            yield

    def _read(self, piece: int) -> tuple[np.ndarray, np.ndarray]:
        counts, labels = self._source.read_channels(int(self._slices[piece]))
        return self._source.info.grey.normalised(counts), labels

    def predict(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices of a slice, by its index in the file."""
        counts, _ = self._source.read_channels(index)
        return self._network.answer(self._source.info.grey.normalised(counts), self._edge).classes
