"""Tiles and labels in, a Gaussian blur and grey thresholds that fit them best out: what needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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

    def classes(self, smooth: np.ndarray) -> np.ndarray:
        """(B, S, S) int32 class indices of (B, S, S) normalised grey values that have this blur already."""
        found = np.full(smooth.shape, self.order[0], dtype=np.int32)
        for threshold, brighter in zip(self.thresholds, self.order[1:], strict=True):
            # An array, or the threshold would be rounded to the float32 of the grey values.
            np.copyto(found, brighter, where=smooth >= np.array([threshold]))
        return found


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


def fit_filters(
    smooth: Callable[[float], Iterable[np.ndarray]],
    labels: np.ndarray,
    order: tuple[int, ...],
    each: Callable[..., Iterable[Any]] = map,
) -> list[tuple[GreyFilter, float]]:
    """For each of some noise levels the filter, of `BLURS` and all thresholds, that classifies most pixels right.

    Args:
        smooth: of a blur, the (B, S, S) float32 grey values at each level, normalised, blurred.
        labels: (B, S, S) class indices.
        order: the classes from dark to bright.
        each: calls a function for each blur: `map`, or that of a pool of threads.

    Returns:
        Of each level the filter, of equals the first, and its accuracy on these tiles, 0..1.
    """
    known = labels != IGNORED
    offsets = labels[known].astype(np.int32) * _BINS

    def fitted(blur: float) -> list[tuple[tuple[float, ...], int]]:
        return [_fit_thresholds(values[known], offsets, order) for values in smooth(blur)]

    filters = []
    for of_level in zip(*each(fitted, BLURS), strict=True):
        blur, (thresholds, right) = max(zip(BLURS, of_level, strict=True), key=lambda one: one[1][1])
        filters.append((GreyFilter(blur, thresholds, order), right / offsets.size))
    return filters


def _fit_thresholds(values: np.ndarray, offsets: np.ndarray, order: tuple[int, ...]) -> tuple[tuple[float, ...], int]:
    """The C - 1 thresholds, and how many of (P,) pixels they classify right; `offsets`: labels times `_BINS`, int32."""
    # Some pixels say well enough where the bins begin and end; an odd step goes through all columns.
    low, high = np.quantile(values[:: values.size // _ENOUGH | 1], _ENDS).tolist()
    width = (high - low) / _BINS or 1.0
    places = values - np.float32(low)
    places /= np.float32(width)
    bins = places.clip(0, _BINS - 1, out=places).astype(np.int32)
    bins += offsets
    # NumPy's would keep the other threads from running.
    pixels = torch.bincount(torch.from_numpy(bins).flatten(), minlength=len(order) * _BINS).numpy()
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
