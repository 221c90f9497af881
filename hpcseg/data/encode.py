"""A slice and its label in, what the packed file holds of them out: compressed chunks, hashes, counts. No h5py."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from hpcseg.data.classes import IGNORED
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
    """With its original values, and 0 where it is outside of the image."""
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


def encode_label(label: np.ndarray, values: np.ndarray, outside: np.ndarray | None = None) -> EncodedLabel | None:
    """All of packing a label that needs no file.

    Args:
        label: (H, W) original values.
        values: (C,) original values, ascending, of class 0, 1, ...
        outside: (H, W) bool, pixels that have no grey value, so that whatever label they have is none; None: no pixel.

    Returns:
        None if the label has a value that is not among `values`.
    """
    height, width = label.shape
    rows = label_rows(height)
    counts = np.zeros(len(values), dtype=np.int64)
    classes = np.zeros((-(-height // rows) * rows, width), dtype=np.uint8)  # of whole chunks
    # A pass per class is quicker than a search per pixel for the few classes that labels have.
    for index, value in enumerate(values):
        here = label == value if outside is None else (label == value) & ~outside
        counts[index] = np.count_nonzero(here)
        classes[:height] += here.view(np.uint8) * np.uint8(index)
    ignored = 0
    if outside is not None:
        ignored, label = int(np.count_nonzero(outside)), without_outside(label, outside)
        classes[:height][outside] = IGNORED
    if counts.sum() + ignored != label.size:
        return None
    chunks = [_compress(classes[top : top + rows]) for top in range(0, height, rows)]
    return EncodedLabel(chunks=chunks, sha256=pixels_sha256(label), class_counts=counts, ignored=ignored)


def without_outside(label: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    """A label (H, W) with 0 in its pixels outside of the image, whatever they were."""
    return label if outside is None else np.where(outside, label.dtype.type(0), label)


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
