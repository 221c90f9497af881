"""A slice and its label in, what the packed file holds of them out: compressed chunks, hashes, counts. No h5py."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from hpcseg.data.grey import GreyCounts, border

CHUNK = 128
"""Edge of a chunk of grey values in pixels, unless a slice is smaller: one tile costs one chunk."""
COMPRESSION_LEVEL = 1
"""As the file names it; what is looked for are runs, of which labels are made, and no longer patterns."""
_LABEL_CHUNK_BYTES = 65_000  # what zlib compresses without moving its window, which takes as long as the rest


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


@dataclass(frozen=True)
class EncodedLabel:
    """The label of a slice, ready to be written."""

    chunks: list[bytes]
    """Compressed class indices, from the top, so many rows at a time as `label_chunk_rows` says."""
    sha256: str
    """With its original values."""
    class_counts: np.ndarray
    """(C,) int64, pixels of each class."""


def chunk_layout(shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns of the chunks of a slice (H, W), and height and width of each."""
    height, width = (min(CHUNK, length) for length in shape)
    return -(-shape[0] // height), -(-shape[1] // width), height, width


def label_chunk_rows(shape: tuple[int, int]) -> int:
    """Rows of a chunk of labels (H, W), which is as wide as they are: more than a tile, but quick to decompress."""
    chunks = -(-shape[0] // max(1, _LABEL_CHUNK_BYTES // shape[1]))
    return -(-shape[0] // chunks)


def encode_image(image: np.ndarray, chunks: np.ndarray) -> GreyValues:
    """All of packing an image that needs no file.

    Args:
        image: (H, W).
        chunks: in the shape of its `chunk_layout`, little-endian; gets the grey values as the file holds them. What
            lies beyond the slice is left alone.
    """
    digest, least, largest = hashlib.sha256(), list[float](), list[float]()
    counts, (value, pixels) = GreyCounts(image.dtype), border(image)
    for strip, row in zip(_strips(image, chunks.shape[2]), chunks, strict=True):
        digest.update(_little_endian(strip))
        least.append(float(strip.min()))
        largest.append(float(strip.max()))
        counts.add(strip)
        _lay_out(strip, row)
    counts.take_away(value, pixels)
    return GreyValues(
        sha256=digest.hexdigest(),
        least=min(least),
        largest=max(largest),
        counts=counts.parts(),
        zeros=counts.of(0.0),
        border_value=value,
        border_pixels=pixels,
    )


def encode_label(label: np.ndarray, values: np.ndarray) -> EncodedLabel | None:
    """All of packing a label that needs no file.

    Args:
        label: (H, W) original values.
        values: (C,) original values, ascending, of class 0, 1, ...

    Returns:
        None if the label has a value that is not among `values`.
    """
    digest, counts, compressed = hashlib.sha256(), np.zeros(len(values), dtype=np.int64), list[bytes]()
    rows = label_chunk_rows((label.shape[0], label.shape[1]))
    for strip in _strips(label, rows):
        digest.update(_little_endian(strip))
        classes = _classify(strip, values, counts)
        compressed.append(_compress(classes, rows))
    if counts.sum() != label.size:
        return None
    return EncodedLabel(chunks=compressed, sha256=digest.hexdigest(), class_counts=counts)


def pixels_sha256(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of an array's values, row by row, little-endian."""
    return hashlib.sha256(_little_endian(pixels)).hexdigest()


def _little_endian(pixels: np.ndarray) -> memoryview:
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data


def _strips(pixels: np.ndarray, rows: int) -> list[np.ndarray]:
    """A slice (H, W) cut into so many rows at a time, which is little enough to stay in the processor's cache."""
    return [pixels[top : top + rows] for top in range(0, len(pixels), rows)]


def _lay_out(strip: np.ndarray, row: np.ndarray) -> None:
    """Copy a strip (up to height, W) into its row of chunks (columns, height, width)."""
    height, width, whole = len(strip), row.shape[2], strip.shape[1] // row.shape[2]
    row[:whole, :height] = strip[:, : whole * width].reshape(height, whole, width).swapaxes(0, 1)
    if whole < len(row):
        row[whole, :height, : strip.shape[1] - whole * width] = strip[:, whole * width :]


def _compress(classes: np.ndarray, rows: int) -> bytes:
    """A strip of class indices, filled up with zeros to so many rows."""
    # Smaller, and in less time, than zlib's own way for this level.
    stream = zlib.compressobj(COMPRESSION_LEVEL, strategy=zlib.Z_RLE)
    missing = bytes((rows - len(classes)) * classes.shape[1])
    return stream.compress(classes.data) + stream.compress(missing) + stream.flush()


def _classify(label: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Class indices, 0 where there is none, and the pixels of each class added to `counts`."""
    classes = np.zeros(label.shape, dtype=np.uint8)
    # A pass per class is quicker than a search per pixel for the few classes that labels have.
    for index, value in enumerate(values):
        here = label == value
        counts[index] += np.count_nonzero(here)
        if index:
            classes += here.view(np.uint8) * np.uint8(index)
    return classes
