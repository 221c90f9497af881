"""What the tests of this folder read a source by."""

from __future__ import annotations

import numpy as np

from hpcseg.slices.source import Source


def read_all(source: Source) -> np.ndarray:
    """(N, H, W) of all its slices."""
    return np.stack([source.read(index) for index in range(len(source))])
