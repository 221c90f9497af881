"""Labels and predictions in, integer counts by distance to a label edge and of interfaces out, on their device."""

from __future__ import annotations

import numpy as np
import torch

from hpcseg.data.classes import IGNORED
from hpcseg.learn.evaluate import count_confusion, count_values
from hpcseg.metrics import EDGE_DISTANCES

BANDS = len(EDGE_DISTANCES) + 1
"""Pixels within 1 step of a label edge, those that are within 2 and not within 1, and the rest."""
_EVERY, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (((..., _FIRST, _EVERY), (..., _LAST, _EVERY)), ((..., _EVERY, _FIRST), (..., _EVERY, _LAST)))
"""Two pairs of views of (..., H, W) by their indices: each pixel with the one below, and with the one to the right."""


def edge_bands(labels: torch.Tensor) -> torch.Tensor:
    """Which of the `BANDS` a pixel is in, (..., H, W) int64: 0 within the first of `EDGE_DISTANCES`, and so on.

    A pixel is within d of a label edge where at most d steps up, down, left or right lead to a pixel with another
    label, so that within 1 are the two pixels on both sides of an edge. What lies outside the tile is not looked at.

    Args:
        labels: (..., H, W) class indices of any integer type.
    """
    near = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    for before, after in _NEIGHBOURS:
        # Where a label ends for want of a field of view is no edge.
        differ = (labels[before] != labels[after]) & (labels[before] != IGNORED) & (labels[after] != IGNORED)
        near[before] |= differ
        near[after] |= differ
    bands = torch.zeros(labels.shape, dtype=torch.int64, device=labels.device)
    for distance in EDGE_DISTANCES:
        if distance > 1:
            wider = near.clone()
            for before, after in _NEIGHBOURS:
                wider[before] |= near[after]
                wider[after] |= near[before]
            near = wider
        bands += ~near
    return bands


def count_by_band(labels: torch.Tensor, predicted: torch.Tensor, bands: torch.Tensor, classes: int) -> torch.Tensor:
    """(BANDS, C, C) int64: a confusion matrix of the pixels of each band; their sum is that of all pixels.

    Args:
        labels: (..., H, W) int64 class indices; pixels of `IGNORED` are not counted.
        predicted: the same shape, int64.
        bands: the same shape, of `edge_bands`.
        classes: C.
    """
    values = (bands * classes + labels) * classes + predicted
    kinds = BANDS * classes**2
    values = torch.where(labels != IGNORED, values, kinds)
    return count_values(values, kinds + 1)[:-1].view(BANDS, classes, classes)


def count_interfaces(pixels: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, C) int64, upper triangular: neighbouring pixels of classes a < b, up and down and left and right, in [a, b].

    Args:
        pixels: (..., H, W) int64 class indices; where one of two neighbours is `IGNORED`, there is no interface.
        classes: C.
    """
    below, right = (count_confusion(pixels[before], pixels[after], classes) for before, after in _NEIGHBOURS)
    return (below + below.T + right + right.T).triu(1)


def near_edge(by_band: np.ndarray) -> dict[int, list[list[int]]]:
    """What a record keeps of (BANDS, C, C) counts: the matrices within 1 and within 2 pixels of a label edge."""
    within = by_band.cumsum(0)[: len(EDGE_DISTANCES)]
    return {distance: matrix.tolist() for distance, matrix in zip(EDGE_DISTANCES, within, strict=True)}
