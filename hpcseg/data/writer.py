"""Encoded slices in, the packed file of `hpcseg.data.store` out: whole, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hpcseg import __version__
from hpcseg.data.classes import Classes
from hpcseg.data.encode import COMPRESSION_LEVEL, EncodedLabel, GreyValues, label_rows
from hpcseg.data.grey import QUANTILES, GreyCounts, choose_scale
from hpcseg.data.likeness import alike_slices, step_between_compared
from hpcseg.data.store import (
    FORMAT,
    NUMBER_COLUMNS,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    SliceTable,
    identity_sha256,
)
from hpcseg.files import aside
from hpcseg.hdf5 import h5py
from hpcseg.slices.source import VoxelSize

# HDF5's own pages and the attributes; and of each slice its names, two hashes and where its chunks lie.
_PAGE_BYTES, _TABLE_BYTES_PER_SLICE = 1_000_000, 2_000


@contextlib.contextmanager
def create(path: Path, *, slices: int, shape: tuple[int, int], dtype: np.dtype) -> Iterator[Writer]:
    """A writer of a new file that appears under its name only when it is whole, and not at all on an error.

    Args:
        path: of the file; replaced if it exists.
        slices: how many will be added.
        shape: height and width of each.
        dtype: of the grey values.

    Raises:
        HpcsegError: the file system refuses (full, read-only, no permission).
    """
    with aside(path) as temporary:
        with temporary.open("wb") as tried:
            os.posix_fallocate(tried.fileno(), 0, _own_bytes(slices))
            tried.truncate(slices * math.prod(shape) * dtype.itemsize + _own_bytes(slices))
        try:
            with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
                yield Writer(file, slices, shape, dtype)
        except OSError as error:  # HDF5 says of a full disk what it was doing, in five lines
            raise OSError(error.errno, os.strerror(error.errno)) if error.errno else error from None
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


class Writer:
    """Takes the slices of a new file, and then what they are called."""

    def __init__(self, file: h5py.File, slices: int, shape: tuple[int, int], dtype: np.dtype) -> None:
        self._file, self._handle = file, file.id.get_vfd_handle()
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._images = file.create_dataset("slices", (slices, *shape), dtype=dtype.newbyteorder("<"), dcpl=plan)
        self._label_bytes = 0
        self._labels = file.create_dataset(
            "labels",
            (slices, *shape),
            dtype="u1",
            chunks=(1, label_rows(shape[0]), shape[1]),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
        )
        self._grey: list[GreyValues] = []
        self._step, self._points = step_between_compared(slices), list[np.ndarray]()
        self._counts = GreyCounts(dtype)
        self._added_labels: list[tuple[str, np.ndarray, int]] = []

    def add(self, pixels: np.ndarray, grey: GreyValues, label: EncodedLabel) -> None:
        """Append the next slice (H, W), its label, and what is to be known of its grey values; raises OSError."""
        index, rows = len(self._grey), self._labels.chunks[1]
        self._reserve(index, label.chunks)
        for number, chunk in enumerate(label.chunks):
            self._labels.id.write_direct_chunk((index, number * rows, 0), chunk)
        self._images[index] = pixels
        self._grey.append(dataclasses.replace(grey, counts=None, points=None))
        assert grey.counts is not None and grey.points is not None
        if index % self._step == 0:
            self._points.append(grey.points)
        self._counts.merge(*grey.counts)
        self._added_labels.append((label.sha256, label.class_counts, label.ignored))

    def _reserve(self, index: int, chunks: Sequence[bytes]) -> None:
        """Have room on the disk for the grey values and the label of a slice; raises OSError where there is none.

        HDF5 must not find out itself: it cannot close a file then, and crashes at exit.
        """
        slices, size = len(self._images), math.prod(self._images.shape[1:]) * self._images.dtype.itemsize
        first = self._images.id.get_offset()
        self._label_bytes += sum(map(len, chunks))
        os.posix_fallocate(self._handle, first + index * size, size)
        # Behind all grey values lies what else there is.
        os.posix_fallocate(self._handle, first + slices * size, self._label_bytes + _own_bytes(slices))

    def finish(
        self,
        *,
        numbers: Sequence[int],
        image_names: Sequence[str],
        label_names: Sequence[str],
        classes: Classes,
        source_dtype: np.dtype,
        label_dtype: np.dtype,
        voxel: VoxelSize | None,
        grey_range: tuple[float, float] | None,
        command: str,
    ) -> None:
        """Write the table and the attributes that make a file of slices a data set.

        Args:
            numbers: of the slices, from the file names.
            image_names: of their sources.
            label_names: of the labels' sources.
            classes: of the labels.
            source_dtype: of the slices as they were read.
            label_dtype: of the original labels.
            voxel: size of a voxel; None: not known.
            grey_range: what a model meets as 0 and as 1; None: what fits the grey values.
            command: what the user typed, for the record.

        Raises:
            OSError: no room is left for the table.
        """
        label_sha256, counts, ignored = zip(*self._added_labels, strict=True)
        table = SliceTable(
            numbers=np.array(numbers, dtype=np.int64),
            image_names=tuple(image_names),
            label_names=tuple(label_names),
            image_sha256=tuple(grey.sha256 for grey in self._grey),
            label_sha256=label_sha256,
            class_counts=np.array(counts, dtype=np.int64),
            grey_min=np.array([grey.least for grey in self._grey]),
            grey_max=np.array([grey.largest for grey in self._grey]),
            zero_pixels=np.array([grey.zeros for grey in self._grey], dtype=np.int64),
            border_value=np.array([grey.border_value for grey in self._grey]),
            border_pixels=np.array([grey.border_pixels for grey in self._grey], dtype=np.int64),
            ignored_pixels=np.array(ignored, dtype=np.int64),
        )
        group = self._file.create_group("table")
        for name in TEXT_COLUMNS:
            texts = [_as_utf8(text) for text in getattr(table, name)]
            group.create_dataset(name, data=texts, dtype=h5py.string_dtype())
        for name in NUMBER_COLUMNS:
            group.create_dataset(name, data=getattr(table, name))
        images = self._images
        full_scale = _full_scale(images.dtype, table)
        quantiles = self._counts.quantiles(QUANTILES)
        padding = np.where(table.border_pixels > 0, table.border_value, np.nan)[:: self._step]
        alike = alike_slices(np.array(self._points), len(numbers), limits=quantiles, padding=padding)
        grey = choose_scale(images.dtype, full_scale, quantiles, grey_range)
        data_sha256 = identity_sha256(
            table,
            class_values=classes.values,
            full_scale=full_scale,
            grey=grey,
            dtype=images.dtype.name,
            shape=images.shape,
        )
        if voxel is not None:
            self._file.attrs.update(
                {"voxel_size": [voxel.depth, voxel.height, voxel.width], "voxel_unit": _as_utf8(voxel.unit)}
            )
        self._file.attrs.update(
            {
                "format": FORMAT,
                "schema_version": SCHEMA_VERSION if table.ignored_pixels.any() else SCHEMA_VERSION - 1,
                "class_values": np.array(classes.values, dtype=np.int64),
                "class_names": [_as_utf8(name) for name in classes.names],
                "ignored_values": np.array(classes.ignored, dtype=np.int64),
                "source_dtype": source_dtype.name,
                "label_dtype": label_dtype.name,
                "full_scale": full_scale,
                "grey_range": [grey.low, grey.high],
                "grey_quantiles": quantiles,
                "alike_slices": alike,
                "data_sha256": data_sha256,
                "hpcseg_version": __version__,
                "command": _as_utf8(command),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def _own_bytes(slices: int) -> int:
    """At most so many are of neither slices nor labels."""
    return _PAGE_BYTES + _TABLE_BYTES_PER_SLICE * slices


def _full_scale(dtype: np.dtype, table: SliceTable) -> float:
    """The largest grey value of the dtype, or of the data where the dtype has no natural end."""
    if dtype.kind == "u":
        return float(np.iinfo(dtype).max)
    largest = float(max(np.abs(table.grey_min).max(), np.abs(table.grey_max).max()))
    return largest or 1.0


def _as_utf8(text: str) -> str:
    """HDF5 takes UTF-8 alone; a byte of a file name that is none is written as an escape."""
    return text.encode(errors="backslashreplace").decode()
