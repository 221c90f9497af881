"""Contenders in, medians and ratios out: they take turns in one process, so that a drifting machine cancels out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Piece = Callable[[int], float]
"""Does some steps of a work; returns units per second (tiles, bytes, operations)."""


@dataclass(frozen=True)
class Rates:
    """What the contenders of one measurement did, round by round."""

    rounds: dict[str, tuple[float, ...]]
    """Units per second of each contender in each round."""

    def median(self, name: str) -> float:
        """Units per second."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as another: the median of the rounds' ratios, each within seconds."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True))

    def quartile_distance(self, name: str) -> float:
        """Distance between the quartiles of a contender, as a share of its median; 0 for fewer than three rounds."""
        rates = self.rounds[name]
        if len(rates) < 3:
            return 0.0
        low, _, high = statistics.quantiles(rates, n=4)
        return (high - low) / self.median(name)


def take_turns(contenders: Mapping[str, Piece], *, seconds: float, rounds: int) -> Rates:
    """Let every contender do a piece per round.

    Args:
        contenders: by name.
        seconds: that a piece takes, about; one step, if that takes longer. How many steps these are is found out first,
            in pieces that do not count.
        rounds: at least 1.
    """
    counts = {name: _steps_of(piece, seconds) for name, piece in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        # Each goes first in turn: who follows whom decides what is left in the caches.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(contenders[name](counts[name]))
    return Rates({name: tuple(found) for name, found in rates.items()})


def _steps_of(piece: Piece, seconds: float) -> int:
    started = time.perf_counter()
    piece(1)  # the first of all loads and allocates
    if time.perf_counter() - started > 10 * seconds:
        return 1
    steps = 1
    while True:
        started = time.perf_counter()
        piece(steps)
        took = time.perf_counter() - started
        if took > seconds / 3:
            return max(1, round(steps * seconds / took))
        steps *= 2


def rate(units: float, work: Callable[[], object]) -> float:
    """Units per second of one call that does so many units."""
    started = time.perf_counter()
    work()
    return units / (time.perf_counter() - started)
