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
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from hpcseg.slices.source import VoxelSize, voxel_size

FORMAT = "hpcseg-dataset"
SCHEMA_VERSION = 4
"""1 had no grey range, no quantiles and no columns of zeros and borders; up to 2 there was no `alike_slices`.

Up to 3 every pixel has a class, and a file in which all have is still written as one of 3, for an earlier hpcseg.
"""
TEXT_COLUMNS = ("image_names", "label_names", "image_sha256", "label_sha256")
# Columns that came with a later schema, and with which; before, they are 0.
_SINCE = {"zero_pixels": 2, "border_value": 2, "border_pixels": 2, "ignored_pixels": 4}
NUMBER_COLUMNS = ("numbers", "class_counts", "grey_min", "grey_max", *_SINCE)


@dataclass(frozen=True, kw_only=True)
class SliceTable:
    """One row per slice, N rows."""

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


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(SliceTable):
    """All of a packed file but its pixels."""

    path: Path
    shape: tuple[int, int, int]
    """Slices, height, width."""
    dtype: str
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
            info = _read_info(file, path)
        # A part of another kind, type or length; h5py raises RuntimeError for what HDF5 has no words for.
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(path, f"it is not laid out as a data set is ({error})") from None
    identity = identity_sha256(
        info,
        class_values=info.class_values,
        full_scale=info.full_scale,
        grey=info.grey,
        dtype=info.dtype,
        shape=info.shape,
    )
    if identity != info.data_sha256:
        raise _damaged(path, "its class values, grey range or slice numbers are not those that were packed")
    return info


