"""Times and sizes of memory as Slurm's users write them in, minutes and GiB out."""

from __future__ import annotations

import math
import re

from hpcseg.errors import ConfigError

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?)?", re.IGNORECASE)
_GIB = {"k": 2**-20, "m": 2**-10, "g": 1, "t": 2**10}
# A year; Slurm's own limit lies far above, and what is above it is a slip.
_MOST_MINUTES = 365 * 24 * 60


def minutes(text: str) -> int:
    """A time limit in whole minutes: "90" (minutes), "2:00:00" (hours first), "1-12", "1-12:30:00" (days first).

    Seconds count as a minute. "2:00" is refused: sbatch takes it for two minutes, and people for two hours.

    Raises:
        ConfigError: it is no such time, or not above 0.
    """
    found = _CLOCK.fullmatch(text.strip())
    days, first, second, third = found.groups() if found else (None, None, None, None)
    two_parts = days is None and second is not None and third is None
    if found is None or two_parts:
        raise ConfigError(
            f'"{text}" {"may be hours or minutes" if two_parts else "is no time limit"}: write minutes as in 90, '
            "hours:minutes:seconds as in 2:00:00, or days before them as in 1-12:00:00."
        )
    clock = [int(part or 0) for part in (first, second, third)]
    if days is None and second is None:
        clock = [0, clock[0], 0]
    whole = (int(days or 0) * 24 + clock[0]) * 60 + clock[1] + math.ceil(clock[2] / 60)
    if not 1 <= whole <= _MOST_MINUTES:
        raise ConfigError(f'"{text}" is {whole} minutes, but a time limit is between 1 minute and a year.')
    return whole


def gibibytes(text: str) -> float:
    """A size of memory in GiB: "16", "16G", "16GiB", "500M", "1.5T"; K, M, G and T are Slurm's, 1024 each.

    Raises:
        ConfigError: it is no such size, or not above 0.
    """
    found = _MEMORY.fullmatch(text.strip())
    size = float(found[1]) * _GIB[(found[2] or "g").lower()] if found else 0.0
    if not 0 < size < math.inf:
        raise ConfigError(f'"{text}" is no size of memory: write GiB as in 16, or with a unit as in 16G, 500M or 1T.')
    return size
