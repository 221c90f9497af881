"""A packed file in, a picture of some of its slices with their labels over them out."""

from __future__ import annotations

from pathlib import Path

from hpcseg import sheet
from hpcseg.data.evenly import evenly
from hpcseg.data.store import DatasetInfo, read_slices
from hpcseg.files import left_of, remove_left, write_bytes


def sheet_file(packed: Path) -> Path:
    """Where the contact sheet of a packed file is: beside it."""
    return packed.with_name(f"{packed.stem}-sheet.png")


def write_contact_sheet(info: DatasetInfo) -> Path:
    """Write a dozen slices, evenly spread over the stack, each under its number and the names of its two files.

    Raises:
        DatasetError: the file cannot be read.
        HpcsegError: the picture cannot be written.
    """
    slices, step = [], sheet.step(*info.shape[1:])
    for index in evenly(info.shape[0], sheet.MOST_SLICES).tolist():
        title = f"slice {info.numbers[index]}: {info.image_names[index]} | {info.label_names[index]}"
        (image,), (classes,) = read_slices(info.path, index, index + 1, step)
        slices.append(sheet.Seen(title, image, classes))
    shares = info.class_counts.sum(0) / info.class_counts.sum()
    named = [f"{value}: {share:.1%}" for value, share in zip(info.class_values, shares, strict=True)]
    heading = f"{info.path.name}: {len(slices)} of {info.shape[0]} slices, each beside itself with its label over it"
    file = sheet_file(info.path)
    remove_left(left_of(file))
    write_bytes(file, sheet.draw(slices, named, heading))
    return file
