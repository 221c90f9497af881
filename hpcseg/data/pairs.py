"""Slices and their labels, paired by number, and what is done with a pair by whichever process gets it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.classes import MOST_CLASSES, Classes, outside
from hpcseg.data.encode import EncodedLabel, GreyValues, encode_label, grey_values, label_sha256, pixels_sha256
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Faults, Reading, Source, as_grey_values, as_labels, keep, size_in_words


@dataclass(frozen=True)
class Pairs:
    """Grey values and labels of the same slices, in the order of their numbers."""

    images: Source
    labels: Source
    notes: tuple[str, ...] = ()
    """What was passed over or applied in either, and which slices were left out, a sentence each."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice) -> Pairs:
        """Some of them."""
        indices = range(len(self))[chosen]
        return Pairs(keep(self.images, indices), keep(self.labels, indices))


def find_pairs(images: Path, labels: Path, how: Reading = Reading()) -> Pairs:  # noqa: B008
    """Image and label of the same number, by ascending number; slices without a label are left out.

    Args:
        images: any source of slices.
        labels: the same; of names that images have too, the number is that of the image. A folder may have files for
            some of the slices only.
        how: what the files do not say.

    Raises:
        DatasetError: a label has no image, the shapes differ, or what `open_source` refuses; naming the files.
        ConfigError: as `open_source`.
    """
    grey = as_grey_values(open_source(images, how))
    known = {Path(name).stem: number for name, number in zip(grey.names, grey.numbers, strict=True)}
    marks = as_labels(open_source(labels, how.of_labels(), known=known if grey.form == "folder" else None))
    faults = Faults(images)
    _same_shape(grey, Faults(images))
    _same_shape(marks, Faults(labels))
    place = {number: index for index, number in enumerate(marks.numbers)}
    there = set(grey.numbers)
    strays = [index for index, number in enumerate(marks.numbers) if number not in there]
    labelled = [index for index, number in enumerate(grey.numbers) if number in place]
    # A stack has no gaps, so one with fewer slices than its images says nothing about which they are of.
    if strays or marks.form != "folder":
        for name, number in zip(grey.names, grey.numbers, strict=True):
            if number not in place:
                faults.add(f"{name} (number {number}) has no label")
    for index in strays:
        faults.add(f"label {marks.names[index]} (number {marks.numbers[index]}) has no image")
    if grey.shapes[0] != marks.shapes[0]:
        sizes = f"images are {size_in_words(grey.shapes[0])}, labels {size_in_words(marks.shapes[0])}"
        faults.add(f"{sizes} pixels ({labels / marks.names[0]})")
    if grey.orientation != marks.orientation:
        faults.add(
            f"the headers say that images lie in Orientation {grey.orientation} and labels in {marks.orientation}. "
            "Take both as they are shown, or as they are stored: --pixels shown or --pixels stored"
        )
    faults.raise_if_any()
    notes = dict.fromkeys((*grey.notes, *marks.notes))
    if left_out := len(grey) - len(labelled):
        first = next(index for index, number in enumerate(grey.numbers) if number not in place)
        example = f"{grey.names[first]} (number {grey.numbers[first]})"
        notes[f"{left_out} of {len(grey)} slices have no label and are left out, such as {example}."] = None
        if grey.form != "folder":
            notes[f"slices of {images.name} are numbered from {how.first}; --first says another number."] = None
    in_order = [place[grey.numbers[index]] for index in labelled]
    return Pairs(keep(grey, labelled), keep(marks, in_order), tuple(notes))


def _same_shape(source: Source, faults: Faults) -> None:
    for name, shape in zip(source.names, source.shapes, strict=True):
        if shape != source.shapes[0]:
            faults.add(
                f"{name} is {size_in_words(shape)} pixels, but {source.names[0]} is {size_in_words(source.shapes[0])}"
            )
    faults.raise_if_any()


@dataclass(frozen=True)
class Packing:
    """Reads a slice and its label, and makes of them what is written; a label of None has unknown values."""

    pairs: Pairs
    classes: Classes

    def __call__(self, index: int) -> tuple[np.ndarray, GreyValues, EncodedLabel | None]:
        """Of a slice; its grey values are the first."""
        pixels, marked = self.pairs.images.read(index), self.pairs.labels.read(index)
        missing = outside(pixels)
        if missing is not None and missing.all():
            images = self.pairs.images
            raise DatasetError(
                f"{images.path}: {images.names[index]} holds nothing but NaN. Leave it and its label out."
            )
        return pixels, grey_values(pixels), encode_label(marked, self.classes, missing)


@dataclass(frozen=True)
class Hashing:
    """SHA-256 of the grey values and of the label of a slice, as they would be packed."""

    pairs: Pairs
    classes: Classes

    def __call__(self, index: int) -> tuple[str, str | None]:
        """Of a slice; that of a label with strays is None."""
        pixels = self.pairs.images.read(index)
        marked = self.pairs.labels.read(index)
        indices = self.classes.indices(marked, outside(pixels))
        return pixels_sha256(pixels), None if indices is None else label_sha256(indices, self.classes, marked.dtype)


@dataclass(frozen=True)
class LabelValues:
    """The values of a label where its image has grey values; of more than classes may be, some.

    Quicker than sorting the pixels, where they are few.
    """

    pairs: Pairs

    def __call__(self, index: int) -> list[int]:
        """Of a slice."""
        label, images = self.pairs.labels.read(index), self.pairs.images
        missing = outside(images.read(index)) if images.dtype.kind == "f" else None
        left, found = (label.ravel() if missing is None else label[~missing]), list[int]()
        while left.size and len(found) <= MOST_CLASSES:
            found.append(int(left[0]))
            left = left[left != left[0]]
        return found


@dataclass(frozen=True)
class Decoding:
    """Reads a slice and its label and drops them."""

    pairs: Pairs

    def __call__(self, index: int) -> int:
        """Bytes of a slice and its label."""
        return self.pairs.images.read(index).nbytes + self.pairs.labels.read(index).nbytes
