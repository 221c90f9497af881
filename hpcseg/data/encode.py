"""A slice and its label in, what the packed file holds of them out: compressed chunks, hashes, counts. No h5py."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcseg.data.classes import Classes, outside, value_table
from hpcseg.data.grey import GreyCounts, border_mask
from hpcseg.data.likeness import grey_points

COMPRESSION_LEVEL = 1
"""As the file names it; what is looked for are runs, of which labels are made, and no longer patterns."""
_LABEL_ROWS = 64
_COUNTED_ROWS = 128  # at a time, since counting takes four times the memory of what is counted


@dataclass(frozen=True)
class Encoded:
    """What is written of a slice and its label beside the grey values."""

    chunks: list[bytes]
    """Compressed class indices, from the top, so many rows at a time as `label_rows` says."""
    row: dict[str, Any]
    """Of the table of the packed file, by the names of `store.DatasetInfo`: all that the pixels alone tell."""
    counts: tuple[np.ndarray, np.ndarray]
    """Grey values without the border, as `GreyCounts.parts`."""
    points: np.ndarray
    """As `likeness.grey_points`."""


def label_rows(height: int) -> int:
    """Rows of a chunk of labels, which is as wide as they are."""
    return min(_LABEL_ROWS, height)


def encode(image: np.ndarray, label: np.ndarray, classes: Classes) -> Encoded | None:
    """All of packing a slice that needs no file; None if the label has a value that is neither of a class nor ignored.

    Args:
        image: (H, W) grey values, of which one at least is not NaN.
        label: (H, W) original label values.
        classes: of the data set.
    """
    indices = classes.indices(label, outside(image))
    if indices is None:
        return None
    rows, (height, width) = label_rows(len(image)), image.shape
    whole_chunks = np.zeros((-(-height // rows) * rows, width), dtype=np.uint8)
    whole_chunks[:height] = indices
    # A pass per class is quicker than counting all at once, which makes eight bytes of each pixel.
    per_class = np.array([np.count_nonzero(indices == index) for index in range(len(classes))])
    grey, border = GreyCounts(image.dtype), border_mask(image)
    value = 0.0 if border is None else float(image[0, 0])
    for top in range(0, height, _COUNTED_ROWS):
        part = slice(top, top + _COUNTED_ROWS)
        grey.add(image[part] if border is None else image[part][~border[part]])
    row = {
        "image_sha256": pixels_sha256(image),
        "label_sha256": label_sha256(indices, classes, label.dtype),
        "class_counts": per_class,
        "grey_min": np.fmin.reduce(image, axis=None),
        "grey_max": np.fmax.reduce(image, axis=None),
        "zero_pixels": grey.of(0.0),
        "border_value": value,
        "border_pixels": 0 if border is None else np.count_nonzero(border),
        "ignored_pixels": indices.size - per_class.sum(),
    }
    chunks = [_compress(whole_chunks[top : top + rows]) for top in range(0, height, rows)]
    return Encoded(chunks, row, grey.parts(), grey_points(image, None if border is None else value))


def label_sha256(indices: np.ndarray, classes: Classes, dtype: np.dtype) -> str:
    """SHA-256 (hex) of class indices (H, W) as the label values of a type that stand for them."""
    return pixels_sha256(value_table(classes.values, classes.ignored, dtype)[indices])


def pixels_sha256(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of an array's values, row by row, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data).hexdigest()


def _compress(classes: np.ndarray) -> bytes:
    # Smaller, and in less time, than zlib's own way for this level.
    stream = zlib.compressobj(COMPRESSION_LEVEL, strategy=zlib.Z_RLE)
    return stream.compress(classes.data) + stream.flush()
