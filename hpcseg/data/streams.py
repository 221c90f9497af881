"""The random numbers of an experiment: one stream for each purpose and key, and nothing else to draw from.

A stream is a function of its purpose and its key, so what is drawn is the same whatever the batch size, the number of
ranks, the device, or what else is drawn.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_WORD = 2**32


class Purpose(IntEnum):
    """What is drawn, with what the stream's key holds. The numbers are part of the experiment: never used again."""

    TRAINING_NOISE = 1
    """Of a tile, once for all epochs: seed, slice's number, y, x."""
    TEST_NOISE = 2
    """Of a tile: the evaluation's seed, slice's number, y, x."""
    TRAINING_NOISE_OF_EPOCH = 3
    """Of a tile in an epoch: seed, slice's number, y, x, epoch."""
    MIXED_TEST_NOISE = 4
    """Of a tile in the test set of clean and noisy tiles: the evaluation's seed, slice's number, y, x."""
    SPLIT = 5
    """The three sets: the split's seed."""
    TRAINING_SLICES = 6
    """Some of the slices of the training set: the split's seed."""
    EPOCH_ORDER = 7
    """In which the training tiles come: seed, epoch."""
    EPOCH_SYMMETRIES = 8
    """How the training tiles are moved: seed, epoch."""
    LABEL_SHARE = 9
    """Which squares of a slice keep their labels: the split's seed, slice's number."""
    EPOCH_EXPOSURE = 10
    """How a training tile is exposed in an epoch: seed, slice's number, y, x, epoch."""


def stream(purpose: Purpose, *key: int) -> np.random.Generator:
    """The generator for a purpose and a key of whole numbers of 64 bits; a slice's number may be below 0."""
    # Two words each, since numpy would take 2**32 for (0, 1) and drop zeros at the end.
    words = [word for part in key for word in (int(part) % _WORD, int(part) % _WORD**2 // _WORD)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([purpose, *words])))
