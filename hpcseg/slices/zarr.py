"""An array of a Zarr store (v2 or v3), or a level of an OME-Zarr, in; slices out."""

from __future__ import annotations

import functools
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.calibration import voxel_in_one_unit
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, VoxelSize, first_line, stack_facts

_MARKS = ("zarr.json", ".zgroup", ".zarray")
_MOST_BYTES_KEPT = 256 * 2**20
_MOST_LISTED = 10


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.isfile(path / mark) for mark in _MARKS)


@dataclass(frozen=True)
class _Slices:
    """Reads a slice of an array whose other axes are one long; slices of one chunk are kept together."""

    path: Path
    array: str
    before: int
    """Axes in front of the slices', such as time and channel."""
    dtype: np.dtype
    together: int
    slices: int
    """0: the array is one slice."""
    opened_ns: int
    """When, so that what is kept of one opening is not taken for what the store holds at a later one."""

    def __call__(self, index: int) -> np.ndarray:
        with _LOCK:
            slab = _slab(self, index // self.together)
        pixels: np.ndarray = slab[index % self.together]
        return pixels


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=2)
def _slab(of: _Slices, number: int) -> np.ndarray:
    array = _open(of.path, of.array)
    first = number * of.together
    chosen = (0,) * of.before + ((slice(first, first + of.together),) if of.slices else ())
    read = np.asarray(array[chosen] if chosen else array[...]).astype(of.dtype, copy=False)
    return read if of.slices else read[None]


def open_zarr(path: Path, how: Reading) -> Source:
    """The slices of an array, whose last three axes are slices, height and width; two are one slice.

    Args:
        path: of the store, or of a group or array in it.
        how: `dataset` names the array or level; None: the first level of an OME-Zarr, or the only array.

    Raises:
        DatasetError: it cannot be read, or has several channels or times.
        ConfigError: there are several arrays and none is named; or zarr is not installed.
    """
    try:
        node = _open(path, "")
        arrays = _arrays(node)
        levels = _levels(node)
        wanted = how.dataset.strip("/") if how.dataset is not None else next(iter(levels), None)
        if wanted is None and len(arrays) == 1:
            wanted = next(iter(arrays))
        if wanted is None or wanted not in arrays:
            raise ConfigError(_which(path, wanted, {name: array.shape for name, array in arrays.items()}))
        array = arrays[wanted]
        shape, dtype, chunks = array.shape, np.dtype(array.dtype), array.chunks
        gone = array.nchunks - array.nchunks_initialized
    except (ConfigError, DatasetError):
        raise
    except Exception as error:  # zarr and its codecs share no base class
        raise DatasetError(f"{path} is no Zarr store that can be read ({first_line(error)}).") from None
    if dtype.kind not in "uifb" or len(shape) < 2 or 0 in shape:
        raise DatasetError(f"{path}: {wanted or 'the array'} is {shape} {dtype}, which are no slices of grey values.")
    before = max(0, len(shape) - 3)
    if any(length > 1 for length in shape[:before]):
        raise DatasetError(
            f"{path}: {wanted or 'the array'} is {shape}, and what lies before its slices is longer than 1; save the "
            "one channel and time to segment."
        )
    slices = shape[-3] if len(shape) > 2 else 0
    height, width = shape[-2:]
    number = max(slices, 1)
    native = dtype.newbyteorder("=")
    together = max(1, min(chunks[-3] if slices else 1, _MOST_BYTES_KEPT // (height * width * dtype.itemsize)))
    names, numbers = stack_facts(wanted if wanted and not levels else path.name, number, how.first)
    return Source(
        path=path,
        form="zarr",
        dataset=wanted or None,
        names=names,
        numbers=numbers,
        shapes=((height, width),) * number,
        dtypes=(native,) * number,
        decode=_Slices(path, wanted, before, native, together, slices, time.monotonic_ns()),
        files=(next(path / mark for mark in _MARKS if os.path.isfile(path / mark)),),
        pixels_in=(path / wanted,),
        voxel=levels.get(wanted),
        # By the format's definition, and writers leave out chunks of nothing else; but so does one that was stopped.
        notes=(f"{gone} of {array.nchunks} chunks are not stored and are read as {array.fill_value}.",) if gone else (),
    )


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every array of a store, by name."""
    return {name: (array.shape, str(array.dtype)) for name, array in _arrays(_open(path, "")).items()}


def _open(path: Path, name: str) -> Any:
    zarr = load_extra("zarr", "zarr", path)
    return zarr.open(os.fspath(path / name) if name else os.fspath(path), mode="r")


def _arrays(node: Any) -> dict[str, Any]:
    """All arrays under a group by name; an array alone has the name ""."""
    if not hasattr(node, "members"):
        return {"": node}
    return {name: item for name, item in sorted(node.members(max_depth=None)) if not hasattr(item, "members")}


def _levels(node: Any) -> dict[str, VoxelSize | None]:
    """The levels of an OME-Zarr, the finest first, with the size of a voxel; empty for other stores."""
    try:
        attributes = dict(node.attrs)
        multiscales = (attributes.get("ome") or attributes)["multiscales"][0]
        paths = [str(level["path"]) for level in multiscales["datasets"]]
    except (LookupError, TypeError, AttributeError):  # there is no such metadata, or what only looks like it
        return {}
    return {path: _voxel(multiscales, level) for path, level in zip(paths, multiscales["datasets"], strict=True)}


def _voxel(multiscales: dict[str, Any], level: dict[str, Any]) -> VoxelSize | None:
    """The size of a voxel of a level; None where its metadata do not say it, or not so that it is understood."""
    try:
        scale = next(one["scale"] for one in level["coordinateTransformations"] if one["type"] == "scale")
        units = [axis.get("unit") for axis in multiscales["axes"][-3:]]
        known = next(unit for unit in reversed(units) if unit)
        return voxel_in_one_unit(scale[-3:], [unit or known for unit in units])
    except (LookupError, TypeError, AttributeError, StopIteration):
        return None


def _which(path: Path, asked: str | None, found: dict[str, tuple[int, ...]]) -> str:
    listing = ", ".join(f"{name or 'the array itself'} {shape}" for name, shape in list(found.items())[:_MOST_LISTED])
    what = "has several arrays" if asked is None and found else f"has no array {asked or 'to read'}"
    return f"{path} {what}. It has {listing or 'none'}. Name one with --dataset, or as {path.name}::NAME."
