"""A packed file in, whether its slices have padded borders, and whether models learn from them, out."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.grey import border_mask
from hpcseg.data.store import DatasetInfo, read_slices

Border = Literal["none", "labelled", "ignored"]

_LOOKED_AT = 8
# Of the labelled share elsewhere: a label's rim reaches a little beyond the field of view.
_HARDLY = 0.05


def border_of(info: DatasetInfo) -> Border:
    """Whether slices of a packed file have padded borders, and whether somebody has labelled these.

    They are, if about as much of them is labelled as of all else, which of strokes is little: some slices tell it.

    Raises:
        DatasetError: as `read_slices`.
    """
    padded = np.flatnonzero(info.border_pixels)
    if not len(padded):
        return "none"
    pixels, labelled = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)  # elsewhere, on the border
    for index in padded[evenly(len(padded), _LOOKED_AT)].tolist():
        (image,), (classes,) = read_slices(info.path, index, index + 1)
        if (mask := border_mask(image)) is not None:
            pixels += np.bincount(mask.ravel(), minlength=2)
            labelled += np.bincount(mask[classes != IGNORED], minlength=2)
    elsewhere, on_border = labelled / np.maximum(1, pixels)
    return "labelled" if on_border > _HARDLY * elsewhere else "ignored"
