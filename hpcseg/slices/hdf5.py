"""A data set of an HDF5 or NeXus file in, slices out: through any kind of link, and nothing that is not there.

HDF5 reads what is missing (sources of a virtual data set, chunks nobody wrote, the end of an external file) as fill
values without a word, so all of it is looked for first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.calibration import read_hdf5_voxel
from hpcseg.slices.source import Faults, Reading, Source, first_line, stack_facts

_MOST_LISTED = 10
_MOST_DEPTH = 12
_MOST_BYTES_KEPT = 256 * 2**20
PACKED_SLICES = "slices"
_PLUGINS = "hdf5plugin"


@dataclass(frozen=True)
class _Slices:
    """Reads a slice; a chunk of many slices is decoded as a whole, and kept until another one is wanted."""

    path: Path
    dataset: str
    dtype: np.dtype
    together: int
    slices: int
    """0: the data set is one slice."""
    plugins: bool
    """Whether its filters are those of hdf5plugin, which each process has to load."""
    opened_ns: int
    """When, so that what is kept of one opening is not taken for what the file holds at a later one."""

    def __call__(self, index: int) -> np.ndarray:
        with _LOCK:  # else each thread would read the same slab
            slab = _slab(self, index // self.together)
        pixels: np.ndarray = slab[index % self.together]
        return pixels


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=2)
def _slab(of: _Slices, number: int) -> np.ndarray:
    first = number * of.together
    if of.plugins:
        importlib.import_module(_PLUGINS)
    with h5py.File(of.path, "r") as file:
        dataset = _with_raw_files_beside(file[of.dataset])
        read = dataset[first : first + of.together] if of.slices else dataset[()][None]
    return np.asarray(read).astype(of.dtype, copy=False)


def _with_raw_files_beside(dataset: h5py.Dataset) -> h5py.Dataset:
    """A data set that looks for its raw files beside itself, also where h5py was loaded before `hpcseg.hdf5`."""
    if not dataset.external:
        return dataset
    file, name = dataset.file, dataset.name.encode()
    dataset.id.close()  # or it would be opened again as it is
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))


def open_hdf5(path: Path, how: Reading, *, names: tuple[str, ...] | None = None) -> Source:
    """The slices of a data set of two or three dimensions.

    Args:
        path: of the file.
        how: `dataset` names it; None: what the file's NeXus attributes call its data, or the only one.
        names: of the slices, where the file says them.

    Raises:
        DatasetError: it cannot be opened, or parts of it are missing.
        ConfigError: there are several, and none is named.
    """
    try:
        with h5py.File(path, "r") as file:
            wanted = how.dataset.strip("/") if how.dataset is not None else _only(file, path)
            dataset = _follow(file, wanted, path)
            if isinstance(dataset, h5py.Dataset) and dataset.ndim > 3:
                what = f"{path}: {wanted} is {dataset.shape}, and a data set of slices is (slices, height, width)"
                raise DatasetError(f"{what}. Save the one channel and time to segment.")
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim not in (2, 3) or 0 in dataset.shape:
                raise ConfigError(_which(file, path, how.dataset))
            if not _holds_numbers(dataset):
                raise DatasetError(f"{path}: {wanted} does not hold whole or real numbers, so no grey values.")
            pixels_in = _check_all_there(dataset, path, wanted)
            slices = dataset.shape[0] if dataset.ndim == 3 else 0
            height, width = dataset.shape[-2:]
            dtype = dataset.dtype.newbyteorder("=")
            thickness = dataset.chunks[0] if slices and dataset.chunks else 1
            voxel = read_hdf5_voxel(dataset)
    except OSError as error:
        raise DatasetError(f"{path} is no HDF5 file that can be read ({first_line(error)}).") from None
    number = max(slices, 1)
    called, numbers = stack_facts(Path(wanted).name, number, how.first)
    together = max(1, min(thickness, _MOST_BYTES_KEPT // (height * width * dtype.itemsize)))
    return Source(
        path=path,
        form="hdf5",
        dataset=wanted,
        names=names or called,
        numbers=numbers,
        shapes=((height, width),) * number,
        dtypes=(dtype,) * number,
        decode=_Slices(path, wanted, dtype, together, slices, _PLUGINS in sys.modules, time.monotonic_ns()),
        files=(path,),
        pixels_in=tuple(sorted(pixels_in)),
        voxel=voxel,
    )


def list_datasets(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every data set of numbers of two or three dimensions, by name; links are followed."""
    with h5py.File(path, "r") as file:
        return {name: (dataset.shape, str(dataset.dtype)) for name, dataset in _walk(file) if dataset.ndim in (2, 3)}


