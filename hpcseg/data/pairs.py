"""What is done with a slice and its label, by whichever process gets them: read, hash, encode, write. No h5py here."""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.encode import EncodedLabel, GreyValues, encode_image, encode_label, pixels_sha256
from hpcseg.data.tiff import Page
from hpcseg.files import begin_writing

MOST_CLASSES = 256
Pair = tuple[Page, Page]
_PIECE_BYTES = 2**20  # one call for all of a large slice takes longer on ext4, up to ten times


@dataclass(frozen=True)
class ImageRoom:
    """The part of a file that holds the grey values of all slices, one behind the other."""

    path: Path
    first_byte: int
    slice_bytes: int

    def write(self, index: int, chunks: np.ndarray) -> None:
        """Write a slice; raises OSError. Others may write other slices at the same time."""
        left, offset = chunks.data.cast("B"), self.first_byte + index * self.slice_bytes
        while left:
            written = os.pwrite(self._file.fileno(), left[:_PIECE_BYTES], offset)
            begin_writing(self._file.fileno(), offset, written)
            left, offset = left[written:], offset + written

    @functools.cached_property
    def _file(self) -> io.FileIO:
        # Kept open, since closing a file on NFS waits until the server has all of it.
        return self.path.open("r+b", buffering=0)

    def close(self) -> None:
        """Close the file if this process has written to it."""
        if "_file" in vars(self):
            self._file.close()


@dataclass(frozen=True)
class Packing:
    """Writes grey values where they belong, and returns what is left to write; a label of None has unknown values."""

    images: ImageRoom
    class_values: np.ndarray

    def __call__(self, item: tuple[int, Pair]) -> tuple[GreyValues, EncodedLabel | None]:
        """For a slice of this index."""
        index, (image, label) = item
        pixels, marked = image.read(), label.read()
        chunks, grey = encode_image(pixels)
        self.images.write(index, chunks)
        return grey, encode_label(marked, self.class_values)


def hash_pair(pair: Pair) -> tuple[str, str]:
    """SHA-256 of the grey values and of the label."""
    image, label = pair
    return pixels_sha256(image.read()), pixels_sha256(label.read())


def label_values(page: Page) -> list[int]:
    """The values of a label; of more than classes may be, some. Quicker than sorting the pixels, where they are few."""
    left, found = page.read().ravel(), list[int]()
    while left.size and len(found) <= MOST_CLASSES:
        found.append(int(left[0]))
        left = left[left != left[0]]
    return found
