"""The packed data set: one HDF5 file of full slices, labels as class indices, and what identifies them.

    /slices              (N, H, W) source dtype, little-endian, uncompressed, one slice behind the other
    /labels              (N, H, W) uint8 class index, 255 where a pixel has no class; gzip, in chunks of whole rows
    /table/...           one row per slice: number, names, SHA-256 of pixels and of original labels, class counts,
                         lowest and highest grey value, pixels of 0, value and pixels of a padded border, and pixels
                         of no class
    attributes           format, schema_version, class_values, class_names, ignored_values, full_scale, grey_range,
                         grey_quantiles, alike_slices, source_dtype, data_sha256, hpcseg_version, command, created

Written by `hpcseg.data.writer`. A file is opened, read and closed within one call, since an HDF5 handle that crosses a
fork reads wrong data without a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg import __version__
from hpcseg.data.classes import IGNORED, MOST_CLASSES, value_table
from hpcseg.data.encode import pixels_sha256
from hpcseg.data.grey import GreyScale, choose_scale
from hpcseg.data.layout import automatic_gap
from hpcseg.errors import DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.calibration import PACKED_FORMAT, voxel_of_attributes
from hpcseg.slices.source import VoxelSize

SCHEMA_VERSION = 4
"""1 had no grey range, no quantiles and no columns of zeros and borders; up to 2 there was no `alike_slices`.

