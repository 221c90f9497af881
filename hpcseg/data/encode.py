"""A slice and its label in, what the packed file holds of them out: compressed chunks, hashes, counts. No h5py."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from hpcseg.data.classes import IGNORED, Classes, value_table
from hpcseg.data.grey import GreyCounts, border
from hpcseg.data.likeness import grey_points

COMPRESSION_LEVEL = 1
"""As the file names it; what is looked for are runs, of which labels are made, and no longer patterns."""
_LABEL_ROWS = 64
_COUNTED_ROWS = 128  # at a time, since counting takes four times the memory of what is counted


@dataclass(frozen=True)
class GreyValues:
    """What the table of a packed file says about the grey values of a slice."""

    sha256: str
    least: float
    largest: float
    counts: tuple[np.ndarray, np.ndarray] | None
    """As `GreyCounts.parts`, without the border; None: added up elsewhere."""
    zeros: int
    """Pixels of the value 0, without the border."""
    border_value: float
    border_pixels: int
    """As `grey.border`."""
    points: np.ndarray | None
    """As `likeness.grey_points`; None: kept elsewhere."""


@dataclass(frozen=True)
class EncodedLabel:
    """The label of a slice, ready to be written."""

    chunks: list[bytes]
    """Compressed class indices, from the top, so many rows at a time as `label_rows` says."""
    sha256: str
    """As `label_sha256`."""
    class_counts: np.ndarray
    """(C,) int64, pixels of each class."""
    ignored: int
    """Pixels of none."""


def label_rows(height: int) -> int:
    """Rows of a chunk of labels, which is as wide as they are."""
    return min(_LABEL_ROWS, height)


def grey_values(image: np.ndarray) -> GreyValues:
    """What the table says of an image (H, W)."""
    counts, (value, pixels) = GreyCounts(image.dtype), border(image)
    for top in range(0, len(image), _COUNTED_ROWS):
        counts.add(image[top : top + _COUNTED_ROWS])
    counts.take_away(value, pixels)
    return GreyValues(
        sha256=pixels_sha256(image),
        least=float(np.fmin.reduce(image, axis=None)),
        largest=float(np.fmax.reduce(image, axis=None)),
        counts=counts.parts(),
        zeros=counts.of(0.0),
        border_value=value,
        border_pixels=pixels,
        points=grey_points(image, value if pixels else None),
    )


def encode_label(label: np.ndarray, classes: Classes, outside: np.ndarray | None = None) -> EncodedLabel | None:
    """All of packing a label that needs no file.

    Args:
        label: (H, W) original values.
        classes: of the data set.
        outside: (H, W) bool, pixels that have no grey value, so that whatever label they have is none; None: no pixel.

    Returns:
        None if the label has a value that is neither of a class nor ignored.
    """
    height, width = label.shape
    rows = label_rows(height)
    indices = classes.indices(label, outside)
    if indices is None:
        return None
    counts = np.bincount(indices.ravel(), minlength=IGNORED + 1)
    whole_chunks = np.zeros((-(-height // rows) * rows, width), dtype=np.uint8)
    whole_chunks[:height] = indices
    return EncodedLabel(
        chunks=[_compress(whole_chunks[top : top + rows]) for top in range(0, height, rows)],
        sha256=label_sha256(indices, classes, label.dtype),
        class_counts=counts[: len(classes)],
        ignored=int(counts[IGNORED]),
    )


def label_sha256(indices: np.ndarray, classes: Classes, dtype: np.dtype) -> str:
    """SHA-256 (hex) of class indices (H, W) as the label values of a type that stand for them."""
    return pixels_sha256(value_table(classes.values, classes.ignored, dtype)[indices])


def pixels_sha256(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of an array's values, row by row, little-endian."""
    return hashlib.sha256(little_endian(pixels)).hexdigest()


def little_endian(pixels: np.ndarray) -> memoryview:
    """The values of an array as the file holds them, row by row."""
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data


def _compress(classes: np.ndarray) -> bytes:
    # Smaller, and in less time, than zlib's own way for this level.
    stream = zlib.compressobj(COMPRESSION_LEVEL, strategy=zlib.Z_RLE)
    return stream.compress(classes.data) + stream.flush()
