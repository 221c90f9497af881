"""Slices and their labels, paired by number, and what is done with a pair by whichever process gets it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.data.classes import MOST_CLASSES, Classes, outside
from hpcseg.data.encode import Encoded, encode, label_sha256, pixels_sha256
from hpcseg.data.likeness import usual_step
from hpcseg.errors import DatasetError
from hpcseg.slices.calibration import is_as_large
from hpcseg.slices.opening import open_source
from hpcseg.slices.raw import is_raw, without_header, write_raw
from hpcseg.slices.source import Reading, Source, as_grey_values, as_labels, keep, raise_faults, size_in_words
from hpcseg.text import counted

_FAR = 0.5
"""Of a voxel, from which labels are nearer to other pixels."""
# DISPLAY_ORIGIN and the axes of MRC, where pixels are stored as they are shown.
_AS_STORED = ("", "UL", "XYZ")


@dataclass(frozen=True)
class Pairs:
    """Grey values and labels of the same slices, in the order of their numbers."""

    images: Source
    labels: Source
    notes: tuple[str, ...] = ()
    """What was passed over or applied in either, and which slices were left out, a sentence each."""
    step: int = 1
    """From the number of a slice of the images' source to the next one's, also of those that have no label."""

    def __len__(self) -> int:
        return len(self.images)

    def only(self, indices: Iterable[int]) -> Pairs:
        """Those with these indices."""
        chosen = tuple(indices)
        return Pairs(keep(self.images, chosen), keep(self.labels, chosen), step=self.step)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Grey values and label of a slice, (H, W) each; raises DatasetError as `Source.read`."""
        return self.images.read(index), self.labels.read(index)


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
    grey = as_grey_values(open_source(images, how.of_images(is_raw(images))))
    known = {Path(name).stem: number for name, number in zip(grey.names, grey.numbers, strict=True)}
    of_labels = how.of_labels(known if grey.form == "folder" else None, (len(grey), *grey.shapes[0]))
    marks = as_labels(open_source(labels, without_header(labels, of_labels)))
    for source in (grey, marks):
        first, named = source.shapes[0], zip(source.names, source.shapes, strict=True)
        said = f"but {source.names[0]} is {size_in_words(first)}"
        others = [f"{name} is {size_in_words(shape)} pixels, {said}" for name, shape in named if shape != first]
        raise_faults(source.path, others)
    of_number, place = ({number: index for index, number in enumerate(one.numbers)} for one in (grey, marks))
    unlabelled = [f"{grey.names[of_number[number]]} (number {number})" for number in of_number if number not in place]
    strays = [f"{marks.names[place[number]]} (number {number})" for number in place if number not in of_number]
    faults: list[str] = []
    if (grey.path.resolve(), grey.dataset) == (marks.path.resolve(), marks.dataset):
        faults.append("images and labels are the same files; name the labels")
    # A stack has no gaps, so one with fewer slices than its images says nothing about which they are of.
    if unlabelled and not strays and marks.form != "folder":
        faults.append(
            f"{len(unlabelled)} of {len(grey)} slices have no label, such as {unlabelled[0]}; labels of some "
            "slices only go into a folder, each in a file that has the number of its slice"
        )
    faults += [f"label {named} has no image" for named in strays]
    # What may explain the strays goes in front of them, for the list may be cut.
    if len(marks) > len(grey):
        faults.insert(0, f"there are {len(marks)} labels and {counted(len(grey), 'image')}; are they swapped?")
    if strays and "folder" in (grey.form, marks.form) and grey.form != marks.form:
        of = images if grey.form != "folder" else labels
        faults.insert(0, f"the slices of {of.name} are numbered from {how.first}; --first says another number")
    if grey.shapes[0] != marks.shapes[0]:
        sizes = f"images are {size_in_words(grey.shapes[0])}, labels {size_in_words(marks.shapes[0])}"
        faults.append(f"{sizes} pixels ({marks.names[0]} of {labels})")
    if grey.orientation != marks.orientation:
        faults.append(
            f"the headers say that images lie in Orientation {grey.orientation} and labels in {marks.orientation}. "
            "Take both as they are shown, or as they are stored: --pixels shown or --pixels stored"
        )
    if grey.form == marks.form and grey.points_to and marks.points_to and grey.points_to != marks.points_to:
        faults.append(
            f"the axes of the images point to {grey.points_to} and those of the labels to {marks.points_to}. Save "
            "both alike (of NIfTI, nibabel.as_closest_canonical does), or take both as they are stored: --pixels stored"
        )
    alone = grey.turned and not marks.axes, marks.turned and not grey.axes  # by names that the others have not
    may_have_names = {grey.form, marks.form} <= {"hdf5", "zarr"}
    if any(alone) and may_have_names:
        with_names, without = ("images", "labels") if alone[0] else ("labels", "images")
        faults.append(
            f"the axes of the {with_names} are {grey.axes or marks.axes}, and those of the {without} have no names. "
            "Name those as well, or take both as they are stored: --pixels stored"
        )
    raise_faults(images, faults)
    notes = [*grey.notes, *(f"labels: {note}" for note in marks.notes), *_lie_apart(grey, marks)]
    if grey.voxel and marks.voxel and not is_as_large(grey.voxel, marks.voxel):
        notes.append(
            f"voxels of the images are {grey.voxel.text()} and those of the labels {marks.voxel.text()}: were they cut "
            "or binned alike? Those of the images are taken."
        )
    if alone[0] and not may_have_names:
        notes.append(
            f"the images are turned, as the names of their axes ({grey.axes}) say, and the labels have no names: if "
            "they lie as the array is stored, take both so: --pixels stored."
        )
    if marks.lossy:
        notes.append(
            f"the labels are compressed as {marks.lossy}, which may change values: are their classes those that were "
            "drawn? If not, save them without it, or say which values are one class, as --classes "
            '"0-127=pore,128-255=grain".'
        )
    if unlabelled:
        left_out = f"{len(unlabelled)} of {len(grey)} slices have no label and are left out"
        notes.append(f"{left_out}, such as {unlabelled[0]}.")
        if grey.form != "folder":
            notes.append(f"slices of {images.name} are numbered from {how.first}; --first says another number.")
    both = [number for number in of_number if number in place]
    chosen = keep(grey, map(of_number.__getitem__, both)), keep(marks, map(place.__getitem__, both))
    return Pairs(*chosen, tuple(dict.fromkeys(notes)), usual_step(np.array(grey.numbers)))