Up to 3 every pixel has a class, and a file in which all have is still written as one of 3, for an earlier hpcseg.
"""
COLUMNS = {
    **dict.fromkeys(("image_names", "label_names", "image_sha256", "label_sha256"), str),
    **dict.fromkeys(("numbers", "class_counts", "zero_pixels", "border_pixels", "ignored_pixels"), np.int64),
    **dict.fromkeys(("grey_min", "grey_max", "border_value"), np.float64),
}
"""Of the table, with their types; fields of `DatasetInfo`."""
# Columns that came with a later schema, and with which; before, they are 0.
_SINCE = {"zero_pixels": 2, "border_value": 2, "border_pixels": 2, "ignored_pixels": 4}


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """All of a packed file of N slices and C classes but its pixels."""

    path: Path
    shape: tuple[int, int, int]
    """Slices, height, width."""
    dtype: str
    numbers: np.ndarray
    """(N,) int64, from the file names."""
    image_names: tuple[str, ...]
    label_names: tuple[str, ...]
    image_sha256: tuple[str, ...]
    """SHA-256 of the raw little-endian pixels of the source."""
    label_sha256: tuple[str, ...]
    """The same of the labels, as `encode.label_sha256`."""
    class_counts: np.ndarray
    """(N, C) int64, pixels of each class."""
    grey_min: np.ndarray
    """(N,) float64, in counts."""
    grey_max: np.ndarray
    """(N,) float64, in counts."""
    zero_pixels: np.ndarray
    """(N,) int64, pixels of the value 0 that are not of the border."""
    border_value: np.ndarray
    """(N,) float64, in counts, of the border that a slice was padded with; 0 where it has none."""
    border_pixels: np.ndarray
    """(N,) int64; 0 where it has none."""
    ignored_pixels: np.ndarray
    """(N,) int64, pixels of no class, such as those outside of the field of view."""
    label_dtype: str
    """Of the original labels; labels are stored as uint8 class indices."""
    class_values: tuple[int, ...]
    """Original label value of class 0, 1, ..., the least of those that are one class."""
    class_names: tuple[str, ...]
    """What each is called; its value, where it has no name."""
    ignored_values: tuple[int, ...]
    """Of the original labels where a pixel has no class, ascending."""
    source_dtype: str
    """Of the slices before they were packed."""
    full_scale: float
    """The largest value of their type, or of the data where the type has none."""
    grey: GreyScale
    """How grey values meet a model, and what they span."""
    voxel: VoxelSize | None
    """None: not known."""
    alike_slices: int | None
    """As `likeness.alike_slices`; None: packed before it was measured."""
    data_sha256: str
    """Identifies the contents, whatever the files were called and however they were compressed."""
    hpcseg_version: str
    command: str
    created: str


def read_info(path: Path) -> DatasetInfo:
    """All of a packed file but its pixels.

    Raises:
        DatasetError: there is no such file, or it is none of ours, too new, cut short, or its parts do not belong
            together.
    """
    with _opened(path) as file:
        try:
            info = decode_info(file, path)
        # A part of another kind, type or length; h5py raises RuntimeError for what HDF5 has no words for.
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(path, f"it is not laid out as a data set is ({error})") from None
    if identity_sha256(info) != info.data_sha256:
        raise _damaged(path, "its class values, grey range or slice numbers are not those that were packed")
    return info


def read_tiles(path: Path, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut tiles of `size` pixels out of the slices, each of which is read once.

    Args:
        path: of the packed file.
        places: (T, 3) int64 rows (slice index, y, x); or (T, C, 3), where a tile has C channels.
        size: edge of a tile in pixels.

    Returns:
        Tiles (T, size, size), or (T, C, size, size), in the slices' dtype, and labels (T, size, size) uint8 class
        indices, of the channels' middle one.

    Raises:
        DatasetError: as `read_info`.
    """
    labelled = places if places.ndim == 2 else places[:, places.shape[1] // 2]
    with _opened(path) as file:
        images = _cut(file["slices"], places.reshape(-1, 3), size).reshape(*places.shape[:-1], size, size)
        return images, _cut(file["labels"], labelled, size)


def _cut(slices: h5py.Dataset, places: np.ndarray, size: int) -> np.ndarray:
    """(T, size, size) in native byte order, at (T, 3) places."""
    tiles = np.empty((len(places), size, size), dtype=slices.dtype.newbyteorder("="))
    order = np.argsort(places[:, 0], kind="stable")
    starts = np.flatnonzero(np.diff(places[order, 0], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(places) else []:
        index, tops, lefts = places[rows[0], 0], places[rows, 1], places[rows, 2]
        top, left = tops.min(), lefts.min()
        whole = slices[index, top : tops.max() + size, left : lefts.max() + size]
        for row, y, x in zip(rows, tops - top, lefts - left, strict=True):
            tiles[row] = whole[y : y + size, x : x + size]
    return tiles


def read_slices(path: Path, start: int, stop: int, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Slices start .. stop - 1, whole or every `step`-th row and column: (K, h, w) grey values, uint8 class indices.

    Raises:
        DatasetError: as `read_info`.
    """
    with _opened(path) as file:
        # Rows first: of a large slice never all is in memory.
        images, classes = (file[name][start:stop, ::step][:, :, ::step] for name in ("slices", "labels"))
        return images, classes


def read_labels(path: Path, index: int) -> np.ndarray:
    """The label of one slice: (H, W) uint8 class indices; raises DatasetError as `read_info`."""
    with _opened(path) as file:
        return np.asarray(file["labels"][index])


def verify(path: Path, on_slice: Callable[[int, int], None]) -> None:
    """Hash every slice and label again; `on_slice` is told how many slices of how many are done.

    Raises:
        DatasetError: as `read_info`, or the first slice or label that is not what was packed.
    """
    info = read_info(path)
    values = value_table(info.class_values, info.ignored_values, np.dtype(info.label_dtype))
    known = np.isin(np.arange(IGNORED + 1), [*range(len(info.class_values)), IGNORED])
    with _opened(path) as file:
        for index in range(info.shape[0]):
            image, classes = file["slices"][index], file["labels"][index]
            if pixels_sha256(image) != info.image_sha256[index]:
                raise _damaged(path, f"the pixels of {info.image_names[index]} are not those that were packed")
            if not known[classes].all() or pixels_sha256(values[classes]) != info.label_sha256[index]:
                raise _damaged(path, f"the label {info.label_names[index]} is not the one that was packed")
            on_slice(index + 1, info.shape[0])


def info_as_json(info: DatasetInfo) -> dict[str, object]:
    """The summary of a packed file as plain values."""
    shares = info.class_counts.sum(0) / info.class_counts.sum()
    return {
        "file": info.path.name,
        **{name: value for name, value in dataclasses.asdict(info).items() if name not in {*COLUMNS, "path"}},
        "class_shares": [round(float(share), 6) for share in shares],
        "grey_min": float(info.grey_min.min()),
        "grey_max": float(info.grey_max.max()),
        "ignored_share": round(float(info.ignored_pixels.sum() / np.prod(info.shape)), 6),
        "gap_slices": None if info.alike_slices is None else automatic_gap(info, info.shape[0]),
    }


def is_packed_file(path: Path) -> bool:
    """Whether there is a file that `pack` wrote, whole or damaged."""
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with h5py.File(path, "r") as file:
                return _is_of_pack(file)
    return False


def _is_of_pack(file: h5py.File) -> bool:
    with contextlib.suppress(TypeError, ValueError):  # an attribute of a type that numpy has not
        return str(file.attrs.get("format")) == PACKED_FORMAT
    return False


def _refuse_elsewhere(group: h5py.Group) -> None:
    """Raises ValueError for what leads out of a file: `pack` writes no such thing, and HDF5 would open a pipe."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is in another file, or a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_elsewhere(item)
        elif item.external or item.is_virtual:
            raise ValueError(f"{name} is in another file")


def decode_info(file: h5py.File, path: Path) -> DatasetInfo:
    """All of an open packed file but its pixels.

    Raises:
        KeyError, AttributeError, TypeError, ValueError, RuntimeError: parts are missing, or do not belong together.
    """
    _refuse_elsewhere(file)
    images, labels = file["slices"], file["labels"]
    # A file of before there was one of these means what stands here.
    earlier = {"class_names": file.attrs["class_values"], "ignored_values": (), "source_dtype": images.dtype.name}
    attributes = {"data_sha256": "", **earlier, **file.attrs}
    version, (slices, height, width) = attributes["schema_version"], images.shape
    values, ignored = (tuple(map(int, attributes[name])) for name in ("class_values", "ignored_values"))
    names = tuple(map(str, attributes["class_names"]))
    if min(images.shape) < 1 or labels.shape != images.shape or labels.dtype != np.uint8:
        raise ValueError(f"slices are {images.shape}, labels {labels.shape} {labels.dtype}")
    if len(names) != len(values):
        raise ValueError(f"{len(values)} classes have {len(names)} names")
    if len(values) > MOST_CLASSES:
        raise DatasetError(f"{path} has {len(values)} classes, and {MOST_CLASSES} are the most. Merge some.")
    columns: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        if version < _SINCE.get(name, 1):
            columns[name] = np.zeros(slices, dtype=np.int64)
            continue
        column, wanted = file["table"][name], (slices, len(values)) if name == "class_counts" else (slices,)
        if column.shape != wanted or (kind is not str and column.dtype.kind not in "if"):
            raise ValueError(f"table/{name} is {column.shape} {column.dtype}, and there are {slices} slices")
        columns[name] = tuple(column.asstr()[:].tolist()) if kind is str else column[:]
    counted = columns["class_counts"].sum(1) + columns["ignored_pixels"]
    if np.dtype(str(attributes["label_dtype"])).kind not in "ui" or (counted != height * width).any():
        raise ValueError("its labels are no whole numbers, or not all counted")
    full_scale, alike = float(attributes["full_scale"]), None
    grey = GreyScale(0.0, full_scale)
    if version > 1:
        (low, high), (first, last) = (map(float, attributes[name]) for name in ("grey_range", "grey_quantiles"))
        grey = choose_scale(images.dtype, full_scale, (first, last), (low, high))
    if version > 2:
        alike = operator.index(attributes["alike_slices"])
        if not 1 <= alike <= slices:
            raise ValueError(f"its {slices} slices are alike up to {alike}")
    texts = ("source_dtype", "label_dtype", "data_sha256", "hpcseg_version", "command", "created")
    columns.update((name, str(attributes[name])) for name in texts)
    return DatasetInfo(
        **columns,
        path=path,
        shape=(slices, height, width),
        dtype=images.dtype.name,
        class_values=values,
        class_names=names,
        ignored_values=ignored,
        full_scale=full_scale,
        grey=grey,
        voxel=voxel_of_attributes(attributes),
        alike_slices=alike,
    )


def identity_sha256(info: DatasetInfo) -> str:
    """SHA-256 (hex) of all that decides what a model meets. A change of its form gives every cell a new id.

    A grey range that is not the full scale is another data set: cells trained on one are none of the other. Where it is
    the full scale it is left out, as it was before there were others.
    """
    names = ("class_values", "full_scale", "dtype", "shape", "image_sha256", "label_sha256")
    identity = {name: getattr(info, name) for name in names} | {"numbers": info.numbers.tolist()}
    if (info.grey.low, info.grey.high) != (0.0, info.full_scale):
        identity["grey_range"] = [info.grey.low, info.grey.high]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if os.path.isdir(path):  # unlike Path.is_dir this does not raise where a name is too long
        raise DatasetError(
            f"{path} is a folder, but a packed data set is a file. Pack slices with `hpcseg pack DATA/ -o NAME.h5`."
        )
    if not os.path.isfile(path):
        raise DatasetError(f"There is no packed data set {path}. Make one with `hpcseg pack DATA/ -o {path}`.")
    try:
        file = h5py.File(path, "r")
    except PermissionError:
        raise DatasetError(f"{path} may not be read by you. Ask its owner, or pack the slices elsewhere.") from None
    except OSError:
        raise _damaged(path, "it is no HDF5 file, or was cut short") from None
    with file:
        try:
            if not _is_of_pack(file):
                raise DatasetError(f"{path} was not written by hpcseg. Make a data set with `hpcseg pack`.")
            version = file.attrs["schema_version"]
            if not isinstance(version, np.integer) or version < 1:
                raise _damaged(path, f"its schema version is {version}")
            if version > SCHEMA_VERSION:
                raise DatasetError(
                    f"{path} has schema version {version}, but this hpcseg {__version__} reads up to {SCHEMA_VERSION}. "
                    "Update hpcseg, or pack the slices again."
                )
            yield file
        except KeyError as error:
            raise _damaged(path, f"it lacks {error}") from None
        except OSError as error:
            raise _damaged(path, f"it cannot be read ({error})") from None


def _damaged(path: Path, what: str) -> DatasetError:
    return DatasetError(f"{path} is damaged: {what}. Pack the slices again with `hpcseg pack --force`.")