def _follow(file: h5py.File, name: str, path: Path, depth: int = 0) -> Any:
    """What a name leads to; DatasetError names the link that leads nowhere."""
    at: Any = file
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        here = "/".join(parts[: index + 1])
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) and part in _names(at) else None
        if link is None:
            raise ConfigError(_which(file, path, name))
        try:
            at = at[part]
        except (KeyError, OSError, RuntimeError) as error:
            if isinstance(link, h5py.ExternalLink):
                where = f"{link.path} in {link.filename}, which lies beside {path.name} or at that path"
                raise DatasetError(f"{path}: {here} is a link to {where}, and cannot be opened. Is it there?") from None
            if isinstance(link, h5py.SoftLink) and depth < _MOST_DEPTH:  # it may lead to another link that is broken
                with contextlib.suppress(ConfigError):
                    onward = link.path if link.path.startswith("/") else f"{at.name}/{link.path}"
                    _follow(at.file, onward, Path(os.fsdecode(at.file.filename)), depth + 1)
            target = f" to {link.path}" if isinstance(link, h5py.SoftLink) else ""
            raise DatasetError(
                f"{path}: {here} is a link{target} and cannot be opened ({first_line(error)})."
            ) from None
    return at


def _names(group: h5py.Group) -> set[str]:
    return set(group.keys())


def _walk(group: h5py.Group, name: str = "", seen: tuple[Any, ...] = ()) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set of numbers under a group, through links; what leads nowhere is passed over, and a ring ends."""
    if len(seen) > _MOST_DEPTH or any(group.id == one for one in seen):
        return
    for part in group:
        try:
            item = group[part]
        except (KeyError, OSError, RuntimeError):
            continue
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{name}{part}/", (*seen, group.id))
        elif isinstance(item, h5py.Dataset) and 0 not in (item.shape or (0,)) and _holds_numbers(item):
            yield f"{name}{part}", item


def _holds_numbers(dataset: h5py.Dataset) -> bool:
    try:
        return dataset.dtype.kind in "uifb"
    except TypeError:  # a type that numpy has not
        return False


def _only(file: h5py.File, path: Path) -> str:
    """The data set that is meant where none is named; raises ConfigError where there is a choice."""
    if (signal := _signal(file)) is not None:
        return signal
    found = dict[Any, str]()
    for name, dataset in _walk(file):
        if dataset.ndim == 3:
            # One that several links lead to counts once.
            info = h5py.h5o.get_info(dataset.id)
            found.setdefault((os.fspath(dataset.file.filename), info.addr), name)
    if not found:
        flat = [name for name, dataset in _walk(file) if dataset.ndim == 2 and min(dataset.shape) > 1]
        found = {name: name for name in flat} if len(flat) == 1 else {}
    if len(found) != 1:
        raise _broken(file, path) or ConfigError(_which(file, path, None))
    return next(iter(found.values()))


def _broken(file: h5py.File, path: Path) -> DatasetError | None:
    """The error of the first link that leads nowhere, where a file has nothing else to offer."""
    if any(dataset.ndim in (2, 3) for _, dataset in _walk(file)):
        return None
    names: list[str] = []
    file.visititems_links(lambda name, link: names.append(name) if not isinstance(link, h5py.HardLink) else None)
    for name in names:
        try:
            _follow(file, name, path)
        except DatasetError as error:
            return error
        except ConfigError:
            continue
    return None


def _signal(file: h5py.File) -> str | None:
    """What NeXus calls the data: the attributes `default` from group to group, and `signal` at their end."""
    at: Any = file
    name = ""
    try:
        for _ in range(_MOST_DEPTH):
            if (following := _text(at.attrs.get("default"))) is None:
                break
            name, at = f"{name}{following}/", at[following]
        signal = _text(at.attrs.get("signal"))
        if signal is not None and name and at[signal].ndim == 3:
            return name + signal
    except Exception:  # attributes of any type, and links to nowhere: then there is no such hint
        return None
    return None


def _text(value: Any) -> str | None:
    """An attribute that is one text: h5py's str, the bytes of other writers, or an array of one of them."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else None


