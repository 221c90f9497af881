"""What is done with a slice and its label, by whichever process gets them: read, hash, encode, write. No h5py here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.encode import EncodedLabel, GreyValues, encode_label, grey_values, little_endian, pixels_sha256
from hpcseg.data.tiff import Page

MOST_CLASSES = 256
Pair = tuple[Page, Page]


@dataclass(frozen=True)
class Packing:
    """Writes grey values where they belong, and returns what is left to write; a label of None has unknown values."""

    path: Path
    """Of the file."""
    first_byte: int
    """Where it holds the grey values of all slices, one behind the other."""
    class_values: np.ndarray

    def __call__(self, item: tuple[int, Pair]) -> tuple[GreyValues, EncodedLabel | None]:
        """For a slice of this index; others may be written at the same time. Raises OSError (full disk, quota)."""
        index, (image, label) = item
        pixels, marked = image.read(), label.read()
        with self.path.open("r+b") as file:
            file.seek(self.first_byte + index * pixels.nbytes)
            file.write(little_endian(pixels))
        return grey_values(pixels), encode_label(marked, self.class_values)


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
