"""An array of a Zarr store (v2 or v3), or a level of an OME-Zarr, in; slices out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import DatasetError
from hpcseg.slices.array import array_source, no_such, slab
from hpcseg.slices.calibration import voxel_in_one_unit
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, VoxelSize, refusing

# c/0/0/0 or 0.0.0, or the other way round.
_CHUNK = re.compile(r"(c[/.])?\d+([/.]\d+)*")
_MARKS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.isfile(path / mark) for mark in _MARKS)


def open_zarr(path: Path, how: Reading) -> Source:
    """The slices of an array, whose last three axes are slices, height and width; two are one slice.

    Args:
        path: of the store, or of a group or array in it.
        how: `dataset` names the array or level; None: the first level of an OME-Zarr, or the only array.

    Raises:
        DatasetError: it cannot be read, or has several channels or times.
        ConfigError: there are several arrays and none is named; or zarr is not installed.
    """
    with refusing(f"{path} is no Zarr store that can be read"):
        stored = _files(path)
        node = _open(path)
        arrays, levels = _arrays(node), _levels(node)
        wanted = how.dataset.strip("/") if how.dataset is not None else next(iter(levels or arrays), "")
        if wanted not in arrays or (how.dataset is None and not levels and len(arrays) > 1):
            raise no_such(path, None if wanted in arrays else wanted, arrays)
        array = arrays[wanted]
        shape, chunks = array.shape, array.chunks
        start = f"{wanted}/" if wanted else ""
        parts = [file for file in stored if file.startswith(start) and _CHUNK.fullmatch(file, len(start))]
        # zarr's own count makes a name of each chunk that there could be, and looks into no shard.
        wholes = math.prod(_grid(shape, chunks))
        gone = wholes - sum(_chunks_in(path / file, file[len(start) :], array) for file in parts)
    return array_source(
        path,
        "zarr",
        how,
        shape,
        np.dtype(array.dtype),
        load=_load,
        of=(path / wanted,),
        name="" if levels else wanted,
        together=chunks[-3] if len(shape) > 2 else 1,
        decoded=math.prod(chunks) * np.dtype(array.dtype).itemsize,
        dataset=wanted or None,
        files=(path / wanted,),
        voxel=levels.get(wanted),
        # By the format's definition, and writers leave out chunks of nothing else; but so does one that was stopped.
        notes=(f"{gone} of {wholes} chunks are not stored and are read as {array.fill_value}.",) if gone else (),
    )


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every array in a group, by name."""
    _files(path)
    return {name: (array.shape, str(array.dtype)) for name, array in _arrays(_open(path)).items() if name}


def _load(path: Path, first: int, last: int) -> np.ndarray:
    return slab(_open(path), first, last)


def _grid(lengths: Sequence[int], parts: Sequence[int]) -> list[int]:
    return [-(-length // part) for length, part in zip(lengths, parts, strict=True)]


def _chunks_in(file: Path, name: str, array: Any) -> int:
    """How many chunks of an array a file holds: one, or of a shard those that its index has and that lie in the array.

    Source: the sharding codec of Zarr v3: behind the chunks offset and length of each, 2**64 - 1 for none, and a CRC.
    """
    if array.shards is None:
        return 1
    inner = _grid(array.shards, array.chunks)
    place = [int(number) for number in re.findall(r"\d+", name)]
    left = (length - at * shard for length, at, shard in zip(array.shape, place, array.shards, strict=True))
    inside = [min(parts) for parts in zip(inner, _grid(list(left), array.chunks), strict=True)]
    codec = array.metadata.codecs[0].to_dict()["configuration"]
    if codec["index_location"] != "end" or [one["name"] for one in codec["index_codecs"]] != ["bytes", "crc32c"]:
        return math.prod(inside)  # nobody writes these
    with file.open("rb") as opened:
        opened.seek(-16 * math.prod(inner) - 4, os.SEEK_END)
        index = np.frombuffer(opened.read(16 * math.prod(inner)), "<u8").reshape(*inner, 2)
    there = (index != np.iinfo(np.uint64).max).any(-1)
    return int(np.count_nonzero(there[tuple(map(slice, inside))]))


def _files(folder: Path) -> list[str]:
    """Every file of a store, as named from there; DatasetError for what is none, such as a pipe, which would wait."""
    found = []
    for inside, _, names in os.walk(folder):
        for file in (os.path.join(inside, name) for name in names):
            if not os.path.isfile(file) and os.path.exists(file):
                raise DatasetError(f"{file} is no regular file and is never read. Remove it from {folder}.")
            found.append(os.path.relpath(file, folder))
    return found


def _open(path: Path) -> Any:
    return load_extra("zarr", "zarr", path).open(os.fspath(path), mode="r")


def _arrays(node: Any) -> dict[str, Any]:
    """All arrays under a group by name; an array alone has the name ""."""
    if not hasattr(node, "members"):
        return {"": node}
    return {name: item for name, item in sorted(node.members(max_depth=None)) if not hasattr(item, "members")}


def _levels(node: Any) -> dict[str, VoxelSize | None]:
    """The levels of an OME-Zarr, the finest first, with the size of a voxel; empty for other stores."""
    try:
        attributes = dict(node.attrs)
        image = (attributes.get("ome") or attributes)["multiscales"][0]
        return {str(level["path"]): _voxel(image, level) for level in image["datasets"]}
    except (LookupError, TypeError, AttributeError):  # there is no such metadata, or what only looks like it
        return {}


def _voxel(image: dict[str, Any], level: dict[str, Any]) -> VoxelSize | None:
    """The size of a voxel of a level; None where its metadata do not say it, or not so that it is understood."""
    try:
        scale = next(one["scale"] for one in level["coordinateTransformations"] if one["type"] == "scale")
        units = [axis.get("unit") for axis in image["axes"][-3:]]
        known = next(unit for unit in reversed(units) if unit)
        return voxel_in_one_unit(scale[-3:], [unit or known for unit in units])
    except (LookupError, TypeError, AttributeError, StopIteration):
        return None
