"""Some of many things in a row, evenly spaced, where all would take too long."""

from __future__ import annotations

import numpy as np


def evenly(number: int, most: int) -> np.ndarray:
    """(N,) int64, ascending: at most so many of 0 to `number` - 1, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(np.int64))
