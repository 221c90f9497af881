"""Reading slices and nothing else, as a process of the bench of pack does it. Light: the process imports it."""

from __future__ import annotations

from hpcseg.data.pairs import Pair


def decode(pair: Pair) -> int:
    """Read a slice and its label and drop them; returns their bytes."""
    return sum(page.read().nbytes for page in pair)
