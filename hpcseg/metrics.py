"""Ratios of a confusion matrix. numpy only, so that a report needs no torch.

A confusion matrix is (C, C), whole numbers, rows true classes and columns predicted ones. A class that neither the
labels nor the predictions hold has no ratio: it is NaN, and means leave it out. Counting it as 0 or as 1 would make
a mean depend on what the test set happens to lack.
"""

from __future__ import annotations

import numpy as np


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
