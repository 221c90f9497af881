"""Packing as people write it: slice after slice, by one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from hpcseg.bench.measure import Piece, rate
from hpcseg.hdf5 import h5py


def plain_pack(images: Path, labels: Path, output: Path) -> None:
    """Slice after slice from two stacks into an HDF5 file, labels compressed and mapped by the values of the first."""
    with tifffile.TiffFile(images) as grey, tifffile.TiffFile(labels) as marked, h5py.File(output, "w") as file:
        first = grey.pages[0].asarray()
        shape, chunks = (len(grey.pages), *first.shape), (1, 128, 128)
        slices = file.create_dataset("slices", shape, dtype=first.dtype, chunks=chunks)
        classes = file.create_dataset("labels", shape, dtype="u1", chunks=chunks, compression="gzip")
        values = np.unique(marked.pages[0].asarray())
        for index in range(shape[0]):
            slices[index] = grey.pages[index].asarray()
            classes[index] = np.searchsorted(values, marked.pages[index].asarray())


@contextlib.contextmanager
def piece(folder: str, source_bytes: int) -> Iterator[Piece]:
    """A contender of `hpcseg.bench.packing`, whose stacks it packs."""
    stacks = Path(folder)

    def work(times: int) -> None:
        for _ in range(times):
            plain_pack(stacks / "images.tif", stacks / "labels.tif", stacks / "plain.h5")

    yield lambda times: rate(times * source_bytes, lambda: work(times))
