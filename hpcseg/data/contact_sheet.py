"""A packed file in, a picture of some of its slices with their labels over them out."""

from __future__ import annotations

from pathlib import Path

from hpcseg import sheet
from hpcseg.data.evenly import evenly
from hpcseg.data.store import DatasetInfo, read_thinned
from hpcseg.files import write_bytes


def sheet_file(packed: Path) -> Path:
    """Where the contact sheet of a packed file is: beside it."""
    return packed.with_name(f"{packed.stem}-sheet.png")


def write_contact_sheet(info: DatasetInfo) -> Path:
    """Write a dozen slices, evenly spread over the stack, each under its number and the names of its two files.

    Raises:
        DatasetError: the file cannot be read.
        HpcsegError: the picture cannot be written.
    """
    chosen = evenly(info.shape[0], sheet.MOST_SLICES).tolist()
    step = sheet.step(*info.shape[1:])
    slices = [
        sheet.Seen(
            f"slice {info.numbers[index]}: {info.image_names[index]} | {info.label_names[index]}",
            *read_thinned(info.path, index, step),
        )
        for index in chosen
    ]
    shares = info.class_counts.sum(0) / info.class_counts.sum()
    classes = [f"{value}: {share:.1%}" for value, share in zip(info.class_values, shares, strict=True)]
    heading = f"{info.path.name}: {len(chosen)} of {info.shape[0]} slices, each beside itself with its label over it"
    file = sheet_file(info.path)
    write_bytes(file, sheet.draw(slices, classes, heading))
    return file
