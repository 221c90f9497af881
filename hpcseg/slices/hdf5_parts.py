"""Whether all that an HDF5 data set is made of is there: filters, chunks, other files.

HDF5 reads what is missing (sources of a virtual data set, chunks nobody wrote, the end of an external file) as fill
values without a word, so all of it is looked for first.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.external import Reach
from hpcseg.slices.hdf5_links import MOST_DEPTH, axes_of, file_of, folders, is_of_numbers, item_of, named_file
from hpcseg.slices.hdf5_selections import Box, along_unlimited, fill, has_room, needed_of, taken_of
from hpcseg.slices.source import first_line, raise_faults

PLUGINS = "hdf5plugin"
# Where HDF5 looks before all other places for files that a file names.
_PREFIXES = ("HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX", "HDF5_EXT_PREFIX")
_BESIDE = "${ORIGIN}"
_MOST_RANGES = 5


def check_all_there(
    dataset: h5py.Dataset, path: Path, name: str, reach: Reach, depth: int = 0, taken: Box | None = None
) -> set[Path]:
    """The files that hold its pixels; raises DatasetError for parts that HDF5 would fill in, and missing filters.

    Only chunks in what is taken are missed; None: all of it is.
    """
    plan = dataset.id.get_create_plist()
    for index in range(plan.get_nfilters()):
        code, _, _, called = plan.get_filter(index)
        if not _available(code):
            shown = called.decode(errors="replace") or f"number {code}"
            raise DatasetError(
                f"{path}: {name} is compressed by the filter {shown} ({code}), which is not installed here. "
                "`pip install 'hpcseg[hdf5]'` has most of them."
            )
    here = file_of(dataset)
    if dataset.is_virtual or dataset.external:
        _refuse_prefix(path, name)
    if dataset.is_virtual:
        return {here} | _check_virtual(dataset, path, name, reach, depth)
    if dataset.external:
        return {here} | _check_external(dataset, path, name, reach)
    if gone := _unwritten(dataset, path, name, reach, taken or tuple((0, length) for length in dataset.shape)):
        raise DatasetError(
            f"{path}: {gone}. Was its writer stopped? Write it again. Where it is meant, as in labels that are not "
            "complete, write their value there as well."
        )
    return {here}


def _refuse_prefix(path: Path, name: str) -> None:
    for variable in _PREFIXES:
        if os.environ.get(variable, _BESIDE) not in ("", _BESIDE):
            raise ConfigError(
                f"{path}: the pixels of {name} are in other files, and {variable} is set, by which HDF5 takes those in "
                f"{os.environ[variable]}. Unset it, and put these files where {path.name} names them."
            )


def _available(code: int) -> bool:
    if not h5py.h5z.filter_avail(code):
        with contextlib.suppress(ImportError):
            importlib.import_module(PLUGINS)
    return bool(h5py.h5z.filter_avail(code))


def _unwritten(dataset: h5py.Dataset, path: Path, name: str, reach: Reach, taken: Box) -> str:
    """What of a data set was never written of what is taken, and of which slices; empty: nothing."""
    if dataset.chunks is None:
        return "" if dataset.id.get_storage_size() else f"{name} was never written"
    total = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() >= total:
        return ""
    if (path, name) not in reach.written:
        offsets = list[tuple[int, ...]]()
        dataset.id.chunk_iter(lambda chunk: offsets.append(chunk.chunk_offset))
        reach.written[path, name] = np.array(offsets, int).reshape(-1, dataset.ndim) // dataset.chunks
    grid = [range(first // chunk, -(-end // chunk)) for (first, end), chunk in zip(taken, dataset.chunks, strict=True)]
    there = reach.written[path, name]
    there = there[np.all([(at >= rows.start) & (at < rows.stop) for at, rows in zip(there.T, grid, strict=True)], 0)]
    wanted, stored = math.prod(map(len, grid)), len(there)
    if stored >= wanted:
        return ""
    axes = axes_of(dataset) or (0,)
    along = axes[0]
    deep, rows, counts = dataset.chunks[along], grid[along], Counter(there[:, along].tolist())
    lacking = [row for row in rows if counts[row] < wanted // len(rows)]
    breaks = np.flatnonzero(np.diff(lacking) > 1) + 1
    part = "slice" if len(axes) > 2 else "row"
    ranges = [(of[0] * deep + 1, min((of[-1] + 1) * deep, dataset.shape[along])) for of in np.split(lacking, breaks)]
    where = ", ".join(f"from {part} {first} to {part} {last}" for first, last in ranges[:_MOST_RANGES])
    where += f" and {len(ranges) - _MOST_RANGES} more" * (len(ranges) > _MOST_RANGES)
    which = f"chunks of {name}{' that are taken' * (wanted < total)}"
    return f"of the {wanted} {which} {wanted - stored} were never written, {where}"


def _check_virtual(dataset: h5py.Dataset, path: Path, name: str, reach: Reach, depth: int) -> set[Path]:
    if depth > MOST_DEPTH:
        raise DatasetError(f"{path}: {name} is put together of what is put together, more than {MOST_DEPTH} times.")
    faults, pixels_in, filled = list[str](), set[Path](), h5py.h5s.create_simple(dataset.shape)
    filled.select_none()
    home = file_of(dataset)  # not that of a link to it
    for source, number, called, inside in _virtual_parts(dataset, home, reach):
        length = None
        file = home if called == "." else named_file(home, called)
        reach.check(file)
        try:
            with h5py.File(file, "r") as opened:
                part = item_of(opened, inside, reach)
                if not isinstance(part, h5py.Dataset) or not is_of_numbers(part):
                    what = "a group" if isinstance(part, h5py.Group) else "no data set of numbers"
                    raise DatasetError(f"{inside} in {file} is {what}, and {name} is put together of it.")
                length = along_unlimited(source.src_space, part.shape)
                taken = taken_of(source, part.shape) if part.chunks and length is None else None
                if length is None and not has_room(part.shape, source):
                    faults.append(f"{called} has {part.shape} in {inside}, and {needed_of(source)} is needed")
                elif part != dataset and (file, inside, taken) not in reach.checked:
                    reach.checked.add((file, inside, taken))
                    pixels_in |= check_all_there(part, file, inside, reach, depth + 1, taken)
                if dataset.dtype.kind != "f" and not np.can_cast(part.dtype, dataset.dtype, "safe"):
                    faults.append(
                        f"{called} has {part.dtype.name} in {inside}, whose values need not fit into {name}, which is "
                        f"{dataset.dtype.name}: take {inside} of {called} itself, or write {name} in the sources' type"
                    )
        except (FileNotFoundError, KeyError):
            looked = f"looked for in {' and '.join(map(str, folders(home)))}"
            faults.append(f"{name} is put together of files, and {called} ({inside}) is not there: {looked}")
        except OSError as error:
            faults.append(f"{name} is put together of files, and {file} cannot be opened ({first_line(error)})")
        except DatasetError as error:
            faults.append(str(error).removesuffix("."))
        fill(filled, source.vspace, dataset.shape, number, length)
    # What lies beyond the end fills nothing.
    start, count = (0,) * dataset.ndim, (1,) * dataset.ndim
    filled.select_hyperslab(start, count, None, dataset.shape, op=h5py.h5s.SELECT_AND)
    if (missing := math.prod(dataset.shape) - filled.get_select_npoints()) > 0:
        faults.append(f"{name} is put together of files, and none of them has {missing} of its pixels")
    raise_faults(path, faults)
    return pixels_in


def _virtual_parts(dataset: h5py.Dataset, home: Path, reach: Reach) -> Iterator[tuple[Any, int | None, str, str]]:
    """What a virtual data set is put together of, each with its file and its name in there; of many its number."""
    for source in dataset.virtual_sources():
        counted = "%b" in f"{source.file_name} {source.dset_name}".replace("%%", "")
        for block in itertools.count():
            # %b in a name is counted up by HDF5, which ends the data set at the first of them that is not there.
            file, inside = (
                "%".join(part.replace("%b", str(block)) for part in name.split("%%"))
                for name in (source.file_name, source.dset_name)
            )
            if counted and not _goes_on(source, home if file == "." else named_file(home, file), inside, reach):
                break
            yield source, block if counted else None, file, inside
            if not counted:
                break


def _goes_on(source: Any, file: Path, inside: str, reach: Reach) -> bool:
    """Whether the next of those that are counted up is there: of files the file, whose data set may yet be missed.

    Of the data sets of one file it is the data set; a file that is not to be read is told later.
    """
    if "%b" in source.file_name.replace("%%", "") or not os.path.isfile(file):
        return os.path.exists(file)
    with contextlib.suppress(DatasetError, OSError):
        reach.check(file)
        with h5py.File(file, "r") as opened:
            return inside in opened
    return True


def _check_external(dataset: h5py.Dataset, path: Path, name: str, reach: Reach) -> set[Path]:
    pixels_in, left = set[Path](), math.prod(dataset.shape) * dataset.dtype.itemsize
    for file, offset, size in dataset.external:
        # Of a data set in another file, to which a link led, its own folder counts.
        where = file_of(dataset).parent / os.fsdecode(file)
        reach.check(where)
        needs = min(size, left)
        left -= needs
        there = where.stat().st_size if where.is_file() else 0
        if (missing := offset + needs - there) > 0:
            raise DatasetError(f"{path}: the pixels of {name} are in {where}, where {missing} bytes are missing.")
        pixels_in.add(where)
    return pixels_in
