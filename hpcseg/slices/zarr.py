"""An array of a Zarr store (v2 or v3), or a level of an OME-Zarr, in; slices out."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpcseg.errors import DatasetError
from hpcseg.slices.array import array_source, axis_name, no_such, passed_over, slab, slice_axes
from hpcseg.slices.calibration import voxel_in_one_unit, voxel_of_axes, with_depth_said
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, VoxelSize, below, refusing

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
        arrays, groups = _contents(path, how.dataset)
        images = _images(path, groups)
        levels = {level: described for image in images.values() for level, described in image.items()}
        # Labels of an image are in it, and no image beside it.
        alone = [image for name, image in images.items() if "labels" not in name.split("/")]
        beside = [name for name in arrays if name not in levels and "labels" not in name.split("/")]
        first = _finest(alone[0], arrays) if "" in images or (len(alone) == 1 and not beside) else None
        # Others may be the places of its axes.
        slices = arrays if len(arrays) == 1 else [name for name, array in arrays.items() if array.ndim > 1]
        usual = first if first is not None else next(iter(slices)) if len(slices) == 1 else None
        wanted = how.dataset.strip("/") if how.dataset is not None else usual
        if wanted in images and wanted not in arrays:
            wanted = _finest(images[wanted], arrays) or wanted
        if wanted is not None and wanted not in arrays:
            inside = [name for name in slices if name.startswith(f"{wanted}/")]
            wanted = inside[0] if len(inside) == 1 else wanted
        if wanted not in arrays:
            raise no_such(path, wanted, arrays)
        array = arrays[wanted]
        shape, chunks = array.shape, array.chunks
        image, level = levels.get(wanted, ({}, {}))
        names = () if how.pixels == "stored" else _axis_names(array, image)
        axes = slice_axes(shape, names, certain=how.pixels == "stored") or ()
        voxel, begins = _voxel(image, level, shape, axes) or _voxel_of_axes(wanted, arrays, axes), None
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            begins = tuple(at / scale for scale, at in _scales_and_places(image, level, axes))
        # zarr's own count makes a name of each chunk that there could be, and looks into no shard.
        wholes = math.prod(_grid(shape, chunks))
        start = f"{wanted}/" if wanted else ""
        gone = wholes - _stored_chunks(path, start, stored, array)
    source = array_source(
        path,
        "zarr",
        how,
        shape,
        np.dtype(array.dtype),
        load=_load,
        of=(path / wanted, axes),
        name="" if wanted in levels else wanted,
        axis_names=names,
        chunks=chunks,
        dataset=wanted or None,
        files=(path / wanted,),
        voxel=voxel,
        begins=begins,
        # By the format's definition, and writers leave out chunks of nothing else; but so does one that was stopped.
        notes=(
            *([f"{gone} of {wholes} chunks are not stored and are read as {array.fill_value or 0}."] * (gone > 0)),
            *passed_over(array.attrs),
        ),
    )
    # Of nothing but one value none is stored.
    if gone == wholes and any(file.startswith(start) and _CHUNK.fullmatch(file, len(start)) for file in stored):
        raise DatasetError(f"{path / wanted} has none of its {wholes} chunks where its metadata say that they are.")
    return source


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every array in a group, by name."""
    _files(path)
    return {name: (array.shape, str(array.dtype)) for name, array in _contents(path)[0].items() if name}


def _load(path: Path, axes: tuple[int, ...], first: int, last: int) -> np.ndarray:
    return slab(_open(path), axes, first, last)


def _axes(image: Any) -> list[dict[str, Any]]:
    """Of OME-Zarr, which had names alone in 0.3."""
    return [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]


def _axis_names(array: Any, image: Any) -> tuple[str, ...]:
    """As OME-Zarr has them, Zarr v3 or xarray; empty: none."""
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        kinds = {"channel": "c", "time": "t"}
        return tuple(kinds.get(str(axis.get("type")), axis_name(axis["name"])) for axis in _axes(image))
    return tuple(map(axis_name, _dimensions(array)))


def _dimensions(array: Any) -> Sequence[Any]:
    said = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return said if isinstance(said, list | tuple) else ()


