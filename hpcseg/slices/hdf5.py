"""A data set of an HDF5 or NeXus file in, slices out: through any kind of link, and nothing that is not there.

HDF5 reads what is missing (sources of a virtual data set, chunks nobody wrote, the end of an external file) as fill
values without a word, so all of it is looked for first.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.array import array_source, no_such
from hpcseg.slices.calibration import read_hdf5_voxel
from hpcseg.slices.source import Reading, Source, first_line, raise_faults, refusing

PACKED_SLICES = "slices"
_MOST_DEPTH = 12
_PLUGINS = "hdf5plugin"


def open_hdf5(path: Path, how: Reading) -> Source:
    """The slices of a data set of two or three dimensions.

    Args:
        path: of the file.
        how: `dataset` names it; None: what the file's NeXus attributes call its data, or the only one.

    Raises:
        DatasetError: it cannot be opened, or parts of it are missing.
        ConfigError: there are several, and none is named; or it is none of numbers.
    """
    with refusing(f"{path} is no HDF5 file that can be read"), h5py.File(path, "r") as file:
        wanted = how.dataset.strip("/") if how.dataset is not None else _only(file, path)
        dataset = _follow(file, wanted, path)
        if not _has_slices(dataset) and getattr(dataset, "ndim", 0) <= 3:
            raise no_such(path, wanted, dict(_walk(file)))
        files = {path} | _check_all_there(dataset, path, wanted)
        return array_source(
            path,
            "hdf5",
            how,
            dataset.shape,
            dataset.dtype,
            load=_load,
            of=(path, wanted, _PLUGINS in sys.modules),
            name=Path(wanted).name,
            together=dataset.chunks[0] if dataset.chunks and dataset.ndim == 3 else 1,
            dataset=wanted,
            files=tuple(sorted(files)),
            voxel=read_hdf5_voxel(dataset),
        )


def list_datasets(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every data set of numbers of two or three dimensions, by name; links are followed."""
    with h5py.File(path, "r") as file:
        return {name: (dataset.shape, str(dataset.dtype)) for name, dataset in _walk(file)}


def _load(path: Path, name: str, plugins: bool, first: int, last: int) -> np.ndarray:
    if plugins:  # each process has to load the filters
        importlib.import_module(_PLUGINS)
    with h5py.File(path, "r") as file:
        # Raw files lie beside their data set, also where h5py was loaded before `hpcseg.hdf5` could say so.
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_efile_prefix(b"${ORIGIN}")
        dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))
        return np.asarray(dataset[first:last] if dataset.ndim == 3 else dataset[()])


def _follow(file: h5py.File, name: str, path: Path, depth: int = 0) -> Any:
    """What a name leads to; DatasetError names the link that leads nowhere."""
    at: Any = file
    passed: list[str] = []
    for part in (part for part in name.split("/") if part not in ("", ".")):
        passed.append(part)
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        if link is None:
            raise no_such(path, name, dict(_walk(file)))
        try:
            at = at[part]
        except (KeyError, OSError, RuntimeError) as error:
            if isinstance(link, h5py.SoftLink) and depth < _MOST_DEPTH:  # it may lead to another link that is broken
                with contextlib.suppress(ConfigError):
                    _follow(at.file, os.path.join(at.name, link.path), Path(at.file.filename), depth + 1)
            target = f" to {link.path}" if hasattr(link, "path") else ""
            target += f" in {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise DatasetError(
                f"{path}: {'/'.join(passed)} is a link{target}, and cannot be opened. Is it there? "
                f"({first_line(error)})"
            ) from None
    return at


