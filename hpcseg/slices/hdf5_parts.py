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
from hpcseg.slices.array import slice_axes
from hpcseg.slices.external import Reach
from hpcseg.slices.hdf5_links import MOST_DEPTH, file_of, item_of, named_file
from hpcseg.slices.source import raise_faults

PLUGINS = "hdf5plugin"
# Where HDF5 looks before all other places for files that a file names.
_PREFIXES = ("HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX", "HDF5_EXT_PREFIX")
_BESIDE = "${ORIGIN}"


def check_all_there(dataset: h5py.Dataset, path: Path, name: str, reach: Reach, depth: int = 0) -> set[Path]:
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
    here = file_of(dataset)
    if dataset.is_virtual or dataset.external:
        _refuse_prefix(path, name)
    if dataset.is_virtual:
        return {here} | _check_virtual(dataset, path, name, reach, depth)
    if dataset.external:
        return {here} | _check_external(dataset, path, name, reach)
    if gone := _unwritten(dataset, name):
        raise DatasetError(f"{path}: {gone}. Was its writer stopped? Write it again.")
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


def _unwritten(dataset: h5py.Dataset, name: str) -> str:
    """What of a data set was never written, and of which slices; empty: nothing."""
    if dataset.chunks is None:
        return "" if dataset.id.get_storage_size() else f"{name} was never written"
    grid = [-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    wanted, stored = math.prod(grid), dataset.id.get_num_chunks()
    if stored >= wanted:
        return ""
    axes = slice_axes(dataset.shape) or (0,)
    along = axes[0]
    deep, parts = dataset.chunks[along], grid[along]
    there = Counter(dataset.id.get_chunk_info(index).chunk_offset[along] // deep for index in range(stored))
    rows = range(parts)
    first, last = (next(row for row in order if there[row] < wanted // parts) for order in (rows, reversed(rows)))
    first, last = first * deep, min((last + 1) * deep, dataset.shape[along])
    part = "slice" if len(axes) > 2 else "row"
    where = f"from {part} {first + 1} to {part} {last}"
    return f"of the {wanted} chunks of {name} {wanted - stored} were never written, {where}"


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
                if part != dataset and (file, inside) not in reach.checked:
                    reach.checked.add((file, inside))
                    pixels_in |= check_all_there(part, file, inside, reach, depth + 1)
                length = _along_unlimited(source.src_space, part.shape)
                if length is None and not _has_room(part.shape, source):
                    faults.append(f"{called} has {part.shape} in {inside}, and {_needed(source)} is needed")
        except (OSError, KeyError):
            faults.append(f"{name} is put together of files, and {called} ({inside}) is not there")
        except DatasetError as error:
            faults.append(str(error).removesuffix("."))
        _fill(filled, source.vspace, dataset.shape, number, length)
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
        for block in itertools.count():
            # %b in a name is counted up by HDF5, which ends the data set at the first of them that is not there.
            file, inside = (
                "%".join(part.replace("%b", str(block)) for part in name.split("%%"))
                for name in (source.file_name, source.dset_name)
            )
            counted = _is_counted(source)
            if counted and not _goes_on(source, home if file == "." else named_file(home, file), inside, reach):
                break
            yield source, block if counted else None, file, inside
            if not counted:
                break


def _is_counted(source: Any) -> bool:
    return "%b" in f"{source.file_name} {source.dset_name}".replace("%%", "")


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


def _fill(filled: Any, part: Any, shape: tuple[int, ...], number: int | None, length: int | None) -> None:
    """Add what a source fills, which others may fill as well.

    Args:
        filled: of the virtual data set.
        part: what of it the source is for.
        shape: of the virtual data set.
        number: of many sources that are counted up, each of which has a block; None: it is one.
        length: how far a source without an end goes; None: as far as it is wanted.
    """
    if part.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        filled.select_all()
        return
    if not part.is_regular_hyperslab():
        for first, last in part.get_select_hyper_blocklist():
            sides = tuple(end - start + 1 for start, end in zip(first, last, strict=True))
            filled.select_hyperslab(tuple(first), (1,) * len(sides), None, sides, op=h5py.h5s.SELECT_OR)
        return
    start, stride, count, block = ([*of] for of in part.get_regular_hyperslab())
    for axis, size in enumerate(shape):
        left = size - start[axis] if length is None else length
        if block[axis] == h5py.h5s.UNLIMITED:
            block[axis] = left
        elif count[axis] == h5py.h5s.UNLIMITED and number is not None:
            start[axis], count[axis] = start[axis] + number * stride[axis], 1
        elif count[axis] == h5py.h5s.UNLIMITED and length is None:
            count[axis] = -(-left // stride[axis])
        elif count[axis] == h5py.h5s.UNLIMITED:
            count[axis], rest = divmod(left, block[axis])
            if rest:  # of the last block
                last = [start[axis] + count[axis] * stride[axis], 1, 1, rest]
                parts = [
                    [*of[:axis], one, *of[axis + 1 :]]
                    for of, one in zip((start, count, stride, block), last, strict=True)
                ]
                filled.select_hyperslab(*map(tuple, parts), op=h5py.h5s.SELECT_OR)
    if all(count) and all(block):
        filled.select_hyperslab(*map(tuple, (start, count, stride, block)), op=h5py.h5s.SELECT_OR)


def _along_unlimited(taken: Any, shape: tuple[int, ...]) -> int | None:
    """How long what is taken of a data set of this shape is, where it has no end of its own; None: it has one."""
    if taken.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not taken.is_regular_hyperslab():
        return None
    for length, start, stride, count, block in zip(shape, *taken.get_regular_hyperslab(), strict=True):
        if block == h5py.h5s.UNLIMITED:
            return max(0, int(length - start))
        if count == h5py.h5s.UNLIMITED:
            whole, rest = divmod(max(0, length - start), stride)
            return int(whole * block + min(rest, block))
    return None


def _has_room(shape: tuple[int, ...], source: Any) -> bool:
    """Whether a data set of this shape has all that is taken of it, where it is taken."""
    needed = _needed(source)
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return len(needed) == len(shape) and all(side <= length for side, length in zip(needed, shape, strict=True))
    # All of it is taken pixel by pixel: with rows of another length that were others. Slices may follow the last.
    wanted, there = ([side for side in sides if side != 1] for sides in (needed, shape))
    wanted = [1] * (len(there) - len(wanted)) + wanted
    return there[1:] == wanted[1:] and there[:1] >= wanted[:1]


def _needed(source: Any) -> tuple[int, ...]:
    """The shape that a source has to have: up to the end of what is taken of it, or, if that is all, what it fills."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return tuple(end + 1 for end in source.src_space.get_select_bounds()[1])
    filled = source.vspace
    if filled.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return tuple(filled.shape)
    if filled.is_regular_hyperslab():
        _, _, count, block = filled.get_regular_hyperslab()
        # There is no end to all blocks, and a file has one.
        return tuple(
            side if blocks == h5py.h5s.UNLIMITED else side * blocks for side, blocks in zip(block, count, strict=True)
        )
    corners = np.asarray(filled.get_select_hyper_blocklist())  # (blocks, first and last, axes)
    spans = (np.unique(corners[:, :, axis], axis=0).tolist() for axis in range(corners.shape[2]))
    return tuple(len(set().union(*(range(first, last + 1) for first, last in of))) for of in spans)


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
