"""Encoded slices in, the packed file of `hpcseg.data.store` out: whole, or not at all."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg import __version__
from hpcseg.data.classes import Classes
from hpcseg.data.encode import COMPRESSION_LEVEL, Encoded, label_rows
from hpcseg.data.grey import QUANTILES, GreyCounts, choose_scale
from hpcseg.data.likeness import alike_slices, step_between_compared
from hpcseg.data.pairs import Pairs, Pixels
from hpcseg.data.store import COLUMNS, SCHEMA_VERSION, decode_info, identity_sha256
from hpcseg.files import aside
from hpcseg.hdf5 import h5py
from hpcseg.slices.calibration import PACKED_FORMAT, voxel_attributes

# HDF5's own pages and the attributes; and of each slice its names, two hashes and where its chunks lie.
_PAGE_BYTES, _TABLE_BYTES_PER_SLICE = 1_000_000, 2_000


@contextlib.contextmanager
def create(path: Path, *, slices: int, shape: tuple[int, int], dtype: np.dtype) -> Iterator[Writer]:
    """A writer of a new file of so many slices, each of that height and width and type of grey values.

    It appears under its name only when it is whole, in place of what was there, and not at all on an error.

    Raises:
        HpcsegError: the file system refuses (full, read-only, no permission).
    """
    with aside(path) as temporary:
        with temporary.open("wb") as tried:
            tried.truncate(slices * math.prod(shape) * dtype.itemsize + _own_bytes(slices))
        try:
            with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
                yield Writer(temporary, file, slices, shape, dtype)
        except OSError as error:  # HDF5 says of a full disk what it was doing, in five lines
            raise OSError(error.errno, os.strerror(error.errno)) if error.errno else error from None
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


class Writer:
    """Takes the slices of a new file, and then what they are called."""

    def __init__(self, path: Path, file: h5py.File, slices: int, shape: tuple[int, int], dtype: np.dtype) -> None:
        self._file, self._handle = file, file.id.get_vfd_handle()
        self._label_bytes = 0
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._images = file.create_dataset("slices", (slices, *shape), dtype=dtype.newbyteorder("<"), dcpl=plan)
        self._labels = file.create_dataset(
            "labels",
            (slices, *shape),
            dtype="u1",
            chunks=(1, label_rows(shape[0]), shape[1]),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
        )
        self._rows: list[dict[str, Any]] = []
        self._step, self._points = step_between_compared(slices), list[np.ndarray]()
        self._counts = GreyCounts(dtype)
        self.pixels = Pixels(path, self._images.id.get_offset())
        """Where grey values are written, by whoever has decoded them."""
        self._reserve()

    def add(self, encoded: Encoded) -> None:
        """Append what is written of the next slice, whose grey values are there; raises OSError."""
        index, rows = len(self._rows), self._labels.chunks[1]
        self._label_bytes += sum(map(len, encoded.chunks))
        self._reserve()
        for number, chunk in enumerate(encoded.chunks):
            self._labels.id.write_direct_chunk((index, number * rows, 0), chunk)
        self._rows.append(encoded.row)
        if index % self._step == 0:
            self._points.append(encoded.points)
        self._counts.merge(*encoded.counts)

    def _reserve(self) -> None:
        """Have room on the disk for all but the grey values; raises OSError where there is none.

        HDF5 must not find out itself: it cannot close a file then, and crashes at exit. Grey values may fill the disk.
        """
        os.posix_fallocate(self._handle, 0, self.pixels.first)
        behind = self.pixels.first + self._images.id.get_storage_size()
        os.posix_fallocate(self._handle, behind, self._label_bytes + _own_bytes(len(self._images)))

    def finish(self, pairs: Pairs, classes: Classes, *, grey_range: tuple[float, float] | None, command: str) -> None:
        """Write the table and the attributes that make a file of slices a data set; arguments as of `pack.pack`.

        Raises:
            OSError: no room is left for the table.
        """
        images, dtype = pairs.images, self._images.dtype
        columns: dict[str, Sequence[Any]] = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        columns |= {"numbers": images.numbers, "image_names": images.names, "label_names": pairs.labels.names}
        group = self._file.create_group("table")
        for name, kind in COLUMNS.items():
            if kind is str:
                texts = [_as_utf8(text) for text in columns[name]]
                group.create_dataset(name, data=texts, dtype=h5py.string_dtype())
            else:
                group.create_dataset(name, data=np.array(columns[name], dtype=kind))
        largest = np.abs([columns["grey_min"], columns["grey_max"]]).max()
        # Of floating-point data, whose type has no natural end, the largest there is.
        full_scale = float(np.iinfo(dtype).max if dtype.kind == "u" else largest or 1.0)
        quantiles = self._counts.quantiles(QUANTILES)
        grey = choose_scale(dtype, full_scale, quantiles, grey_range)
        compared = self._rows[:: self._step]
        padding = np.array([row["border_value"] if row["border_pixels"] else np.nan for row in compared])
        if images.voxel is not None:
            self._file.attrs.update(voxel_attributes(images.voxel))
        self._file.attrs.update(
            {
                "format": PACKED_FORMAT,
                "schema_version": SCHEMA_VERSION if any(columns["ignored_pixels"]) else SCHEMA_VERSION - 1,
                "class_values": np.array(classes.values, dtype=np.int64),
                "class_names": [_as_utf8(name) for name in classes.names],
                "ignored_values": np.array(classes.ignored, dtype=np.int64),
                "source_dtype": images.stored_dtype.name,
                "label_dtype": pairs.labels.dtype.name,
                "full_scale": full_scale,
                "grey_range": [grey.low, grey.high],
                "grey_quantiles": quantiles,
                "alike_slices": alike_slices(np.array(self._points), len(pairs), limits=quantiles, padding=padding),
                "hpcseg_version": __version__,
                "command": _as_utf8(command),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        self._file.attrs["data_sha256"] = identity_sha256(decode_info(self._file, Path()))


def _own_bytes(slices: int) -> int:
    """At most so many are of neither slices nor labels."""
    return _PAGE_BYTES + _TABLE_BYTES_PER_SLICE * slices


def _as_utf8(text: str) -> str:
    """HDF5 takes UTF-8 alone; a byte of a file name that is none is written as an escape."""
    return text.encode(errors="backslashreplace").decode()
