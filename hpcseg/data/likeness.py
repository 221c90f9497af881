"""Slices of a stack in, the distance at which they stop being alike out: the gap of a blocked split.

Neighbouring slices of a tomogram are nearly the same picture, so a test beside a training slice tests on what was
trained on. No files here, so that a report can use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

ALIKE = 0.15
"""Two slices are alike while the mean correlation of slices so far apart is this or more.

Below it one foretells less than 3 % (its square) of how the other's grey values vary. The paper's sample comes to it 41
slices apart (0.94 at 3, 0.74 at 10, 0.46 at 20, 0.26 at 30); the 0.04 that it has at 75 it has at 200 as well.
"""
_LARGEST_PART = 10
"""A gap is at most one part in so many of the stack: three gaps leave 70 % of it to the sets."""
_POINTS = 32
_BLOCK = 4
_MOST_SLICES = 1_024  # that are compared, 4 KB each; of a longer stack every second one, or third ...


def grey_points(image: np.ndarray, padding: float | None = None) -> np.ndarray:
    """What is kept of an image to compare it with others.

    Means over squares of 4 x 4 pixels, which noise does not decide, at even distances. Structures smaller than a square
    are lost, and no larger ones, as they would be in a smaller copy of the image.

    Args:
        image: (H, W) grey values.
        padding: the value of its padded border, which a square has that reaches into it; None: it has none.

    Returns:
        (P,) float32, of any size at most 1024.
    """
    places = []
    for length in image.shape:
        edge = min(_BLOCK, length)
        starts = np.linspace(0, length - edge, min(_POINTS, length // edge)).round().astype(np.int64)
        places.append(starts[:, None] + np.arange(edge))
    down, across = places
    squares = image[np.ix_(down.ravel(), across.ravel())].reshape(*down.shape, *across.shape)
    means: np.ndarray = squares.sum(1, dtype=np.float64).sum(2) / (down.shape[1] * across.shape[1])
    if padding is not None:
        means[(squares == padding).any((1, 3))] = padding
    return means.astype(np.float32).ravel()


def step_between_compared(slices: int) -> int:
    """Of a stack of so many slices every how many-th is compared."""
    return max(1, -(-slices // _MOST_SLICES))


def alike_slices(points: np.ndarray, slices: int, *, limits: tuple[float, float], padding: np.ndarray) -> int:
    """How many slices apart the slices of a stack stop being alike.

    The first distance at which the mean of Pearson's correlation over all pairs of slices is below `ALIKE`.

    Args:
        points: (K, P) float32, `grey_points` of every `step_between_compared(slices)`-th slice.
        slices: in the stack, at least 1.
        limits: grey values beyond are taken for these, so that a hot pixel decides nothing.
        padding: (K,) the grey value of each one's padded border, NaN where it has none. What is border in all of them
            makes no two of them alike.

    Returns:
        The distance, at most half of the stack; `slices` where they are alike up to there, and where nothing can be
        told: of a single slice, or of slices with one grey value.
    """
    inside = ~((points == padding[:, None]) | np.isnan(points)).all(0)
    values = np.clip(points[:, inside], *limits).astype(np.float64)
    if values.shape[1] < 2:
        return slices
    # A square that reaches out of the field of view is as the mean of the others.
    missing = np.isnan(values)
    means = np.where(missing, 0.0, values).sum(1, keepdims=True) / np.maximum(1, (~missing).sum(1, keepdims=True))
    values = np.where(missing, means, values)
    values[values.max(1) == values.min(1)] = np.nan  # of a slice of one value nothing can be told
    correlation = np.corrcoef(values)
    for distance in range(1, len(values) // 2 + 1):
        known = np.diagonal(correlation, distance)
        known = known[~np.isnan(known)]
        if known.size and known.mean() < ALIKE:
            return distance * step_between_compared(slices)
    return slices


def usual_step(numbers: np.ndarray) -> int:
    """The usual distance between neighbouring ones of (N,) int64 ascending slice numbers: 10 of every tenth slice."""
    return max(1, int(np.median(np.diff(numbers)))) if len(numbers) > 1 else 1


def alike_numbers(alike: int, numbers: np.ndarray) -> int:
    """How many slice numbers lie between two slices that are not alike: `alike`, where every number is there.

    Of every tenth slice, those that are `alike` slices apart are 10 times as many numbers apart, and that is enough: of
    the numbers between nothing is known. `numbers` are (N,) int64, ascending, of the slices that `alike` was found of.
    """
    return (alike - 1) * usual_step(numbers) + 1


def too_near(sets: Iterable[np.ndarray], alike: int, numbers: np.ndarray, context: int = 0) -> bool:
    """Whether slices of two sets, or inputs of theirs, are no farther apart than slices that are alike.

    Both in packed slices, as `alike` was measured, and in slice numbers: two neighbours with a hole between them are
    far apart, and so are two of a bundle with others between.

    Args:
        sets: indices of the slices of each.
        alike: as `alike_slices` has it.
        numbers: (N,) int64, ascending, of all packed slices.
        context: slices on each side that are inputs as well.
    """
    of = [(index, place) for place, indices in enumerate(sets) for index in indices.tolist()]
    for (before, one), (behind, other) in itertools.pairwise(sorted(of)):
        if one != other:
            last = int(np.searchsorted(numbers, numbers[before] + context, side="right")) - 1
            first = int(np.searchsorted(numbers, numbers[behind] - context))
            apart = int(numbers[first] - numbers[last])
            if first - last < alike and (alike >= len(numbers) or apart < alike_numbers(alike, numbers)):
                return True
    return False


def measured_gap(alike: int, numbers: np.ndarray) -> int:
    """The slice numbers that a blocked split leaves out between two of its sets, where no setting says it.

    They are `alike_numbers` of the slices that are divided, but at most a tenth of the stack, or there would be little
    to train and test on, and at least 1.
    """
    stretch = int(numbers[-1] - numbers[0]) + 1
    return min(alike_numbers(alike, numbers), max(1, stretch // _LARGEST_PART))
