"""Labels, probabilities, uncertainties of slices in, files in the form of the input out; slices in any order.

    folder in         OUT/LAYER/NAME.tif      one file per slice under the input's name, each whole or not there
    stack, others     OUT/LAYER.tif           one multi-page TIFF, BigTIFF where it is large
    HDF5 in           OUT/LAYER.h5            one data set of that name
    Zarr in           OUT/LAYER.zarr          OME-Zarr

The pixels of a stack or a data set lie in one run, uncompressed. So the file is made at its full length with all its
headers, and a slice is written to its place. In an OME-Zarr (0.5, Zarr v3, one level) a slice is a chunk, and a chunk
is a file of its own: zarr makes the files in memory, and they are written whole or not at all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from hpcseg.data.likeness import usual_step
from hpcseg.errors import ConfigError
from hpcseg.files import aside, make_folder, not_written, replacing, write_bytes
from hpcseg.hdf5 import h5py
from hpcseg.predict.target import Layer, Target, unfinished, where
from hpcseg.slices.calibration import (
    DEPTH_SAID,
    ELEMENT_SIZE,
    PREDICTION_FORMAT,
    calibration_of,
    calibration_of_file,
    in_micrometers,
    ome_unit,
    voxel_attributes,
)
from hpcseg.slices.extras import load_extra
from hpcseg.slices.png import SUFFIX as PNG
from hpcseg.slices.raw import write_raw
from hpcseg.slices.source import Source, size_in_words

Format = Literal["tiff", "hdf5", "zarr"]

# A classic TIFF has 32-bit offsets; headers and tags need some room as well.
_LARGEST_CLASSIC_TIFF = 2**32 - 2**25
_HEADER_BYTES = 512
_LEVEL = "0"


def open_target(out: Path, volume: Source, layers: Sequence[Layer], format_: Format | None = None) -> Target:
    """The files of layers of a volume under the folder of a prediction.

    Without a format it is that of the volume, or of others than HDF5 and Zarr TIFF, of which a folder gives a folder.

    Raises:
        ConfigError: slices of several sizes are to go into one array, or two into one file; or zarr is not installed.
    """
    if format_ is None:
        format_ = "hdf5" if volume.form == "hdf5" else "zarr" if volume.form == "zarr" else "tiff"
    if volume.form == "folder" and format_ == "tiff":
        return _Folder(out, volume, layers)
    if len(sizes := sorted(set(volume.shapes))) > 1:
        raise ConfigError(
            f"The slices of {volume.path} are of {len(sizes)} sizes, such as {size_in_words(sizes[0])} and "
            f"{size_in_words(sizes[-1])} pixels, which are no volume. In a folder, without --format, each gets a file."
        )
    return _Stores(out, volume, layers) if format_ == "zarr" else _Runs(out, volume, layers, format_)


def _not_calibrated(volume: Source, layers: Iterable[Layer]) -> list[str]:
    """A sentence where TIFFs cannot say how large a voxel is."""
    calibration = calibration_of(volume)
    kept_by = "--format hdf5 and zarr keep the size of a voxel."
    if calibration.voxel is not None and calibration.resolution is None:
        return [f"TIFFs have no number for voxels of {calibration.voxel.text()}, and do not say their size. {kept_by}"]
    lost = [f"{layer.name} ({layer.dtype})" for layer in layers if not calibration.is_kept(layer.dtype)]
    what = "ImageJ opens no TIFFs of this type, so the unit of a voxel and what else it keeps are not in"
    return [f"{what} {', '.join(lost)}. {kept_by}"] if lost else []


def _uneven(volume: Source) -> list[str]:
    """A sentence where the numbers of slices that go into one file say that some are missing."""
    apart = np.flatnonzero(np.diff(volume.numbers) != usual_step(np.array(volume.numbers)))
    if not len(apart):
        return []
    before, behind = volume.numbers[apart[0]], volume.numbers[apart[0] + 1]
    return [
        f"the slices lie unevenly apart by their numbers, such as {before} and {behind}, and evenly in one file: if "
        "some are missing, all behind them are too near. Labels in a folder have the names of their slices."
    ]


class _Folder(Target):
    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer]) -> None:
        super().__init__(out, volume, layers)
        if len(set(map(self._name, range(len(volume))))) < len(volume):
            raise ConfigError(f"Names in {volume.path} differ in their suffix only, and labels are TIFFs. Rename some.")

    def has(self, index: int) -> bool:
        return all((folder / self._name(index)).exists() for folder in self._paths.values())

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        calibration = calibration_of_file(self._volume, index)
        for layer, folder in self._paths.items():
            stored, options = pixels[layer.name].astype(layer.dtype, copy=False), calibration.options(layer.dtype)
            with replacing(folder / self._name(index)) as file:
                tifffile.imwrite(file, stored, compression="zlib", **options)

    def read(self, index: int, layer: Layer) -> np.ndarray:
        return tifffile.imread(self._paths[layer] / self._name(index))

    def notes(self) -> list[str]:
        return _not_calibrated(self._volume, self._paths)

    def _make(self, layer: Layer) -> None:
        make_folder(self._paths[layer])

    def _name(self, index: int) -> str:
        """That of the slice, but of a PNG that of a TIFF."""
        name = self._volume.names[index]
        return name if Path(name).suffix.lower() != PNG else f"{Path(name).stem}.tif"


class _Runs(Target):
    """One file per layer, whose pixels lie in one run."""

    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer], format_: Format) -> None:
        self._hdf5 = format_ == "hdf5"
        super().__init__(out, volume, layers, ".h5" if self._hdf5 else ".tif")
        self._shape = (len(volume), *volume.shapes[0])
        self._opened: dict[Layer, tuple[int, int]] = {}
        """File descriptor and place of the first pixel."""

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        for layer, path in self._paths.items():
            if layer not in self._opened:
                self._opened[layer] = os.open(where(path), os.O_WRONLY), self._first_byte(layer)
            descriptor, first = self._opened[layer]
            try:
                write_raw(descriptor, first, index, pixels[layer.name].astype(layer.dtype, copy=False))
            except OSError as error:
                raise not_written(path, error) from None

    def read(self, index: int, layer: Layer) -> np.ndarray:
        file, stored = where(self._paths[layer]), layer.dtype.newbyteorder("<")
        return np.array(np.memmap(file, stored, "r", self._first_byte(layer), self._shape)[index], layer.dtype)

    def sync(self) -> None:
        # The writer may open the next layer meanwhile; what it writes there is of a slice that nobody counts yet.
        for descriptor, _ in list(self._opened.values()):
            os.fsync(descriptor)

    def close(self) -> None:
        while self._opened:
            os.close(self._opened.popitem()[1][0])

    def notes(self) -> list[str]:
        return [*_uneven(self._volume), *([] if self._hdf5 else _not_calibrated(self._volume, self._paths))]

    def _make(self, layer: Layer) -> None:
        stored = layer.dtype.newbyteorder("<")
        with aside(unfinished(self._paths[layer])) as path:
            if self._hdf5:
                plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                try:
                    with h5py.File(path, "w") as file:
                        made = file.create_dataset(layer.name, self._shape, stored, dcpl=plan)
                        made.attrs.update(_attributes(self._volume))
                        if ELEMENT_SIZE not in made.attrs and (voxel := self._volume.voxel) is not None:
                            # Of a unit that is none of length: as packed files have it.
                            file.attrs.update({"format": PREDICTION_FORMAT, **voxel_attributes(voxel)})
                except OSError as error:  # HDF5 says of a full disk what it was doing, in five lines
                    raise OSError(error.errno, os.strerror(error.errno)) if error.errno else error from None
                return
            size = math.prod(self._shape) * stored.itemsize + self._shape[0] * _HEADER_BYTES
            # ImageJ itself cannot open its own format as BigTIFF, but Fiji's Bio-Formats can.
            big, options = size > _LARGEST_CLASSIC_TIFF, calibration_of(self._volume).options(stored, self._shape[0])
            tifffile.imwrite(path, shape=self._shape, dtype=stored, bigtiff=big, **options)

    def _first_byte(self, layer: Layer) -> int:
        path = where(self._paths[layer])
        if self._hdf5:
            with h5py.File(path, "r") as file:
                first = file[layer.name].id.get_offset()
        else:
            with tifffile.TiffFile(path) as tif:
                first = tif.series[0].dataoffset
        assert first is not None
        return int(first)


def _attributes(volume: Source) -> dict[str, Any]:
    """The size of a voxel, and what the data set says that the slices are of, if they are of one."""
    kept = dict(volume.attributes)
    if volume.voxel is not None and (size := in_micrometers(volume.voxel)) is not None:
        kept |= {ELEMENT_SIZE: np.array(size), DEPTH_SAID: volume.voxel.depth_said}
    return kept


class _Stores(Target):
    """An OME-Zarr per layer, with the array 0."""

    _last_made = "zarr.json"

    def __init__(self, out: Path, volume: Source, layers: Sequence[Layer]) -> None:
        super().__init__(out, volume, layers, ".zarr")
        self._zarr = load_extra("zarr", "zarr", out)
        self._made: dict[Layer, tuple[Any, dict[str, Any]]] = {}

    def has(self, index: int) -> bool:
        return all((where(path) / _chunk(index)).exists() for path in self._paths.values())

    def write(self, index: int, pixels: Mapping[str, np.ndarray]) -> None:
        for layer, path in self._paths.items():
            array, files = self._in_memory(layer)
            array[index] = pixels[layer.name].astype(layer.dtype, copy=False)
            write_bytes(where(path) / _chunk(index), files.pop(_chunk(index)).to_bytes())

    def read(self, index: int, layer: Layer) -> np.ndarray:
        return np.asarray(self._zarr.open_array(where(self._paths[layer]) / _LEVEL, mode="r")[index])

    def notes(self) -> list[str]:
        return _uneven(self._volume)

    def _make(self, layer: Layer) -> None:
        _, files = self._in_memory(layer)
        # The array's before the group's, with which all is there. Two that do it at once write the same.
        for name in sorted(files, key=len, reverse=True):
            write_bytes(unfinished(self._paths[layer]) / name, files[name].to_bytes())

    def _in_memory(self, layer: Layer) -> tuple[Any, dict[str, Any]]:
        """The array of a layer, and the files of its store by their names."""
        if layer not in self._made:
            files: dict[str, Any] = {}
            store, attributes = self._zarr.storage.MemoryStore(files), {"ome": _ome(layer, self._volume)}
            array = self._zarr.create_group(store, attributes=attributes).create_array(
                _LEVEL,
                shape=(len(self._volume), *self._volume.shapes[0]),
                chunks=(1, *self._volume.shapes[0]),
                dtype=layer.dtype,
                dimension_names=("z", "y", "x"),
                # Of nothing but zeros as well: what is not there is not done.
                config={"write_empty_chunks": True},
            )
            self._made[layer] = array, files
        return self._made[layer]


def _ome(layer: Layer, volume: Source) -> dict[str, Any]:
    voxel = volume.voxel
    unit = {} if voxel is None or not voxel.unit else {"unit": ome_unit(voxel.unit)}
    sizes = [float(volume.every), 1.0, 1.0] if voxel is None else list(voxel.sizes)
    moved: list[dict[str, Any]] = [{"type": "scale", "scale": sizes}]
    # Where the first of them lies, so that a viewer lays one over the other: as its own store says, and in the volume.
    begins = (0.0, 0.0, 0.0, *(volume.begins or ()))[-3:] if volume.form == "zarr" else (0.0, 0.0, 0.0)
    step = (sizes[0] / volume.every, *sizes[1:])
    places = [size * at for size, at in zip(step, (begins[0] + (volume.of or [0])[0], *begins[1:]), strict=True)]
    if any(places):
        moved.append({"type": "translation", "translation": places})
    image = {
        "name": layer.name,
        "axes": [{"name": name, "type": "space", **unit} for name in "zyx"],
        "datasets": [{"path": _LEVEL, "coordinateTransformations": moved}],
        **({} if voxel is None else {"metadata": {DEPTH_SAID: voxel.depth_said}}),
    }
    return {"version": "0.5", "multiscales": [image], **({"image-label": {}} if layer.name == "labels" else {})}


def _chunk(index: int) -> str:
    """The file of a slice in a store, as Zarr v3 calls it."""
    return f"{_LEVEL}/c/{index}/0/0"
