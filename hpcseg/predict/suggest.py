"""Slices and models in, the slices out that are to be labelled next: of those that the models know least about."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
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
    """(N,) float64 of every slice: the mean of the entropy over its pixels inside, as a share of the largest
    there is."""
    labelled: tuple[str, ...]
    """Names of those that the models were trained or tested on, also of those between slices that are every N-th."""


def suggest(
    prediction: Prediction,
    count: int,
    *,
    labelled: Mapping[str, int],
    on_slice: Callable[[int, int], None] = lambda *_: None,
) -> Suggestion:
    """Segment all slices and choose some of those that have no labels.

    Args:
        prediction: from `request.in_memory`, with the uncertainty among its wishes, as float16. Of several models it is
            the entropy of their mean, which is large as well where each is sure of something else.
        count: of slices to choose; fewer where fewer are without labels.
        labelled: numbers of the slices that have labels, by the SHA-256 of their pixels, as a packed file has them.
            Where the volume is every N-th slice, those between are known by both.
        on_slice: told how many slices of how many are segmented.

    Raises:
        ConfigError: all slices have labels.
        DatasetError, HpcsegError: as `work.segment`.
    """
    volume, known, numbers = prediction.volume, set[int](), set(labelled.values())

    def decode(index: int) -> np.ndarray:
        pixels = volume.read(index)
        if pixels_sha256(pixels) in labelled:
            known.add(index)
        return pixels

    uncertainty, empty = np.zeros(len(volume)), set[int]()
    for layers, result in segment(replace(prediction, volume=replace(volume, decode=decode))):
        inside, layer = sum(result.counts), layers["uncertainty"]
        if not inside:
            empty.add(result.index)
        # Pixels outside, of which there are layer.size - inside, have a 1 in the layer.
        uncertainty[result.index] = (layer.sum(dtype=np.float64) - (layer.size - inside)) / max(1, inside)
        on_slice(result.index + 1, len(volume))
    if len(known) == len(volume):
        which = "slice" if volume.whole is None else f"of the {len(volume)} slices looked at"
        raise ConfigError(f"{volume.path}: each {which} has labels, so that there is none to choose.")
    if len(known | empty) == len(volume):
        raise ConfigError(
            f"{volume.path}: the slices without labels have no grey values, so that there is none to choose."
        )
    count = min(count, len(volume) - len(known | empty))
    whole = volume.whole or volume
    between = [
        place
        for place, number in enumerate(whole.numbers)
        if place % volume.every and number in numbers and pixels_sha256(whole.read(place)) in labelled
    ]
    taken = [*known, *(place / volume.every for place in between)]
    places = sorted([*map(volume.place, known), *between])
    return Suggestion(
        tuple(pick(uncertainty, taken, count, empty)), uncertainty, tuple(whole.names[place] for place in places)
    )


def pick(uncertainty: np.ndarray, taken: Sequence[float], count: int, empty: Container[int] = frozenset()) -> list[int]:
    """One slice after the other, the most uncertain of those that are far from all that are taken.

    Neighbours are nearly the same picture, so a second one of them would teach little. Far is half of the distance
    that all would have if they were evenly spaced, and half of that again as often as no slice is left.

    Args:
        uncertainty: (N,) of each slice, in the order of the stack.
        taken: indices that are not to be chosen, or places between two.
        count: to choose, at most the slices that are left.
        empty: indices that are not to be chosen either, and keep no other away.

    Returns:
        Indices in the order in which they were chosen.
    """
    chosen: list[int] = []
    order = [index for index in np.argsort(-uncertainty, kind="stable").tolist() if index not in empty]
    gap = len(uncertainty) / (2 * (len(taken) + count))
    while len(chosen) < count:
        for index in order:
            if len(chosen) < count and all(abs(index - other) > gap for other in (*taken, *chosen)):
                chosen.append(index)
        gap /= 2
    return chosen
