"""Contenders in, medians and ratios out: they take turns in one process, so that a drifting machine cancels out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Piece = Callable[[], float]
"""Does a piece of work of half a second or so; returns units per second (tiles, bytes, operations)."""


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

    def spread(self, name: str) -> float:
        """Distance between the quartiles of a contender, as a share of its median; 0 for fewer than three rounds."""
        rates = self.rounds[name]
        if len(rates) < 3:
            return 0.0
        low, _, high = statistics.quantiles(rates, n=4)
        return (high - low) / self.median(name)


def take_turns(
    contenders: Mapping[str, Piece], *, rounds: int, on_round: Callable[[int, int], None] = lambda *_: None
) -> Rates:
    """Let every contender do its piece once per round, and one round more before, which does not count.

    Args:
        contenders: by name.
        rounds: that count, at least 1.
        on_round: told how many rounds of how many are done.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        # Each goes first in turn: who follows whom decides what is left in the caches.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rate = contenders[name]()
            if number:
                rates[name].append(rate)
        on_round(number + 1, rounds + 1)
    return Rates({name: tuple(found) for name, found in rates.items()})


def rate(units: float, work: Callable[[], object]) -> float:
    """Units per second of one call that does so many units."""
    started = time.perf_counter()
    work()
    return units / (time.perf_counter() - started)