def _grid(lengths: Sequence[int], parts: Sequence[int]) -> list[int]:
    return [-(-length // part) for length, part in zip(lengths, parts, strict=True)]


def _stored_chunks(store: Path, start: str, files: Sequence[str], array: Any) -> int:
    """How many of its chunks an array has, in files that lie where its metadata say.

    Raises:
        DatasetError: one is a link to nothing, or was cut short, which Blosc would not notice.
    """
    grid, count = _grid(array.shape, array.shards or array.chunks), 0
    outermost = (None, *array.filters, *array.compressors)[-1]
    in_blosc = "blosc" in type(outermost).__name__.lower()
    for name in files:
        place = tuple(map(int, re.findall(r"\d+", name[len(start) :])))
        inside = len(place) == len(grid) and all(at < end for at, end in zip(place, grid, strict=True))
        if not (inside and name == start + array.metadata.encode_chunk_key(place)):
            continue
        if not os.path.exists(file := store / name):
            raise DatasetError(f"{file} is a link to {os.readlink(file)}, which is not there.")
        parts = _parts(file, place, array)
        count += len(parts)
        if in_blosc:
            with file.open("rb") as opened:
                for offset, size in parts:
                    opened.seek(offset)
                    header = opened.read(16)
                    # The last of its numbers: bytes of the whole chunk, and Blosc reads as many.
                    needs = int.from_bytes(header[12:16], "little") if size >= 16 else 16
                    if needs > size:
                        raise DatasetError(f"{file} was cut short: {needs - size} bytes are missing.")
    return count


def _parts(file: Path, place: Sequence[int], array: Any) -> list[tuple[int, int]]:
    """First byte and bytes of each chunk in a file: of one, or of a shard those of its index that lie in the array.

    Source: the sharding codec of Zarr v3: behind the chunks offset and length of each, 2**64 - 1 for none, and a CRC.
    """
    size = os.path.getsize(file)
    if array.shards is None:
        return [(0, size)]
    inner = _grid(array.shards, array.chunks)
    left = (length - at * shard for length, at, shard in zip(array.shape, place, array.shards, strict=True))
    inside = [min(parts) for parts in zip(inner, _grid(list(left), array.chunks), strict=True)]
    codec = array.metadata.codecs[0].to_dict()["configuration"]
    at_end = codec["index_location"] == "end"
    length = 16 * math.prod(inner) + 4 * (codec["index_codecs"][-1]["name"] == "crc32c")
    with file.open("rb") as opened:
        opened.seek(size - length if at_end else 0)
        order = ">" if codec["index_codecs"][0]["configuration"].get("endian") == "big" else "<"
        index = np.frombuffer(opened.read(16 * math.prod(inner)), f"{order}u8").reshape(*inner, 2)
    index = index[tuple(map(slice, inside))].reshape(-1, 2)
    parts = index[(index != np.iinfo(np.uint64).max).any(-1)].tolist()
    if any(offset + length > size for offset, length in parts):
        raise DatasetError(f"{file} has an index of bytes that it has not. Was it cut short?")
    return [(offset, length) for offset, length in parts]


def _files(folder: Path) -> list[str]:
    """Every file of a store, as named from there; DatasetError for what is none, such as a pipe, which would wait."""
    found = []
    for file in below(folder):
        if not os.path.isfile(file) and os.path.exists(file):
            if os.path.isdir(file):
                continue
            raise DatasetError(f"{file} is no regular file and is never read. Remove it from {folder}.")
        found.append(os.path.relpath(file, folder))
    return found


def _open(path: Path, *, consolidated: bool | None = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What is consolidated is a copy, which somebody who appends to an array may have left as it was.
        zarr = load_extra("zarr", "zarr", path)
        # Of a path alone zarr would take "::" for a chain of file systems.
        store = zarr.storage.LocalStore(path, read_only=True)
        return zarr.open(store, mode="r", use_consolidated=consolidated)


def _contents(path: Path, wanted: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """All arrays and all groups of a store, by name; what was opened itself has the name "".

    Where some of them cannot be read, and one is wanted, that one and the groups that it is in.
    """
    try:
        return _all_contents(path)
    except Exception:
        if wanted is None or not is_zarr(path / wanted):
            raise
    above = PurePosixPath(wanted.strip("/")).parents
    groups = {"" if name == PurePosixPath() else str(name): path / name for name in above if is_zarr(path / name)}
    return {wanted.strip("/"): _open(path / wanted)}, {name: _open(group) for name, group in groups.items()}


def _all_contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for consolidated in (False, None):  # of groups that have no file of their own, what is consolidated is all
        node = _open(path, consolidated=consolidated)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are none of the store's, such as those a Mac leaves
            walked = hasattr(node, "members")
            inside = node.members(max_depth=None, use_consolidated_for_children=False) if walked else ()
        items = {"": node, **dict(sorted(inside))}
        groups = {name: item for name, item in items.items() if hasattr(item, "members")}
        arrays = {name: item for name, item in items.items() if name not in groups}
        if arrays:
            break
    return arrays, groups


def _images(path: Path, groups: Mapping[str, Any]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The levels of each OME-Zarr image in a store, as `_levels`, by the image's name.

    Of an array alone, in which there are no groups, those of the image that it is a level of.
    """
    if not groups:
        levels: dict[str, tuple[Any, Any]] = {}
        with contextlib.suppress(Exception):  # what is above an array that is sound need be no store
            levels = _levels(_open(path.parent)) if is_zarr(path.parent) else {}
        return {"": {"": levels[path.name]}} if path.name in levels else {}
    found = {name: _levels(group) for name, group in groups.items()}
    return {
        name: {f"{name}/{level}" if name else level: described for level, described in levels.items()}
        for name, levels in found.items()
        if levels
    }


def _finest(levels: Iterable[str], arrays: Mapping[str, Any]) -> str | None:
    """The level of most voxels, of equal ones the first; one that is not there counts as it is listed."""
    sizes = {name: math.prod(arrays[name].shape) if name in arrays else math.inf for name in levels}
    return max(sizes, key=lambda name: sizes[name], default=None)


def _levels(group: Any) -> dict[str, tuple[Any, Any]]:
    """The levels of an OME-Zarr image by their names in its group: its metadata and theirs; empty for other groups."""
    try:
        attributes = dict(group.attrs)
        image = (attributes.get("ome") or attributes)["multiscales"][0]
        return {str(level["path"]).strip("/"): (image, level) for level in image["datasets"]}
    except (LookupError, TypeError, AttributeError):  # there is no such metadata, or what only looks like it
        return {}


def _scales_and_places(image: Any, level: Any, axes: Sequence[int]) -> list[tuple[float, float]]:
    """Of a level along some axes the length of a voxel and the place of the first one; errors where they are not said.

    Its transformations act one after the other, those of the image behind those of the level.
    """
    scale, place = np.ones(len(axes)), np.zeros(len(axes))
    steps = (*level["coordinateTransformations"], *(image.get("coordinateTransformations") or ()))
    if not any(step["type"] == "scale" for step in steps):
        raise ValueError("it has no scale")
    for step in steps:
        if step["type"] == "scale":
            factors = np.array(step["scale"], dtype=float)[list(axes)]
            scale, place = scale * factors, place * factors
        elif step["type"] == "translation":
            place = place + np.array(step["translation"], dtype=float)[list(axes)]
    return list(zip(scale.tolist(), place.tolist(), strict=True))


def _voxel(image: Any, level: Any, shape: tuple[int, ...], places: tuple[int, ...]) -> VoxelSize | None:
    """The size of a voxel of a level; None where its metadata do not say it, or not so that it is understood.

    Args:
        image: its metadata.
        level: those of the level.
        shape: of its array.
        places: of the axes that are slices, height and width.
    """
    try:
        axes = _axes(image)
        chosen = [axes[place] for place in places] if len(axes) == len(shape) else []
        apart = chosen[0] if len(chosen) > 2 else {}
        in_space = apart.get("type", "space" if apart.get("name") == "z" else "") == "space"  # times have no depth
        scales = [scale for scale, _ in _scales_and_places(image, level, places)]
        units = [axis.get("unit") for axis in chosen][-2:]
        known = next((unit for unit in reversed(units) if unit), "")
        depth, *across = [None, None, *scales][-3:]
        units = [apart.get("unit") if in_space else known, *units]
        voxel = voxel_in_one_unit([depth if in_space else None, *across], [unit or known for unit in units])
        more = image.get("metadata")
        return with_depth_said(voxel, more if isinstance(more, dict) else {})
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _voxel_of_axes(name: str, arrays: Mapping[str, Any], axes: tuple[int, ...]) -> VoxelSize | None:
    """Of an array by its name, as xarray has it: the places along an axis are an array beside it, of the axis' name."""
    with contextlib.suppress(Exception):  # what is only copied never ends the work, whatever lies there
        array, above = arrays[name], PurePosixPath(name).parent
        named = [str(above / str(_dimensions(array)[axis])) for axis in axes]
        if {*named[-2:]} <= arrays.keys():
            beside = [arrays[axis] for axis in named if axis in arrays]
            if all(one.ndim == 1 and not passed_over(one.attrs) for one in beside):
                return voxel_of_axes([(np.asarray(one[:], dtype=float), one.attrs.get("units")) for one in beside])
    return None
