"""Labels, probabilities, uncertainties of slices in, files in the form of the input out; slices in any order.

    folder in         OUT/LAYER/NAME.tif      one file per slice under the input's name, each whole or not there
    stack, others     OUT/LAYER.tif           one multi-page TIFF, BigTIFF where it is large
    HDF5 in           OUT/LAYER.h5            one data set of that name
    Zarr in           OUT/LAYER.zarr          OME-Zarr

The pixels of a stack or a data set lie in one run, uncompressed. So the file is made at its full length with all its
headers, a slice is written to its place, and the file gets its name when all slices are there. A process that is killed
leaves the slices that it has written, and several processes can fill one file.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tifffile

from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.files import aside, replacing
from hpcseg.hdf5 import h5py
from hpcseg.predict.ome_zarr import open_ome_zarr
from hpcseg.predict.unfinished import is_there, name_finished, unfinished, where
from hpcseg.slices.calibration import ELEMENT_SIZE, calibration_of, in_micrometers, read_calibration
from hpcseg.slices.source import Source, size_in_words

Format = Literal["tiff", "hdf5", "zarr"]

# A classic TIFF has 32-bit offsets; headers and tags need some room as well.
_LARGEST_CLASSIC_TIFF = 2**32 - 2**25
_HEADER_BYTES = 512
_COPIED_ATTRIBUTE_BYTES = 4096


@dataclass(frozen=True)
class Layer:
    """One kind of value per pixel."""

    name: str
    dtype: np.dtype
    meaning: str
    """For the record: what a value says."""


class Target(Protocol):
    """Where the layers of a volume go."""

    def prepare(self) -> bool:
        """Make what must be there before a slice is written; False where it was not there yet."""

    def has(self, index: int) -> bool:
        """Whether files for all layers of a slice are there; those of a stack always are."""

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        """Write a slice, (H, W) for each layer's name. Called again, it writes the same again."""

    def read(self, index: int, layer: Layer) -> np.ndarray:
        """A slice that was written, (H, W)."""

    def sync(self) -> None:
        """Bring to the disk what was written."""

    def finish(self) -> None:
        """Give the files their names: all slices are there."""

    def files(self) -> list[str]:
        """What was written, relative to OUT."""

    def notes(self) -> list[str]:
        """What of the input these files cannot say, a sentence each."""


def open_target(out: Path, volume: Source, layers: Sequence[Layer], format_: Format | None = None) -> Target:
    """The files of `layers` under `out`.

    Args:
        out: the folder of the prediction.
        volume: what is segmented.
        layers: what is written of it.
        format_: None: that of the volume, or of others than HDF5 and Zarr TIFF, of which a folder gives a folder.

    Raises:
        ConfigError: slices of several sizes are to go into one array; or zarr is not installed.
    """
    if format_ is None:
        format_ = "hdf5" if volume.form == "hdf5" else "zarr" if volume.form == "zarr" else "tiff"
    if volume.form == "folder" and format_ == "tiff":
        return _Folder(out, volume, layers)
    if len(sizes := sorted(set(volume.shapes))) > 1:
        raise ConfigError(
            f"The slices of {volume.path} are of {len(sizes)} sizes, such as {size_in_words(sizes[0])} and "
            f"{size_in_words(sizes[-1])} pixels, which are no volume. Leave --format out, and each gets a file."
        )
    return open_ome_zarr(out, volume, layers) if format_ == "zarr" else _Runs(out, volume, layers, format_)


def _not_calibrated(volume: Source, layers: Iterable[Layer]) -> list[str]:
    """A sentence where TIFFs cannot say how large a voxel is."""
    calibration = calibration_of(volume)
    lost = [f"{layer.name} ({layer.dtype})" for layer in layers if not calibration.is_kept(layer.dtype)]
    what = "ImageJ opens no TIFFs of this type, so the unit of a voxel and what else it keeps are not in"
    return [f"{what} {', '.join(lost)}. --format hdf5 and zarr keep the size of a voxel."] if lost else []


