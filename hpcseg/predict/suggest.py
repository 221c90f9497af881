"""Slices and models in, the slices out that are to be labelled next: of those that the models know least about."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import numpy as np

from hpcseg.data.encode import pixels_sha256
from hpcseg.errors import ConfigError
from hpcseg.predict.request import Prediction
from hpcseg.predict.work import segment


@dataclass(frozen=True)
class Suggestion:
    """What is to be labelled next, by indices of the volume's slices."""

    picks: tuple[int, ...]
    """The least known first."""
    uncertainty: np.ndarray
    """(N,) float64 of every slice: the mean over its pixels of the entropy, as a share of the largest there is."""
    labelled: tuple[int, ...]
    """Those that the models were trained or tested on."""


def suggest(
    prediction: Prediction,
    count: int,
    *,
    labelled: Container[str],
    on_slice: Callable[[int, int], None] = lambda *_: None,
) -> Suggestion:
    """Segment all slices and choose some of those that have no labels.

    Args:
        prediction: from `request.in_memory`, with the uncertainty among its wishes, as float16. Of several models it is
            the entropy of their mean, which is large as well where each is sure of something else.
        count: of slices to choose.
        labelled: SHA-256 of the pixels of slices that have labels, as a packed file has them.
        on_slice: told how many slices of how many are segmented.

    Raises:
        ConfigError: fewer slices are without labels.
        DatasetError, HpcsegError: as `work.segment`.
    """
    volume, known = prediction.volume, set[int]()

    def decode(index: int) -> np.ndarray:
        pixels = volume.read(index)
        if pixels_sha256(pixels) in labelled:
            known.add(index)
        return pixels

    uncertainty = np.zeros(len(volume))
    for layers, result in segment(replace(prediction, volume=replace(volume, decode=decode))):
        inside, layer = sum(result.counts), layers["uncertainty"]
        # Pixels without a grey value, of which there are layer.size - inside, have a 1 in the layer.
        uncertainty[result.index] = (layer.sum(dtype=np.float64) - (layer.size - inside)) / max(1, inside)
        on_slice(result.index + 1, len(volume))
    if count > len(volume) - len(known):
        raise ConfigError(
            f"{volume.path} has {len(volume)} slices, of which {len(known)} have labels, so {count} cannot be chosen. "
            "Ask for fewer."
        )
    taken = sorted(known)
    return Suggestion(tuple(pick(uncertainty, taken, count)), uncertainty, tuple(taken))


def pick(uncertainty: np.ndarray, taken: list[int], count: int) -> list[int]:
    """One slice after the other, the most uncertain of those that are far from all that are taken.

    Neighbours are nearly the same picture, so a second one of them would teach little. Far is half of the distance
    that all would have if they were evenly spaced, and half of that again as often as no slice is left.

    Args:
        uncertainty: (N,) of each slice, in the order of the stack.
        taken: indices that are not to be chosen.
        count: to choose, N - len(taken) at most.

    Returns:
        Indices in the order in which they were chosen.
    """
    chosen: list[int] = []
    order = np.argsort(-uncertainty, kind="stable").tolist()
    gap = len(uncertainty) // (2 * (len(taken) + count))
    while len(chosen) < count:
        for index in order:
            if len(chosen) < count and all(abs(index - other) > gap for other in (*taken, *chosen)):
                chosen.append(index)
        gap //= 2
    return chosen