def read_tiles(path: Path, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut tiles out of the packed slices; each slice is read at most once, in the order of the file.

    Args:
        path: the packed file.
        places: (T, 3) int64 rows (slice index, y, x).
        size: edge of a tile in pixels.

    Returns:
        Tiles (T, size, size) in the slices' dtype, and labels (T, size, size) uint8 class indices.

    Raises:
        DatasetError: as `read_info`.
    """
    with _opened(path) as file:
        images = np.empty((len(places), size, size), dtype=file["slices"].dtype.newbyteorder("="))
        labels = np.empty((len(places), size, size), dtype=np.uint8)
        order = np.argsort(places[:, 0], kind="stable")
        starts = np.flatnonzero(np.diff(places[order, 0], prepend=-1))
        for rows in np.split(order, starts[1:]) if len(places) else []:
            index, tops, lefts = places[rows[0], 0], places[rows, 1], places[rows, 2]
            top, left = tops.min(), lefts.min()
            window = (index, slice(top, tops.max() + size), slice(left, lefts.max() + size))
            image, label = file["slices"][window], file["labels"][window]
            for row, y, x in zip(rows, tops - top, lefts - left, strict=True):
                images[row] = image[y : y + size, x : x + size]
                labels[row] = label[y : y + size, x : x + size]
    return images, labels


def read_slices(path: Path, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole slices start .. stop - 1: (K, H, W) grey values and (K, H, W) uint8 class indices.

    Raises:
        DatasetError: as `read_info`.
    """
    with _opened(path) as file:
        return file["slices"][start:stop], file["labels"][start:stop]


def read_thinned(path: Path, index: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `step`-th row and column of a slice, as `read_slices`; of a large one never all is in memory.

    Raises:
        DatasetError: as `read_info`.
    """
    with _opened(path) as file:
        image, classes = (file[name][index, ::step][:, ::step] for name in ("slices", "labels"))
        return image, classes


def verify(path: Path, on_slice: Callable[[int, int], None]) -> None:
    """Hash every slice and label again, and compare with what was packed.

    Args:
        path: the packed file.
        on_slice: told how many slices of how many are done.

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
    whole = dataclasses.asdict(info)
    for column in (*TEXT_COLUMNS, *NUMBER_COLUMNS, "path"):
        whole.pop(column)
    shares = info.class_counts.sum(0) / info.class_counts.sum()
    return {
        "file": info.path.name,
        **whole,
        "class_shares": [round(float(share), 6) for share in shares],
        "grey_min": float(info.grey_min.min()),
        "grey_max": float(info.grey_max.max()),
        "ignored_share": round(float(info.ignored_pixels.sum() / np.prod(info.shape)), 6),
        "gap_slices": None if info.alike_slices is None else automatic_gap(info, info.shape[0], seed=0),
    }


def is_packed_file(path: Path) -> bool:
    """Whether there is a file that `pack` wrote, whole or damaged."""
    if not os.path.isfile(path) or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("format")) == FORMAT
    except OSError:
        return False


def _read_info(file: h5py.File, path: Path) -> DatasetInfo:
    """Decode all but the pixels; raises ValueError where sizes or types do not belong together."""
    attributes, images, labels = file.attrs, file["slices"], file["labels"]
    class_values = tuple(int(value) for value in attributes["class_values"])
    slices, height, width = images.shape
    if min(images.shape) < 1 or labels.shape != images.shape or labels.dtype != np.uint8:
        raise ValueError(f"slices are {images.shape}, labels {labels.shape} {labels.dtype}")
    version, measured = attributes["schema_version"], attributes["schema_version"] > 1
    names = tuple(str(name) for name in attributes.get("class_names", class_values))
    if len(names) != len(class_values):
        raise ValueError(f"{len(class_values)} classes have {len(names)} names")
    columns: dict[str, Any] = {
        name: np.zeros(slices, dtype=np.int64) for name, since in _SINCE.items() if version < since
    }
    for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
        if name in columns:
            continue
        column = file["table"][name]
        wanted = (slices, len(class_values)) if name == "class_counts" else (slices,)
        if column.shape != wanted or (name in NUMBER_COLUMNS and column.dtype.kind not in "if"):
            raise ValueError(f"table/{name} is {column.shape} {column.dtype}, and there are {slices} slices")
        columns[name] = tuple(column.asstr()[:].tolist()) if name in TEXT_COLUMNS else column[:]
    if len(class_values) > MOST_CLASSES:
        raise DatasetError(f"{path} has {len(class_values)} classes, and {MOST_CLASSES} are the most. Merge some.")
    texts: dict[str, Any] = {
        name: str(attributes[name]) for name in ("label_dtype", "data_sha256", "hpcseg_version", "command", "created")
    }
    counted = columns["class_counts"].sum(1) + columns["ignored_pixels"]
    if np.dtype(texts["label_dtype"]).kind not in "ui" or (counted != height * width).any():
        raise ValueError("its labels are no whole numbers, or not all counted")
    full_scale = float(attributes["full_scale"])
    return DatasetInfo(
        **columns,
        **texts,
        path=path,
        shape=(slices, height, width),
        dtype=images.dtype.name,
        class_values=class_values,
        class_names=names,
        ignored_values=tuple(int(value) for value in attributes.get("ignored_values", ())),
        source_dtype=str(attributes.get("source_dtype", images.dtype.name)),
        full_scale=full_scale,
        grey=_read_scale(attributes, images.dtype) if measured else GreyScale(0.0, full_scale),
        voxel=voxel_size(np.ravel(attributes.get("voxel_size", ())), str(attributes.get("voxel_unit", ""))),
        alike_slices=_read_alike(attributes, slices) if attributes["schema_version"] > 2 else None,
    )


def _read_scale(attributes: Mapping[str, Any], dtype: np.dtype) -> GreyScale:
    """Raises ValueError for what is no scale."""
    low, high, first, last = (float(value) for name in ("grey_range", "grey_quantiles") for value in attributes[name])
    if not low < high or not first <= last or not np.isfinite([low, high, first, last]).all():
        raise ValueError(f"its grey range is {low:g} to {high:g}, its quantiles are {first:g} and {last:g}")
    return choose_scale(dtype, float(attributes["full_scale"]), (first, last), (low, high))


def _read_alike(attributes: Mapping[str, Any], slices: int) -> int:
    """Raises ValueError for what is no distance in this stack."""
    alike = attributes["alike_slices"]
    if not isinstance(alike, np.integer) or not 1 <= alike <= slices:
        raise ValueError(f"its {slices} slices are alike up to {alike}")
    return int(alike)


def identity_sha256(
    table: SliceTable,
    *,
    class_values: Sequence[int],
    full_scale: float,
    grey: GreyScale,
    dtype: str,
    shape: tuple[int, ...],
) -> str:
    """SHA-256 (hex) of all that decides what a model meets. A change of its form gives every cell a new id.

    A grey range that is not the full scale is another data set: cells trained on one are none of the other. Where it is
    the full scale it is left out, as it was before there were others.
    """
    identity: dict[str, Any] = {
        "class_values": list(class_values),
        "full_scale": full_scale,
        "dtype": dtype,
        "shape": shape,
        "numbers": table.numbers.tolist(),
        "image_sha256": table.image_sha256,
        "label_sha256": table.label_sha256,
    }
    if (grey.low, grey.high) != (0.0, full_scale):
        identity["grey_range"] = [grey.low, grey.high]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder may not be entered
        if os.path.isdir(path):
            raise DatasetError(
                f"{path} is a folder, but a packed data set is a file. Pack slices with `hpcseg pack DATA/ -o NAME.h5`."
            )
        raise DatasetError(f"There is no packed data set {path}. Make one with `hpcseg pack DATA/ -o {path}`.")
    try:
        file = h5py.File(path, "r")
    except PermissionError:
        raise DatasetError(f"{path} may not be read by you. Ask its owner, or pack the slices elsewhere.") from None
    except OSError:
        raise _damaged(path, "it is no HDF5 file, or was cut short") from None
    with file:
        try:
            if str(file.attrs.get("format")) != FORMAT:
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