def _walk(group: h5py.Group, name: str = "", seen: tuple[Any, ...] = ()) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set of slices under a group, through links; what leads nowhere is passed over, and a ring ends."""
    if len(seen) > _MOST_DEPTH or group.id in seen:
        return
    for part in group:
        try:
            item = group[part]
        except (KeyError, OSError, RuntimeError):
            continue
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{name}{part}/", (*seen, group.id))
        elif _has_slices(item):
            yield f"{name}{part}", item


def _has_slices(item: Any) -> bool:
    """Whether it is a data set of numbers of two or three dimensions."""
    try:
        of_size = isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and 0 not in item.shape
        return of_size and item.dtype.kind in "uifb"
    except TypeError:  # a type that numpy has not
        return False


def _only(file: h5py.File, path: Path) -> str:
    """The data set that is meant where none is named; raises ConfigError where there is a choice."""
    if (signal := _signal(file)) is not None:
        return signal
    found: dict[int, dict[Any, str]] = {3: {}, 2: {}}
    for name, dataset in _walk(file):
        if dataset.ndim == 3 or min(dataset.shape) > 1:
            # One that several links lead to counts once.
            info = h5py.h5o.get_info(dataset.id)
            found[dataset.ndim].setdefault((os.fspath(dataset.file.filename), info.addr), name)
    names = list((found[3] or found[2]).values())
    if len(names) == 1:
        return names[0]
    if not names:
        links: list[str] = []
        file.visititems_links(lambda name, link: links.append(name) if hasattr(link, "path") else None)
        for name in links:
            _follow(file, name, path)  # a link that leads nowhere is why there is nothing else
    raise no_such(path, None, dict(_walk(file)))


def _signal(file: h5py.File) -> str | None:
    """What NeXus calls the data: the attributes `default` from group to group, and `signal` at their end."""
    at, name = file, ""
    with contextlib.suppress(Exception):  # attributes of any type, and links to nowhere: then there is no such hint
        while (following := _text(at.attrs.get("default"))) is not None and name.count("/") < _MOST_DEPTH:
            name, at = f"{name}{following}/", at[following]
        signal = _text(at.attrs.get("signal"))
        if isinstance(signal, str) and name and at[signal].ndim == 3:
            return name + signal
    return None


def _text(value: Any) -> Any:
    """An attribute that is one text, also where its writer has bytes, or an array of one."""
    value = np.asarray(value).item()
    return value.decode() if isinstance(value, bytes) else value


def _check_all_there(dataset: h5py.Dataset, path: Path, name: str, depth: int = 0) -> set[Path]:
    """The files that hold its pixels; raises DatasetError for parts that HDF5 would fill in, and missing filters."""
    plan = dataset.id.get_create_plist()
    for index in range(plan.get_nfilters()):
        code, _, _, called = plan.get_filter(index)
        if not _available(code):
            shown = called.decode(errors="replace") or f"number {code}"
            raise DatasetError(
                f"{path}: {name} is compressed by the filter {shown} ({code}), which is not installed here. "
                "`pip install 'hpcseg[hdf5]'` has most of them."
            )
    here = Path(os.fsdecode(dataset.file.filename))
    if dataset.is_virtual:
        return {here} | _check_virtual(dataset, path, name, depth)
    if dataset.external:
        return {here} | _check_external(dataset, path, name)
    if gone := _unwritten(dataset, name):
        raise DatasetError(f"{path}: {gone}. Was its writer stopped? Write it again.")
    return {here}


def _available(code: int) -> bool:
    if not h5py.h5z.filter_avail(code):
        with contextlib.suppress(ImportError):
            importlib.import_module(_PLUGINS)
    return bool(h5py.h5z.filter_avail(code))


def _unwritten(dataset: h5py.Dataset, name: str) -> str:
    """What of a data set was never written, and of which slices; empty: nothing."""
    if dataset.chunks is None:
        return "" if dataset.id.get_storage_size() else f"{name} was never written"
    grid = [-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    wanted, stored = math.prod(grid), dataset.id.get_num_chunks()
    if stored >= wanted:
        return ""
    there = np.zeros(grid, bool)
    for index in range(stored):
        there[tuple(np.floor_divide(dataset.id.get_chunk_info(index).chunk_offset, dataset.chunks))] = True
    gone = np.flatnonzero(~there.reshape(grid[0], -1).all(axis=1)) * dataset.chunks[0]
    last = min(gone[-1] + dataset.chunks[0], dataset.shape[0])
    part = "slice" if dataset.ndim == 3 else "row"
    where = f"from {part} {gone[0] + 1} to {part} {last}"
    return f"of the {wanted} chunks of {name} {wanted - stored} were never written, {where}"


def _check_virtual(dataset: h5py.Dataset, path: Path, name: str, depth: int) -> set[Path]:
    faults, pixels_in, filled = list[str](), set[Path](), h5py.h5s.create_simple(dataset.shape)
    filled.select_none()
    home = Path(os.fsdecode(dataset.file.filename))  # not that of a link to it
    # %b in a name is counted up by HDF5, which ends the data set at the first file that is not there; %% is a %.
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
                    faults.append(f"{called} has {part.shape} in {source.dset_name}, and more is needed")
        except (OSError, KeyError):
            faults.append(f"{name} is put together of files, and {called} ({source.dset_name}) is not there")
        except DatasetError as error:
            faults.append(str(error).removesuffix("."))
    missing = math.prod(dataset.shape) - filled.get_select_npoints()
    if missing > 0 and len(sources) == len(dataset.virtual_sources()):
        faults.append(f"{name} is put together of files, and none of them has {missing} of its pixels")
    raise_faults(path, faults)
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
        needs = min(size, left)
        left -= needs
        there = where.stat().st_size if where.is_file() else 0
        if (missing := offset + needs - there) > 0:
            raise DatasetError(f"{path}: the pixels of {name} are in {where}, where {missing} bytes are missing.")
        pixels_in.add(where)
    return pixels_in