def _lie_apart(grey: Source, marks: Source) -> list[str]:
    """Notes where headers say that labels lie elsewhere than their images, or those of one say so alone."""
    notes = list[str]()
    if grey.form == marks.form and grey.begins and marks.begins and len(grey.begins) == len(marks.begins):
        steps = np.subtract(marks.begins, grey.begins)
        if (abs(steps) >= _FAR).any():
            notes.append(
                f"by their headers the labels begin {size_in_words(steps.round(2).tolist())} voxels (depth, height, "
                "width) from the images: were both cut and moved alike?"
            )
    for one, what, other, others in ((grey, "images", marks, "labels"), (marks, "labels", grey, "images")):
        alone = other.form != one.form or not other.points_to
        if one.form in ("hdf5", "mrc") and alone and one.points_to not in _AS_STORED:
            notes.append(
                f"a header says that the axes of the {what} point to {one.points_to}, which is passed over, and none "
                f"says so of the {others}: if they lie otherwise, save both alike."
            )
    return notes


@dataclass(frozen=True)
class Pixels:
    """Where the grey values of a packed file lie, one slice behind the other. Can be sent to other processes."""

    path: Path
    first: int
    """The byte at which they begin."""

    def write(self, index: int, pixels: np.ndarray) -> None:
        """Write a slice, (H, W), to its place; raises OSError."""
        with self.path.open("r+b", buffering=0) as file:
            write_raw(file.fileno(), self.first, index, pixels)


# With all but the index in a functools.partial, these are the work of `in_processes`.


def encode_pair(pairs: Pairs, classes: Classes, file: Pixels, index: int) -> Encoded | None:
    """Write the grey values of a slice to their place in a file.

    Returns:
        What else is written of it and of its label; None where the label has a value that no class has.

    Raises:
        DatasetError: they cannot be read, or have no grey value.
        OSError: there is no room on the disk.
    """
    pixels, label = pairs.read(index)
    if pixels.dtype.kind == "f" and np.isnan(pixels).all():
        raise DatasetError(
            f"{pairs.images.path}: {pairs.images.names[index]} holds nothing but NaN. Leave it and its label out."
        )
    file.write(index, pixels)
    return encode(pixels, label, classes)


def hash_pair(pairs: Pairs, classes: Classes, index: int) -> tuple[str, str | None]:
    """SHA-256 (hex) of a slice and of its label, as they would be packed; that of a label with strays is None."""
    pixels, label = pairs.read(index)
    indices = classes.indices(label, outside(pixels))
    return pixels_sha256(pixels), None if indices is None else label_sha256(indices, classes, label.dtype)


def has_label(pairs: Pairs, ignored: Sequence[int], index: int) -> bool:
    """Whether a pixel with a grey value has another label than these."""
    known = ~np.isin(pairs.labels.read(index), ignored)
    if not known.any() or pairs.images.dtype.kind != "f":
        return bool(known.any())
    missing = outside(pairs.images.read(index))
    return missing is None or bool((known & ~missing).any())


def label_values(pairs: Pairs, index: int) -> list[int]:
    """The values of a label where its image has grey values; of more than classes may be, some.

    Quicker than sorting the pixels, where they are few.
    """
    label = pairs.labels.read(index)
    missing = outside(pairs.images.read(index)) if pairs.images.dtype.kind == "f" else None
    left, found = (label.ravel() if missing is None else label[~missing]), list[int]()
    while left.size and len(found) <= MOST_CLASSES:
        found.append(int(left[0]))
        left = left[left != left[0]]
    return found


def drop_pair(pairs: Pairs, index: int) -> int:
    """Bytes of a slice and its label, which are decoded alone: what the bench compares packing with."""
    return sum(pixels.nbytes for pixels in pairs.read(index))
