"""What is done with a slice and its label, by whichever process gets them: read, hash, encode, write. No h5py here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.classes import MOST_CLASSES, outside
from hpcseg.data.encode import (
    EncodedLabel,
    GreyValues,
    encode_label,
    grey_values,
    little_endian,
    pixels_sha256,
    without_outside,
)
from hpcseg.data.tiff import Page
from hpcseg.errors import DatasetError

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
        missing = _outside(image, pixels)
        with self.path.open("r+b") as file:
            file.seek(self.first_byte + index * pixels.nbytes)
            file.write(little_endian(pixels))
        return grey_values(pixels), encode_label(marked, self.class_values, missing)


def _outside(image: Page, pixels: np.ndarray) -> np.ndarray | None:
    """As `classes.outside`; raises DatasetError where nothing is inside."""
    missing = outside(pixels)
    if missing is not None and missing.all():
        raise DatasetError(f"{image.path}: {image.name} holds nothing but NaN. Leave it and its label out.")
    return missing


def hash_pair(pair: Pair) -> tuple[str, str]:
    """SHA-256 of the grey values and of the label."""
    image, label = pair
    pixels = image.read()
    return pixels_sha256(pixels), pixels_sha256(without_outside(label.read(), outside(pixels)))


def label_values(pair: Pair) -> list[int]:
    """The values of a label where its image has grey values; of more than classes may be, some.

    Quicker than sorting the pixels, where they are few.
    """
    image, label = pair
    missing = outside(image.read()) if image.dtype.kind == "f" else None
    left, found = (label.read().ravel() if missing is None else label.read()[~missing]), list[int]()
    while left.size and len(found) <= MOST_CLASSES:
        found.append(int(left[0]))
        left = left[left != left[0]]
    return found
