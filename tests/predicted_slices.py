"""Predicted labels counted against those of a packed file, in the form of a cell's record."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from slice_folder import hpcseg

from hpcseg.data.store import read_info
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.record import read_lines


def predicted(model: Path, dataset: Path, out: Path, *options: object) -> dict[int, list[list[int]]]:
    """Confusion matrices of `hpcseg predict`, by the number of the slice."""
    answer = hpcseg("predict", model, dataset, "-o", out, *options)
    assert answer.exit_code == 0, answer.output
    info, matrices = read_info(dataset), {}
    with h5py.File(out / "labels.h5") as found, h5py.File(dataset) as packed:
        for index, number in enumerate(info.numbers.tolist()):
            classes = np.searchsorted(info.class_values, found["labels"][index])
            matrix = np.zeros((3, 3), dtype=np.int64)
            np.add.at(matrix, (packed["labels"][index], classes), 1)
            matrices[number] = matrix.tolist()
    return matrices


def recorded(cell: CellFolder) -> dict[int, list[list[int]]]:
    """Those of the whole test slices in the record of a cell."""
    return {line["slice"]: line["whole"] for line in read_lines(cell.slices_file)}
