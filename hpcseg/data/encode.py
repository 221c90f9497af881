"""A slice and its label in, what the packed file holds of them out: compressed chunks, hashes, counts. No h5py."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

CHUNK = 128
"""Edge of a chunk in pixels, unless a slice is smaller: one tile costs one chunk."""
COMPRESSION_LEVEL = 1
"""As the file names it; what is looked for are runs, of which labels are made, and no longer patterns."""


@dataclass(frozen=True)
class GreyValues:
    """What the table of a packed file says about the grey values of a slice."""

    sha256: str
    least: float
    largest: float


@dataclass(frozen=True)
class EncodedLabel:
    """The label of a slice, ready to be written."""

    chunks: list[bytes]
    """Compressed class indices of every chunk, row by row."""
    sha256: str
    """With its original values."""
    class_counts: np.ndarray
    """(C,) int64, pixels of each class."""


def encode_image(image: np.ndarray) -> tuple[np.ndarray, GreyValues]:
    """Chunks of grey values (H, W), (chunks, height, width) in little-endian order, and what is to be known of them."""
    chunks = _chunks(image.astype(image.dtype.newbyteorder("<"), copy=False), image.shape)
    return chunks, GreyValues(sha256=pixels_sha256(image), least=float(image.min()), largest=float(image.max()))


def encode_label(label: np.ndarray, values: np.ndarray) -> EncodedLabel | None:
    """All of packing a label that needs no file.

    Args:
        label: (H, W) original values.
        values: (C,) original values, ascending, of class 0, 1, ...

    Returns:
        None if the label has a value that is not among `values`.
    """
    counts = np.zeros(len(values), dtype=np.int64)
    compressed = []
    # In strips that stay in the processor's cache.
    for top in range(0, label.shape[0], CHUNK):
        classes = _classify(label[top : top + CHUNK], values, counts)
        compressed += [_compress(chunk) for chunk in _chunks(classes, label.shape)]
    if counts.sum() != label.size:
        return None
    return EncodedLabel(chunks=compressed, sha256=pixels_sha256(label), class_counts=counts)


def pixels_sha256(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of an array's values, row by row, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data).hexdigest()


def chunk_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a chunk of slices (H, W)."""
    return min(CHUNK, shape[0]), min(CHUNK, shape[1])


def _compress(chunk: np.ndarray) -> bytes:
    # Smaller, and in less time, than zlib's own way for this level.
    stream = zlib.compressobj(COMPRESSION_LEVEL, strategy=zlib.Z_RLE)
    return stream.compress(chunk.data) + stream.flush()


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


def _chunks(pixels: np.ndarray, slice_shape: tuple[int, ...]) -> np.ndarray:
    """Chunks of rows of a slice, (chunks, height, width), as HDF5 stores them: filled up with zeros at the end."""
    height, width = chunk_shape((slice_shape[0], slice_shape[1]))
    rows, columns = -(-pixels.shape[0] // height), -(-pixels.shape[1] // width)
    missing = rows * height - pixels.shape[0], columns * width - pixels.shape[1]
    if any(missing):
        pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1])])
    grid = pixels.reshape(rows, height, columns, width).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(rows * columns, height, width)
