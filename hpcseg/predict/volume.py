"""A folder of TIFFs, a TIFF stack or an HDF5 data set in, its slices out: of any size, one at a time."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from hpcseg.data.hdf5 import h5py
from hpcseg.data.store import FORMAT, read_info
from hpcseg.data.tiff import Page, as_packed, first_line, list_tiffs, read_headers
from hpcseg.errors import ConfigError, DatasetError

Form = Literal["folder", "stack", "hdf5"]
_MOST_LISTED = 10
_PACKED_SLICES = "slices"
_MOST_BYTES_KEPT = 256 * 2**20


@dataclass(frozen=True)
class Volume:
    """The slices of a source: what they are called, how large they are, and how to read one."""

    source: Path
    form: Form
    dataset: str | None
    """Of an HDF5 file."""
    names: tuple[str, ...]
    """The files' names; of a stack or a data set its name and the slice, from 1."""
    shapes: tuple[tuple[int, int], ...]
    """Height and width of each; in a folder they may differ."""
    dtype: np.dtype
    identity: str
    """Changes when a file is replaced, renamed or touched."""
    decode: Callable[[int], np.ndarray]
    every: int = 1
    """Slices of the source from one of these to the next."""
    of: tuple[int, ...] | None = None
    """Where in the source each of these is, from 0; None: these are all."""

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> int:
        """Where in the source a slice is, from 0."""
        return index if self.of is None else self.of[index]

    def file_of(self, index: int) -> Path:
        """The file that a slice is in."""
        return self.source / self.names[index] if self.form == "folder" else self.source

    def read(self, index: int) -> np.ndarray:
        """One slice: (H, W), native byte order, in the type it is packed in. Safe to call from several threads.

        A pixel that is NaN is outside of the field of view.

        Raises:
            DatasetError: it cannot be decoded, or holds infinite values.
        """
        pixels = self.decode(index)
        with np.errstate(over="ignore"):
            pixels = pixels.astype(as_packed(pixels.dtype), copy=False)
        if pixels.dtype.kind == "f" and np.isinf(pixels).any():
            raise DatasetError(f"{self.source}: {self.names[index]} holds infinite values. Replace them first.")
        return pixels


def choose_slices(volume: Volume, *, every: int | None = None, slices: tuple[int, int] | None = None) -> Volume:
    """Some slices of a volume as a volume: of those from FIRST to LAST, counted from 1, every so-manieth.

    Its identity is that of the whole.

    Raises:
        ConfigError: the volume has no such slices.
    """
    if every is None and slices is None:
        return volume
    first, last = slices or (1, len(volume))
    if not 1 <= first <= last <= len(volume):
        raise ConfigError(
            f"--slices is {first}-{last}, but {volume.source} has the slices 1 to {len(volume)}. Name some of them."
        )
    chosen = tuple(range(first - 1, last, every or 1))
    return replace(
        volume,
        names=tuple(volume.names[index] for index in chosen),
        shapes=tuple(volume.shapes[index] for index in chosen),
        decode=lambda index: volume.decode(chosen[index]),
        every=every or 1,
        of=chosen,
    )


def open_volume(source: Path, dataset: str | None = None) -> Volume:
    """Find the slices of a volume; reads headers, no pixels.

    Args:
        source: a folder of single-page TIFFs (or of one stack), a multi-page TIFF or BigTIFF, or an HDF5 file.
        dataset: the three-dimensional data set of an HDF5 file; None: the packed slices, or the only one there is.

    Raises:
        DatasetError: nothing there, damaged, or no grey values.
        ConfigError: the file has several data sets, or `dataset` names none.
    """
    if os.path.isdir(source):
        stack = None if dataset else _only_stack(source)
        volume = _open_stack(stack) if stack else _open_folder(source)
    elif not os.path.isfile(source):
        raise DatasetError(f"There is no folder, TIFF stack or HDF5 file {source}.")
    elif h5py.is_hdf5(source):
        return _open_hdf5(source, dataset)
    else:
        volume = _open_stack(source)
    if dataset is not None:
        raise ConfigError(f"--dataset names a data set of an HDF5 file, and {source} is none. Leave it out.")
    return volume


