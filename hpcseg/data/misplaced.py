"""Labels that fit other slices, or turned ones, better than their own as they are, or none: a note to who packed them.

Numbers that are off by one, a stack in the opposite order, labels that a program has mirrored: a model learns from all
of them, only worse, and the first looks right in a picture of some slices. Those along another axis of a cube, or of
another scan, teach nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.store import DatasetInfo, read_slices

# How many labels are compared, and of each about how many rows and columns.
_MOST_SLICES, _POINTS = 16, 512
# So many agree by chance in one of 256 stacks whose labels fit nothing.
_FEWEST_SLICES = 8
# Neighbours are nearly the same picture: with the paper's labels put off by one, the slices that they were drawn on
# leave 0.81 of what the others do. Where those are other pictures, 0.06.
_OF_NEIGHBOURS, _OF_OTHERS = 0.99, 0.9
# Shares of height and width by which a slice is moved, so that a label of it fits no more. The paper's labels fit their
# slices better than all of these on each of sixteen, also where classes leave 0.997 of the variance, of noise; labels
# of far slices, or with axes exchanged, do on one in four, and on nine of sixteen at most.
_ASIDE = ((1 / 3, 1 / 3), (1 / 2, 1 / 2), (2 / 3, 1 / 3))
_MOST_FIT_NONE = 0.7


class _Other(NamedTuple):
    """What a label may belong to instead: a slice, turned or not."""

    words: str
    why: str
    turn: Callable[[np.ndarray], np.ndarray]
    most: float
    """Of what its own slice leaves: a slice that leaves more fits no better."""
    beside: int = 0
    """How many slices after its own."""
    from_end: bool = False
    """As far from the end of the stack as its own from the beginning."""


_TURNED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored from top to bottom": np.flipud,
    "mirrored from left to right": np.fliplr,
    "turned by half": lambda image: np.rot90(image, 2),
    "turned by a quarter to the left": lambda image: np.rot90(image, 1),
    "turned by a quarter to the right": lambda image: np.rot90(image, 3),
    "transposed": np.transpose,
    "transposed and turned by half": lambda image: np.rot90(image, 2).T,
}
_END, _ORDER = "the slice as far from the other end of the stack", "Is one of the stacks in the opposite order?"
_LIE = "Does a program that saved slices or labels turn them?"
_OTHERS = (
    _Other("the slice after its own", "Are the numbers of the labels too low?", np.asarray, _OF_NEIGHBOURS, 1),
    _Other("the slice before its own", "Are the numbers of the labels too high?", np.asarray, _OF_NEIGHBOURS, -1),
    _Other(_END, _ORDER, np.asarray, _OF_OTHERS, from_end=True),
    *(_Other(f"its own slice, {how},", _LIE, turn, _OF_OTHERS) for how, turn in _TURNED.items()),
    *(_Other(f"{_END}, {how},", f"{_ORDER} {_LIE}", turn, _OF_OTHERS, from_end=True) for how, turn in _TURNED.items()),
)


def misplaced_notes(info: DatasetInfo) -> tuple[str, ...]:
    """A note where each of some labels fits another slice, or its own when it is turned, better than its own, or where
    they fit none.

    It fits the better, the less grey values vary within its classes: compared is the sum of squares that is left there.

    Raises:
        DatasetError: as `read_slices`.
    """
    several = np.flatnonzero((info.class_counts > 0).sum(1) > 1)
    if info.grey.quantiles is None or len(several) < _FEWEST_SLICES:
        return ()
    chosen = several[evenly(len(several), _MOST_SLICES)]
    shares, fit = zip(*(_compared(info, index, info.grey.quantiles) for index in chosen), strict=True)
    found: list[tuple[float, int, _Other]] = []
    for other, of_slices in zip(_OTHERS, zip(*shares, strict=True), strict=True):
        known = [share for share in of_slices if share is not None]
        if len(known) >= _FEWEST_SLICES and max(known) < 1 and np.mean(known) < other.most:
            found.append((float(np.mean(known)), len(known), other))
    if not found and sum(fit) <= _MOST_FIT_NONE * len(fit):
        return (
            f"{len(fit) - sum(fit)} of {len(fit)} labels that were compared fit their own slice no better than when it "
            "is moved by a third or a half of its size. Are they of another scan or another part of it, or do the "
            "slices of one lie along another axis? Look at slices and labels side by side, unless it is texture alone "
            "that tells the classes apart.",
        )
    if not found:
        return ()
    share, number, best = min(found, key=lambda one: one[0])
    return (
        f"each of {number} labels that were compared fits {best.words} better than its own as it is: {share:.0%} of "
        f"the variance of grey values within its classes is left there. {best.why} A model would learn from it all the "
        "same, only worse: look at slices and labels side by side, and pack again.",
    )


def _compared(info: DatasetInfo, index: int, limits: tuple[float, float]) -> tuple[list[float | None], bool]:
    """What each of `_OTHERS` leaves of the variance that a label's own slice leaves; None where there is none. And
    whether the label fits that slice better than where it is moved aside.
    """
    last, step = info.shape[0] - 1, max(1, min(info.shape[1:]) // _POINTS)
    places = [last - index if other.from_end else index + other.beside for other in _OTHERS]
    images = {place: read_slices(info.path, place, place + 1, step) for place in {index, *places} if 0 <= place <= last}
    (own,), (label,) = images[index]

    def share(other: _Other, place: int) -> float | None:
        if place not in images or (other.from_end and place == index):
            return None
        turned = other.turn(images[place][0][0])
        if turned.shape != label.shape:
            return None
        # Of a field of view that lies elsewhere only what both have: less of it would leave less.
        both = (label != IGNORED) & ~np.isnan(own) & ~np.isnan(turned)
        left = _left(own[both], label[both], limits)
        return _left(turned[both], label[both], limits) / left if left else None

    def unexplained(image: np.ndarray) -> float:
        known = (label != IGNORED) & ~np.isnan(image)
        whole = _left(image[known], np.zeros_like(label[known]), limits)
        return _left(image[known], label[known], limits) / whole if whole else 1.0

    aside = (np.roll(own, [int(size * by) for size, by in zip(own.shape, of, strict=True)], (0, 1)) for of in _ASIDE)
    fits = unexplained(own) < min(map(unexplained, aside))
    return [share(other, place) for other, place in zip(_OTHERS, places, strict=True)], fits


def _left(grey: np.ndarray, classes: np.ndarray, limits: tuple[float, float]) -> float:
    """The sum of squares of (P,) grey values within (P,) classes, limits taken for 0 and 1."""
    low, high = limits
    grey = (np.clip(grey.astype(np.float64), low, high) - low) / (high - low or 1)
    sums, pixels = np.bincount(classes, grey), np.bincount(classes)
    return float((grey**2).sum() - (sums**2 / np.maximum(1, pixels)).sum())