def _which(file: h5py.File, path: Path, asked: str | None) -> str:
    found = {name: dataset.shape for name, dataset in _walk(file) if dataset.ndim in (2, 3)}
    listing = ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())[:_MOST_LISTED])
    there = f"It has {listing}." if found else "It has none of three dimensions (slices, height, width)."
    what = "has several data sets" if asked is None and found else f"has no data set {asked or 'to read'} of slices"
    return f"{path} {what}. {there} Name one with --dataset, or as {path.name}::NAME."


def _check_all_there(dataset: h5py.Dataset, path: Path, name: str, depth: int = 0) -> set[Path]:
    """The files that hold its pixels; raises DatasetError for parts that HDF5 would fill in, and missing filters."""
    pixels_in = {Path(os.fsdecode(dataset.file.filename))}
    plan = dataset.id.get_create_plist()
    for index in range(plan.get_nfilters()):
        code, _, _, called = plan.get_filter(index)
        if not _available(code):
            shown = called.decode(errors="replace") or f"number {code}"
            raise DatasetError(
                f"{path}: {name} is compressed by the filter {shown} ({code}), which is not installed here. "
                "`pip install 'hpcseg[hdf5]'` has most of them."
            )
    if dataset.is_virtual:
        pixels_in |= _check_virtual(dataset, path, name, depth)
    elif dataset.external:
        pixels_in |= _check_external(dataset, path, name)
    elif dataset.chunks is not None:
        wanted = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        stored = dataset.id.get_num_chunks()
        if stored < wanted:
            raise DatasetError(
                f"{path}: of the {wanted} chunks of {name} {wanted - stored} were never written"
                f"{_unwritten(dataset)}. Was its writer stopped? Write it again."
            )
    elif dataset.id.get_storage_size() == 0:
        raise DatasetError(f"{path}: {name} was never written. Was its writer stopped? Write it again.")
    return pixels_in


def _available(code: int) -> bool:
    if h5py.h5z.filter_avail(code):
        return True
    with contextlib.suppress(ImportError):
        importlib.import_module(_PLUGINS)
    return bool(h5py.h5z.filter_avail(code))


def _unwritten(dataset: h5py.Dataset) -> str:
    """Which slices have chunks that are not there."""
    if dataset.ndim < 3:
        return ""
    there: dict[int, int] = {}
    for index in range(dataset.id.get_num_chunks()):
        first = dataset.id.get_chunk_info(index).chunk_offset[0]
        there[first] = there.get(first, 0) + 1
    each = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
    gone = [first for first in range(0, dataset.shape[0], dataset.chunks[0]) if there.get(first, 0) < each]
    return f", from slice {gone[0] + 1} to slice {min(gone[-1] + dataset.chunks[0], dataset.shape[0])}"