class _Folder:
    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer]) -> None:
        self._folders = {layer: out / layer.name for layer in layers}
        self._volume = volume

    def prepare(self) -> bool:
        there = all(folder.is_dir() for folder in self._folders.values())
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return there

    def has(self, index: int) -> bool:
        return all((folder / self._volume.names[index]).exists() for folder in self._folders.values())

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        calibration = read_calibration(self._volume.file_of(index))
        for layer, folder in self._folders.items():
            with replacing(folder / self._volume.names[index]) as file:
                options = calibration.options(layer.dtype)
                tifffile.imwrite(
                    file, pixels[layer.name].astype(layer.dtype, copy=False), compression="zlib", **options
                )

    def read(self, index: int, layer: Layer) -> np.ndarray:
        return tifffile.imread(self._folders[layer] / self._volume.names[index])

    def sync(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def files(self) -> list[str]:
        return [f"{folder.name}/" for folder in self._folders.values()]

    def notes(self) -> list[str]:
        return _not_calibrated(self._volume, self._folders)


class _Runs:
    """One file per layer, whose pixels lie in one run."""

    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer], format_: Format) -> None:
        self._hdf5 = format_ == "hdf5"
        self._paths = {layer: out / (layer.name + (".h5" if self._hdf5 else ".tif")) for layer in layers}
        self._volume = volume
        self._shape = (len(volume), *volume.shapes[0])
        self._opened: dict[str, tuple[int, int]] = {}
        """File descriptor and place of the first pixel, by the layer's name."""

    def prepare(self) -> bool:
        there = True
        for layer, path in self._paths.items():
            if not is_there(path):
                there = False
                with aside(unfinished(path)) as temporary:
                    self._create(layer, temporary)
        return there

    def has(self, index: int) -> bool:
        return True

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        for layer, path in self._paths.items():
            if layer.name not in self._opened:
                self._opened[layer.name] = self._open(layer, path)
            descriptor, first = self._opened[layer.name]
            stored = np.ascontiguousarray(pixels[layer.name], dtype=layer.dtype.newbyteorder("<"))
            left, at = memoryview(stored.data).cast("B"), first + index * stored.nbytes
            try:
                while left:
                    written = os.pwrite(descriptor, left, at)
                    left, at = left[written:], at + written
            except OSError as error:
                raise HpcsegError(
                    f"{path} cannot be written: {error.strerror}. Is there space? The same command goes on then."
                ) from None

    def read(self, index: int, layer: Layer) -> np.ndarray:
        path, shape = where(self._paths[layer]), self._shape[1:]
        stored, pixels = layer.dtype.newbyteorder("<"), math.prod(shape)
        first = self._first_byte(layer, path) + index * pixels * stored.itemsize
        return np.fromfile(path, stored, pixels, offset=first).reshape(shape).astype(layer.dtype, copy=False)

    def sync(self) -> None:
        for descriptor, _ in self._opened.values():
            os.fsync(descriptor)

    def finish(self) -> None:
        self.sync()
        for descriptor, _ in self._opened.values():
            os.close(descriptor)
        self._opened.clear()
        for path in self._paths.values():
            name_finished(path)

    def files(self) -> list[str]:
        return [path.name for path in self._paths.values()]

    def notes(self) -> list[str]:
        return [] if self._hdf5 else _not_calibrated(self._volume, self._paths)

    def _create(self, layer: Layer, path: Path) -> None:
        if self._hdf5:
            with h5py.File(path, "w") as file:
                plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plan.set_layout(h5py.h5d.CONTIGUOUS)
                plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                kind = h5py.h5t.py_create(layer.dtype.newbyteorder("<"), logical=True)
                h5py.h5d.create(file.id, layer.name.encode(), kind, h5py.h5s.create_simple(self._shape), plan)
                file[layer.name].attrs.update(self._attributes())
            return
        size = math.prod(self._shape) * layer.dtype.itemsize + self._shape[0] * _HEADER_BYTES
        options = calibration_of(self._volume).options(layer.dtype, self._shape[0])
        # ImageJ itself cannot open its own format as BigTIFF, but Fiji's Bio-Formats can.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tifffile.imwrite(
                path,
                shape=self._shape,
                dtype=layer.dtype.newbyteorder("<"),
                bigtiff=size > _LARGEST_CLASSIC_TIFF,
                **options,
            )

    def _open(self, layer: Layer, path: Path) -> tuple[int, int]:
        path = where(path)
        return os.open(path, os.O_WRONLY), self._first_byte(layer, path)

    def _first_byte(self, layer: Layer, path: Path) -> int:
        if self._hdf5:
            with h5py.File(path, "r") as file:
                first = file[layer.name].id.get_offset()
        else:
            with tifffile.TiffFile(path) as tif:
                first = tif.series[0].dataoffset
        assert first is not None
        return int(first)

    def _attributes(self) -> dict[str, Any]:
        """The size of a voxel, and small attributes of the data set if the slices are of one."""
        voxel, small = self._volume.voxel, dict[str, Any]()
        if self._volume.form == "hdf5":
            small = self._copied()
        if voxel is not None and (size := in_micrometers(voxel)) is not None:
            small[ELEMENT_SIZE] = np.array(size) * [self._volume.every, 1, 1]
        return small

    def _copied(self) -> dict[str, Any]:
        with h5py.File(self._volume.path, "r") as file:
            attributes = file[self._volume.dataset].attrs
            kept = {}
            for name in attributes:
                with contextlib.suppress(TypeError, OSError):  # of a type that numpy has not
                    value = attributes[name]
                    if isinstance(value, str) or (np.asarray(value).dtype.kind in "uifSU"):
                        kept[name] = _in_utf_8(value)
        return {name: value for name, value in kept.items() if np.asarray(value).nbytes <= _COPIED_ATTRIBUTE_BYTES}


def _in_utf_8(value: Any) -> Any:
    """Text whose bytes are no UTF-8 is Latin-1, as older writers have it; h5py reads it, but does not write it."""
    if isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value):
        return value.encode(errors="surrogateescape").decode("latin-1")
    return value
