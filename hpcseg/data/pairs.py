"""What is done with a slice and its label, by whichever process gets them: read, hash, encode, write. No h5py here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.encode import EncodedLabel, GreyValues, encode_image, encode_label, pixels_sha256
from hpcseg.data.tiff import Page
from hpcseg.direct import DirectFile, page_aligned

MOST_CLASSES = 256
Pair = tuple[Page, Page]


@dataclass(frozen=True)
class ImageRoom:
    """Where a file holds the grey values of all slices, one behind the other."""

    path: Path
    first_byte: int
    layout: tuple[int, int, int, int]
    """Of the chunks of a slice: rows, columns, height and width of each."""
    dtype: np.dtype
    """As in the file."""

    @functools.cached_property
    def chunks(self) -> np.ndarray:
        """For one slice, in the shape of `layout`: to be filled, then written."""
        return page_aligned(self.layout, self.dtype)

    def write(self, index: int) -> None:
        """Write what is in `chunks`; raises OSError. Others may write other slices at the same time."""
        self._file.write(self.chunks.data.cast("B"), self.first_byte + index * self.chunks.nbytes)

    @functools.cached_property
    def _file(self) -> DirectFile:
        # Kept open, since closing a file on NFS waits until the server has all of it.
        return DirectFile(self.path)

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
        grey = encode_image(pixels, self.images.chunks)
        self.images.write(index)
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