def _only_stack(folder: Path) -> Path | None:
    """The one file of a folder, where it has several pages."""
    paths = list_tiffs(folder)
    return paths[0] if len(paths) == 1 and (_one_header(paths[0]) or len(read_headers(paths[0])) > 1) else None


def _open_folder(source: Path) -> Volume:
    pages: list[Page] = []
    faults: list[str] = []
    for path in list_tiffs(source):
        try:
            headers = read_headers(path)
        except DatasetError as error:
            faults.append(str(error))
            continue
        if len(headers) != 1:
            faults.append(f"{path.name} has {len(headers)} pages; a folder holds one slice per file")
        pages.append(Page(path, -1, 0, *headers[0]))
    _check(source, pages, faults)
    return _volume(source, "folder", pages, [page.path for page in pages], lambda index: pages[index].read())


def _open_stack(source: Path) -> Volume:
    raw = _one_header(source)
    if raw is not None:
        return raw
    pages = [Page(source, index, index + 1, *header) for index, header in enumerate(read_headers(source))]
    _check(source, pages, _one_channel(_channels(source)))
    if len({page.shape for page in pages}) > 1:
        shapes = ", ".join(sorted({" x ".join(map(str, page.shape)) for page in pages}))
        raise DatasetError(f"{source} has pages of several sizes ({shapes}). Put them into a folder of single files.")
    return _volume(source, "stack", pages, [source], lambda index: pages[index].read())


def _volume(
    source: Path, form: Form, pages: list[Page], files: list[Path], decode: Callable[[int], np.ndarray]
) -> Volume:
    names = tuple(page.name if form == "folder" or len(pages) > 1 else f"{source.name}#1" for page in pages)
    shapes = tuple((page.shape[0], page.shape[1]) for page in pages)
    return Volume(source, form, None, names, shapes, pages[0].dtype, _identity(names, shapes, files), decode)


def _one_header(source: Path) -> Volume | None:
    """A stack of which only the first page has a header, as ImageJ writes those above 4 GB; None: another file."""
    try:
        with tifffile.TiffFile(source) as tif:
            if not (tif.is_imagej or tif.is_shaped) or len(tif.pages) != 1:
                return None
            series, page = tif.series[0], tif.pages.first
            slices = math.prod(series.shape) // max(1, math.prod(page.shape))
            if slices <= 1:
                return None
            start, stored = series.dataoffset, series.dtype.newbyteorder(tif.byteorder)
            missing = 0 if start is None else start + series.nbytes - tif.filehandle.size
            shape, channels = page.shape, _imagej_channels(tif.imagej_metadata or {})
    except Exception as error:  # tifffile raises its own errors, struct.error, IndexError, ... for damaged files
        raise DatasetError(f"{source} is not a readable TIFF file ({first_line(error)}).") from None
    if start is None or missing > 0:
        raise DatasetError(f"{source} is not a readable TIFF file: it is one page, and {missing} bytes are missing.")
    pages = [Page(source, index, index + 1, 0, shape, stored.newbyteorder("=")) for index in range(slices)]
    _check(source, pages, _one_channel(channels))

    def decode(index: int) -> np.ndarray:
        pixels = np.fromfile(
            source, stored, math.prod(shape), offset=start + index * math.prod(shape) * stored.itemsize
        )
        return pixels.reshape(shape).astype(stored.newbyteorder("="), copy=False)

    return _volume(source, "stack", pages, [source], decode)


def _channels(source: Path) -> int:
    """How many channels a stack's metadata tell of, each of which would look like a slice; 1 where they tell none."""
    try:
        with tifffile.TiffFile(source) as tif:
            if tif.is_imagej:
                return _imagej_channels(tif.imagej_metadata or {})
            if tif.is_ome:
                series = tif.series[0]
                return int(dict(zip(series.axes, series.shape, strict=True)).get("C", 1))
    except Exception:  # tifffile raises its own errors, struct.error, IndexError, ... for metadata that are damaged
        return 1
    return 1


