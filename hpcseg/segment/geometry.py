"""Slices of any size, cut into tiles that a U-Net takes and put together again without seams. No files, no torch."""

from __future__ import annotations

import math

import numpy as np

MARGIN = 4
"""Pixels around a slice. On the real slices none cost 0.5 % accuracy in the outermost 8 rows; 8 to 32 gave no more."""
_CONVOLUTIONS = 2
"""Of each block; one each of 3 x 3."""


def padded_length(length: int, *, least: int, depth: int) -> int:
    """The length of an axis with its margins, at least `least` pixels, that a U-Net halves `depth` times evenly."""
    multiple: int = 2**depth
    return -(-max(length + 2 * MARGIN, least) // multiple) * multiple


def pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., H, W) to (..., height, width): mirrored at all edges, MARGIN above and left, the rest below and right.

    Zeros, as the network itself pads with, are no grey values, and cost accuracy at the edges.
    """
    missing = [padded - length - MARGIN for padded, length in zip((height, width), image.shape[-2:], strict=True)]
    assert min(missing) >= MARGIN
    channels = [(0, 0)] * (image.ndim - 2)
    return np.pad(image, [*channels, (MARGIN, missing[0]), (MARGIN, missing[1])], mode="reflect")


def cuts(length: int, *, edge: int, depth: int) -> list[tuple[slice, np.ndarray]]:
    """Cover one axis of a padded slice with overlapping tiles whose weights fade smoothly into each other.

    Args:
        length: of the axis, a multiple of 2**depth.
        edge: of a tile in pixels, a multiple of 2**depth, at least two of them; an axis that is shorter is not cut.
        depth: of the U-Net.

    Returns:
        Of each tile where it lies and its weights, float32, which over all tiles add up to 1 on every pixel.
    """
    if length <= edge:
        return [(slice(0, length), np.ones(length, dtype=np.float32))]
    shared = overlap(edge, depth)
    step = edge - shared
    count = 1 + math.ceil((length - edge) / step)
    places = [slice(start, start + edge) for start in (min(at * step, length - edge) for at in range(count))]
    ramp = np.sin(np.pi / 2 * (np.arange(shared) + 0.5) / shared) ** 2
    weights, total = [], np.zeros(length)
    for place in places:
        weight = np.ones(edge)
        if place.start > 0:
            weight[:shared] = ramp
        if place.stop < length:
            weight[edge - shared :] *= ramp[::-1]
        weights.append(weight)
        total[place] += weight
    return [(place, (weight / total[place]).astype(np.float32)) for place, weight in zip(places, weights, strict=True)]


def overlap(edge: int, depth: int) -> int:
    """Pixels that neighbouring tiles share: as far as a U-Net sees to both sides, but at most half a tile."""
    multiple: int = 2**depth
    wanted: int = -(-2 * reach(depth) // multiple) * multiple
    return min(wanted, edge // 2 // multiple * multiple)


def reach(depth: int) -> int:
    """How far from a pixel an input can be that its answer depends on."""
    # Two 3 x 3 convolutions per block see two pixels of their level; a pooling and an up-convolution, one half each.
    down: int = sum(_CONVOLUTIONS * 2**level for level in range(depth + 1))
    up: int = sum(_CONVOLUTIONS * 2**level for level in range(depth))
    pooled: int = 2**depth - 1
    return down + up + pooled