def _check_virtual(dataset: h5py.Dataset, path: Path, name: str, depth: int) -> set[Path]:
    faults, pixels_in, filled = Faults(path), set[Path](), h5py.h5s.create_simple(dataset.shape)
    filled.select_none()
    # Of a data set in another file, to which a link led, its own folder counts.
    home = Path(os.fsdecode(dataset.file.filename))
    # %b in a name is counted up by HDF5, which ends the data set at the first file that is not there.
    sources = [source for source in dataset.virtual_sources() if "%b" not in source.file_name.replace("%%", "")]
    for source in sources:
        _fill(filled, source.vspace)
        called = source.file_name.replace("%%", "%")
        file = home if called == "." else _source_file(home, called)
        try:
            with h5py.File(file, "r") as opened:
                part = opened[source.dset_name]
                if depth < _MOST_DEPTH and part != dataset:
                    pixels_in |= _check_all_there(part, file, source.dset_name, depth + 1)
                if not _has_room(part.shape, source):
                    faults.add(f"{called} has {part.shape} in {source.dset_name}, and more is needed")
        except (OSError, KeyError):
            faults.add(f"{name} is put together of files, and {called} ({source.dset_name}) is not there")
        except DatasetError as error:
            faults.add(str(error).removesuffix("."))
    faults.raise_if_any()
    missing = math.prod(dataset.shape) - filled.get_select_npoints()
    if len(sources) == len(dataset.virtual_sources()) and missing > 0:
        raise DatasetError(f"{path}: {name} is put together of files, and none of them has {missing} of its pixels.")
    return pixels_in


def _fill(filled: Any, part: Any) -> None:
    """Add what a source fills, which others may fill as well; what is no regular block is taken for all there is."""
    if part.get_select_type() == h5py.h5s.SEL_HYPERSLABS and part.is_regular_hyperslab():
        start, stride, count, block = part.get_regular_hyperslab()
        if h5py.h5s.UNLIMITED not in (*count, *block):
            filled.select_hyperslab(start, count, stride, block, op=h5py.h5s.SELECT_OR)
            return
    filled.select_all()


def _source_file(home: Path, name: str) -> Path:
    """Where HDF5 finds a file of a virtual data set: at its path, or, if it was moved, beside the data set's file."""
    names = [name, Path(name).name] if Path(name).is_absolute() else [name]
    places = [folder / name for name in names for folder in (home.parent, home.resolve().parent)]
    return next((place for place in places if place.is_file()), places[0])


def _has_room(shape: tuple[int, ...], source: Any) -> bool:
    """Whether a data set of this shape has all that is taken of it."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        ends = source.src_space.get_select_bounds()[1]
        return len(ends) == len(shape) and all(end < length for end, length in zip(ends, shape, strict=True))
    return bool(math.prod(shape) >= source.vspace.get_select_npoints())


def _check_external(dataset: h5py.Dataset, path: Path, name: str) -> set[Path]:
    pixels_in, left = set[Path](), math.prod(dataset.shape) * dataset.dtype.itemsize
    for file, offset, size in dataset.external:
        # Of a data set in another file, to which a link led, its own folder counts.
        where = Path(os.fsdecode(dataset.file.filename)).parent / os.fsdecode(file)
        pixels_in.add(where)
        if not where.is_file():
            raise DatasetError(f"{path}: the pixels of {name} are in {where}, which is not there.")
        needs = min(size, left)  # the last may be said to have no end
        left -= needs
        if (missing := offset + needs - where.stat().st_size) > 0:
            raise DatasetError(f"{path}: the pixels of {name} are in {where}, where {missing} bytes are missing.")
    return pixels_in


def split_name(text: str) -> tuple[str, str | None]:
    """A path and the data set that is named behind it: scan.nxs::/entry/data; either may have :: in it."""
    splits = [(text[: found.start()], text[found.end() :]) for found in re.finditer(r"(?<!^)::(?=.)", text)]
    there = (split for split in [(text, None), *splits] if os.path.lexists(os.path.expanduser(split[0])))
    return next(there, splits[0] if splits else (text, None))
