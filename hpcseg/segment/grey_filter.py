"""Tiles and labels in, a Gaussian blur and grey thresholds that fit them best out: what needs no network. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hpcseg.data.classes import IGNORED

BLURS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 3.4, 4.0, 4.8, 5.7, 8.0)
"""Standard deviations in pixels that are tried; 0: no blur."""
_BINS = 1024
_ENDS = (0.001, 0.999)
"""Shares of the pixels at which the bins begin and end, so that a hot pixel does not make them coarse."""

_ENOUGH = 2**17
"""Pixels that tell these."""


@dataclass(frozen=True)
class GreyFilter:
    """A blur, and thresholds between classes that are ordered by their grey values."""

    blur: float
    """Standard deviation in pixels."""
    thresholds: tuple[float, ...]
    """C - 1 normalised grey values, ascending; infinite beside a class that is never taken."""
    order: tuple[int, ...]
    """The C classes from dark to bright."""

    def classes(self, images: np.ndarray) -> np.ndarray:
        """(B, S, S) int64 class indices of (B, S, S) normalised grey values."""
        place = np.searchsorted(self.thresholds, blurred(images, self.blur), side="right")
        return np.array(self.order, dtype=np.int64)[place]


def blurred(images: np.ndarray, blur: float) -> np.ndarray:
    """(B, S, S) images, each with a Gaussian blur of its own; it is mirrored at its edges."""
    filtered: np.ndarray = ndimage.gaussian_filter(images, (0.0, blur, blur)) if blur else images
    return filtered


def order_by_grey(images: np.ndarray, labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """The classes from dark to bright, by their mean grey value; those without pixels come last.

    Args:
        images: (B, S, S) grey values.
        labels: (B, S, S) class indices.
        classes: C.
    """
    known = labels != IGNORED
    pixels = np.bincount(labels[known], minlength=classes)
    sums = np.bincount(labels[known], weights=images[known], minlength=classes)
    means = np.divide(sums, pixels, out=np.full(classes, np.inf), where=pixels > 0)
    return tuple(np.argsort(means, kind="stable").tolist())


def fit_filter(images: np.ndarray, labels: np.ndarray, order: tuple[int, ...]) -> tuple[GreyFilter, float]:
    """The filter, of `BLURS` and all thresholds, that classifies most pixels of some tiles right; of equals the first.

    Args:
        images: (B, S, S) float32 normalised grey values, with whatever noise the filter is to meet.
        labels: (B, S, S) class indices.
        order: the classes from dark to bright.

    Returns:
        The filter, and its accuracy on these tiles, 0..1.
    """
    known = labels != IGNORED
    found = [(blur, *_fit_thresholds(blurred(images, blur)[known], labels[known], order)) for blur in BLURS]
    blur, thresholds, right = max(found, key=lambda one: one[2])
    return GreyFilter(blur, thresholds, order), right / np.count_nonzero(known)


def _fit_thresholds(values: np.ndarray, labels: np.ndarray, order: tuple[int, ...]) -> tuple[tuple[float, ...], int]:
    """The C - 1 thresholds, and how many pixels they classify right; of (P,) grey values and class indices."""
    # Some pixels say well enough where the bins begin and end; an odd step goes through all columns.
    low, high = np.quantile(values[:: values.size // _ENOUGH | 1], _ENDS).tolist()
    width = (high - low) / _BINS or 1.0
    bins = ((values - np.float32(low)) / np.float32(width)).clip(0, _BINS - 1).astype(np.int32)
    pixels = np.bincount(labels.astype(np.int32) * _BINS + bins, minlength=len(order) * _BINS)
    edges, right = best_edges(pixels.reshape(len(order), _BINS)[list(order)])
    ends = {0: -np.inf, _BINS: np.inf}
    return tuple(ends.get(edge, low + edge * width) for edge in edges), right


def best_edges(pixels: np.ndarray) -> tuple[list[int], int]:
    """Where to cut a line of bins into one run for each class, in order, so that most pixels are in their class's run.

    Args:
        pixels: (C, K) int64, pixels of each class in each bin.

    Returns:
        C - 1 numbers from 0 to K, ascending: the first bin of each next class; and the pixels that are in their run. Of
        equal cuts through empty bins it is the one in their middle.
    """
    before = np.concatenate([np.zeros((len(pixels), 1), dtype=np.int64), pixels.cumsum(1)], axis=1)  # (C, K + 1)
    place = np.arange(before.shape[1])
    # best[j]: most right pixels among the first j bins, with the classes so far.
    best, cuts = before[0], []
    for own in before[1:]:
        gain = best - own
        most = np.maximum.accumulate(gain)
        last = np.maximum.accumulate(np.where(gain == most, place, 0))
        begin = np.maximum.accumulate(np.where(np.diff(gain, prepend=gain[0] - 1) != 0, place, 0))
        cuts.append((begin[last] + last) // 2)
        best = most + own
    edges, edge = [], before.shape[1] - 1
    for cut in reversed(cuts):
        edge = int(cut[edge])
        edges.append(edge)
    return edges[::-1], int(best[-1])