def _imagej_channels(metadata: dict[str, Any]) -> int:
    """Channels of an ImageJ stack. Those that are alone and shown in grey are slices: a volume as Python writes it.

    `tifffile.imwrite(file, volume, imagej=True)` calls the first of three axes channels, where nobody names them.
    """
    alone = not {"slices", "frames"} & metadata.keys() and metadata.get("mode") == "grayscale"
    return 1 if alone else int(metadata.get("channels", 1))


def _one_channel(channels: int) -> list[str]:
    return [f"it has {channels} channels; save the one to segment"] if channels > 1 else []


def _check(source: Path, pages: list[Page], faults: list[str]) -> None:
    """Refuse what has no grey values, or not of one number type; all faults in one error."""
    for page in pages:
        if len(page.shape) != 2:
            faults.append(f"{page.name} is not a grey-value image: its shape is {page.shape}")
        elif page.dtype.kind not in "uif":
            faults.append(f"{page.name} holds {page.dtype}, which are no grey values")
        elif page.dtype != pages[0].dtype:
            faults.append(f"{page.name} is {page.dtype}, but {pages[0].name} is {pages[0].dtype}")
    if faults:
        more = f"; and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
        raise DatasetError(f"{source} cannot be segmented: {'; '.join(faults[:_MOST_LISTED])}{more}.")


def _open_hdf5(source: Path, dataset: str | None) -> Volume:
    try:
        with h5py.File(source, "r") as file:
            found: dict[str, Any] = {}
            file.visititems(lambda name, item: found.update({name: item}) if _is_volume(item) else None)
            packed = str(file.attrs.get("format")) == FORMAT
            wanted = _PACKED_SLICES if dataset is None and packed else dataset
            if wanted is None and len(found) == 1:
                wanted = min(found)
            wanted = wanted.strip("/") if wanted is not None else None
            if wanted is None or wanted not in found:
                raise ConfigError(_which_dataset(source, dataset, {name: item.shape for name, item in found.items()}))
            slices, height, width = found[wanted].shape
            dtype = found[wanted].dtype.newbyteorder("=")
            thickness = (found[wanted].chunks or (1,))[0]
    except OSError as error:
        raise DatasetError(f"{source} is no HDF5 file that can be read ({first_line(error)}).") from None
    if dtype.kind not in "uif":
        raise DatasetError(f"{source}: {wanted} holds {dtype}, which are no grey values.")
    names = tuple(f"{Path(wanted).name}#{index + 1}" for index in range(slices))
    if packed and wanted == _PACKED_SLICES:
        names = read_info(source).image_names

    # A chunk of many slices is decoded as a whole, so all of them are kept until the next one is wanted.
    together = max(1, min(thickness, _MOST_BYTES_KEPT // (height * width * dtype.itemsize)))
    lock = threading.Lock()

    @functools.lru_cache(maxsize=1)
    def slab(number: int) -> np.ndarray:
        first = number * together
        try:
            with h5py.File(source, "r") as file:
                return np.asarray(file[wanted][first : first + together]).astype(dtype, copy=False)
        except (OSError, KeyError) as error:
            what = f"{wanted} cannot be read from slice {first + 1} on ({first_line(error)})"
            raise DatasetError(f"{source}: {what}.") from None

    def decode(index: int) -> np.ndarray:
        with lock:  # else each thread would read the same slab
            pixels: np.ndarray = slab(index // together)[index % together]
        return pixels

    shapes = ((height, width),) * slices
    return Volume(source, "hdf5", wanted, names, shapes, dtype, _identity(names, shapes, [source]), decode)


def _is_volume(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim == 3 and 0 not in item.shape


def _which_dataset(source: Path, dataset: str | None, found: dict[str, tuple[int, ...]]) -> str:
    listing = ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())[:_MOST_LISTED])
    there = f"It has {listing}." if found else "It has none of three dimensions (slices, height, width)."
    asked = "has several data sets" if dataset is None and found else f"has no data set {dataset or 'to segment'}"
    return f"{source} {asked}. {there} Name one with --dataset."


def _identity(names: tuple[str, ...], shapes: tuple[tuple[int, int], ...], files: list[Path]) -> str:
    """SHA-256 (hex) of names, sizes and times of change, not of pixels: a volume is read only once."""
    facts = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
    return hashlib.sha256(json.dumps([names, shapes, facts]).encode()).hexdigest()
