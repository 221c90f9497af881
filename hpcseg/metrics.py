"""Ratios of a confusion matrix. numpy only, so that a report needs no torch.

A confusion matrix is (C, C), whole numbers, rows true classes and columns predicted ones. A class that neither the
labels nor the predictions hold has no ratio: it is NaN, and means leave it out. Counting it as 0 or as 1 would make
a mean depend on what the test set happens to lack.

`near` is a confusion matrix of those pixels of a set that lie within some distance of a label edge; evaluation.json has
one for each of `EDGE_DISTANCES`. Interfaces are (C, C) whole numbers, pairs of neighbouring pixels of two classes, at
[a, b] with a < b.
"""

from __future__ import annotations

import numpy as np

EDGE_DISTANCES = (1, 2)
"""In pixels, up and down and left and right: how near to a label edge pixels are counted for themselves."""

SURE_BINS = 50
"""Bins of equal width from 0 to 1, for how sure a model is."""
SURE_UNIT = 1_000_000
"""Values in a bin are added up in parts of this."""


def accuracy(confusion: np.ndarray) -> float:
    """Share of pixels whose class is right: sum(diagonal) / sum(all); NaN without pixels."""
    counts = _checked(confusion)
    return float(_ratio(np.trace(counts), counts.sum()))


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union, (C,) float64: TP / (TP + FP + FN)."""
    counts = _checked(confusion)
    hits = np.diag(counts)
    return _ratio(hits, counts.sum(0) + counts.sum(1) - hits)


def dice_per_class(confusion: np.ndarray) -> np.ndarray:
    """Dice coefficient, (C,) float64: 2 TP / (2 TP + FP + FN)."""
    counts = _checked(confusion)
    return _ratio(2 * np.diag(counts), counts.sum(0) + counts.sum(1))


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Share of a class's pixels that are found, (C,) float64: TP / (TP + FN)."""
    counts = _checked(confusion)
    return _ratio(np.diag(counts), counts.sum(1))


def precision_per_class(confusion: np.ndarray) -> np.ndarray:
    """Share of what is taken for a class that is right, (C,) float64: TP / (TP + FP)."""
    counts = _checked(confusion)
    return _ratio(np.diag(counts), counts.sum(0))


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of the classes' IoU over the classes that are there; NaN if none is."""
    ratios = iou_per_class(confusion)
    there = ratios[~np.isnan(ratios)]
    return float(there.mean()) if len(there) else float("nan")


def accuracy_away(confusion: np.ndarray, near: np.ndarray) -> float:
    """Accuracy of the pixels that are not near a label edge; NaN where there are none."""
    away: np.ndarray = _checked(confusion) - _checked(near)
    if (away < 0).any():
        raise ValueError("the pixels near an edge are not among those of the confusion matrix")
    return accuracy(away)


def share_of_errors_near(confusion: np.ndarray, near: np.ndarray) -> float:
    """Share of all wrong pixels that lie near a label edge; NaN without errors."""
    return float(_ratio(_errors(near), _errors(confusion)))


def phase_fractions(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of each class among all pixels, in the labels and in the predictions, (C,) float64 both."""
    counts = _checked(confusion)
    pixels = np.full(len(counts), counts.sum())
    return _ratio(counts.sum(1), pixels), _ratio(counts.sum(0), pixels)


def relative_interface(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Length of the predicted interfaces as a multiple of the labels'; NaN where the labels have none.

    Args:
        predicted: (C, C) interfaces of the predictions.
        labels: (C, C) interfaces of the labels of the same tiles.
    """
    return float(_ratio(_checked(predicted).sum(), _checked(labels).sum()))


def calibration_error(counts: np.ndarray) -> float:
    """Expected calibration error: how far the probability of the chosen class is from the share that is right.

    The mean over all pixels of |share of right ones - mean probability| of their bin; NaN without pixels.

    Args:
        counts: (SURE_BINS, 3) whole numbers, of each bin pixels, right ones, and the sum of probabilities times
            `SURE_UNIT`.

    Source: Guo et al. 2017, of pixels.
    """
    pixels, right, sums = np.asarray(counts, dtype=np.float64).T
    return float(_ratio(np.abs(right - sums / SURE_UNIT).sum(), pixels.sum()))


def overconfidence(counts: np.ndarray) -> float:
    """Mean probability of the chosen class minus the share that is right, of counts as of `calibration_error`."""
    pixels, right, sums = np.asarray(counts, dtype=np.float64).sum(0)
    return float(_ratio(sums / SURE_UNIT - right, pixels))


def _errors(confusion: np.ndarray) -> np.ndarray:
    counts = _checked(confusion)
    return np.asarray(counts.sum() - np.trace(counts))


def _checked(confusion: np.ndarray) -> np.ndarray:
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"a confusion matrix is (C, C) of whole numbers, not {counts.shape} of {counts.dtype}")
    if (counts < 0).any():
        raise ValueError("a confusion matrix holds counts, and a count is not negative")
    return counts.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    ratio: np.ndarray = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio
