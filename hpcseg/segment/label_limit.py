"""Neighbouring labelled slices in, about how many pixels any model can get right out.

Neighbouring slices are nearly the same picture. Where their grey values are the same to the noise, a function of the
picture gives both the same class; where their labels differ there, at least one of them is not what such a function
says. So of pixels that have not changed, half of the share with another label is out of a model's reach, as far as the
labels of two slices err independently. It is an estimate and no bound: labels that err alike in both slices do not
show, and a picture that has changed by less than the noise may still tell.

Pixels are looked at by their distance from a label's edge, since nearly all that disagrees is there. "Has not changed":
the root mean square difference of the 5 x 5 pixels round it is no more than what half of the pixels away from any edge
have, which is noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.store import DatasetInfo, read_slices
from hpcseg.segment.edges import BANDS, edge_bands

_WINDOW = 5
# Of a larger stack evenly spaced pairs are taken.
_PIXELS = 2**27
# Shares of the span of grey values, between which changes are told apart.
_CHANGES = np.geomspace(1e-4, 1.0, 257)
# At an edge, of those that have not changed: of fewer the share with another label is chance.
_FEWEST_PIXELS = 1000


@dataclass(frozen=True)
class LabelLimit:
    """What the labels allow."""

    right: float
    """About the share of pixels that any model can get right."""
    pairs: int
    """Of neighbouring slices that were compared."""
    unchanged_below: float
    """In counts: what differs by less has not changed."""
    disagree: tuple[float, ...]
    """Of such pixels the share with another label, by the band of `edge_bands`."""


def label_limit(info: DatasetInfo) -> LabelLimit | None:
    """How right a model can be by the labels of a packed file; None where they cannot tell.

    That takes labelled slices that are neighbours, and alike, whose labels have edges.

    Raises:
        DatasetError: the file cannot be read.
    """
    pairs = np.flatnonzero(np.diff(info.numbers) == 1)
    if not len(pairs) or (info.alike_slices is not None and info.alike_slices < 2):
        return None
    some = pairs[evenly(len(pairs), max(1, _PIXELS // (info.shape[1] * info.shape[2])))]
    changes = torch.from_numpy(_CHANGES * (info.grey.high - info.grey.low)).float()
    counts = np.sum([_count(info, int(index), changes) for index in some], axis=0)
    return _limit(counts, changes.numpy(), len(some))


def _count(info: DatasetInfo, index: int, changes: torch.Tensor) -> np.ndarray:
    """(BANDS, changes + 1, 2) int64 of a slice and the next: pixels by distance and change, and those that disagree."""
    images, classes = read_slices(info.path, index, index + 2)
    grey, labels = torch.from_numpy(images.astype(np.float32)), torch.from_numpy(classes.astype(np.int64))
    squares = (grey[1] - grey[0]).square()[None, None]
    change = avg_pool2d(squares, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)[0, 0].sqrt()
    known = (labels != IGNORED).all(0) & change.isfinite()
    places = edge_bands(labels[0]) * (len(changes) + 1) + torch.bucketize(change, changes)
    kinds = BANDS * (len(changes) + 1)
    found = [torch.bincount(places[of], minlength=kinds) for of in (known, known & (labels[0] != labels[1]))]
    return torch.stack(found, 1).view(BANDS, -1, 2).numpy()


def _limit(counts: np.ndarray, changes: np.ndarray, pairs: int) -> LabelLimit | None:
    away = counts[-1, :, 0].cumsum()
    # Of what lies above the last there is no upper end.
    place = int(np.searchsorted(away, away[-1] / 2)) if away[-1] else len(changes)
    if place >= len(changes):
        return None
    pixels, disagree = (counts[:, : place + 1, which].sum(1) for which in (0, 1))
    if pixels[0] < _FEWEST_PIXELS:
        return None
    shares = disagree / np.maximum(pixels, 1)
    of_band = counts[..., 0].sum(1) / counts[..., 0].sum()
    return LabelLimit(1 - float(of_band @ shares) / 2, pairs, float(changes[place]), tuple(shares.tolist()))
