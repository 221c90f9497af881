"""A data set of an HDF5 or NeXus file in, slices out: through any kind of link, and nothing that is not there.

HDF5 reads what is missing (sources of a virtual data set, chunks nobody wrote, the end of an external file) as fill
values without a word, so all of it is looked for first.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.array import array_source, no_such, slab, slice_axes
from hpcseg.slices.calibration import read_hdf5_voxel
from hpcseg.slices.external import Reach
from hpcseg.slices.source import Reading, Source, first_line, raise_faults, refusing
from hpcseg.text import shortened

PACKED_SLICES = "slices"
_MOST_DEPTH = 12
# On the way to an item, as HDF5 has it.
_MOST_LINKS = 16
# A few groups that are members of each other have names without end.
_MOST_NAMES = 20_000
_PLUGINS = "hdf5plugin"


def open_hdf5(path: Path, how: Reading) -> Source:
    """The slices of a data set whose last three axes are slices, height and width; two are one slice.

    Args:
        path: of the file.
        how: `dataset` names it; None: what the file's NeXus attributes call its data, or the only one.

    Raises:
        DatasetError: it cannot be opened, or parts of it are missing.
        ConfigError: there are several, and none is named; or it is none of numbers.
    """
    reach = Reach(path, how.allow_external)
    with refusing(f"{path} is no HDF5 file that can be read"), h5py.File(path, "r") as file:
        wanted = how.dataset.strip("/") if how.dataset is not None else _only(file, path, reach)
        dataset = _follow(file, wanted, path, reach)
        if not _has_slices(dataset) and getattr(dataset, "ndim", 0) <= 3:
            raise no_such(path, wanted, dict(_walk(file, reach)))
        source = array_source(
            path,
            "hdf5",
            how,
            dataset.shape,
            dataset.dtype,
            load=_load,
            # Where its links lead, so that HDF5 follows none of them by itself.
            of=(_file_of(dataset), dataset.name, _PLUGINS in sys.modules),
            name=Path(wanted).name,
            chunks=dataset.chunks,
            dataset=wanted,
            voxel=read_hdf5_voxel(dataset),
        )
        files = {path} | _check_all_there(dataset, path, wanted, reach)
        return replace(source, files=tuple(sorted(files)))


def list_datasets(path: Path, allow_external: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every data set of slices, by name; links are followed."""
    with h5py.File(path, "r") as file:
        found = _walk(file, Reach(path, allow_external))
        return {name: (dataset.shape, str(dataset.dtype)) for name, dataset in found}


def _load(path: Path, name: str, plugins: bool, first: int, last: int) -> np.ndarray:
    if plugins:  # each process has to load the filters
        importlib.import_module(_PLUGINS)
    with h5py.File(path, "r") as file:
        # Raw files lie beside their data set, also where h5py was loaded before `hpcseg.hdf5` could say so.
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_efile_prefix(b"${ORIGIN}")
        dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))
        return slab(dataset, first, last)


def _follow(file: h5py.File, name: str, path: Path, reach: Reach, depth: int = 0) -> Any:
    """What a name leads to; DatasetError names the link that leads nowhere."""
    at: Any = file
    passed: list[str] = []
    for part in _parts(name):
        passed.append(part)
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        if link is None:
            raise no_such(path, name, dict(_walk(file, reach)))
        try:
            at = _item(at, part, reach)
        except (KeyError, OSError, RuntimeError) as error:
            if isinstance(link, h5py.SoftLink) and depth < _MOST_DEPTH:  # it may lead to another link that is broken
                with contextlib.suppress(ConfigError):
                    _follow(at.file, os.path.join(at.name, link.path), _file_of(at), reach, depth + 1)
            target = f" to {shortened(link.path)}" if hasattr(link, "path") else ""
            target += f" in {shortened(link.filename)}" if isinstance(link, h5py.ExternalLink) else ""
            raise DatasetError(
                f"{path}: {'/'.join(passed)} is a link{target}, and cannot be opened. Is it there? "
                f"({first_line(error)})"
            ) from None
    return at


def _item(group: Any, name: str, reach: Reach) -> Any:
    """What a name in a group leads to: each link by itself, since HDF5 would open any file, and wait for a pipe.

    Raises:
        KeyError, OSError: it leads nowhere.
        DatasetError: it leads to a file that is not to be read.
    """
    left, links = _parts(name)[::-1], 0
    while left:
        part = left.pop()
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None or links > _MOST_LINKS:
            raise KeyError(f"no {part} there")
        if isinstance(link, h5py.HardLink):
            group = group[part]
            continue
        links += 1
        left += _parts(link.path)[::-1]
        if isinstance(link, h5py.ExternalLink):
            reach.check(file := _named_file(_file_of(group), link.filename))
            group = h5py.File(file, "r")["/"]
        elif link.path.startswith("/"):
            group = group.file["/"]
    return group


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _file_of(item: Any) -> Path:
    return Path(os.fsdecode(item.file.filename))


def _walk(file: h5py.File, reach: Reach, *, strict: bool = False) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set of slices in a file, through links; what leads nowhere is passed over, and a ring ends.

    Args:
        file: to look in.
        reach: how far links may lead.
        strict: raise DatasetError where one leads too far, or there are too many names, in place of passing it over.
    """
    root = file["/"]
    waiting: list[tuple[Any, str, tuple[Any, ...]]] = [(root, str(part), (root.id,)) for part in reversed(list(root))]
    for _ in range(_MOST_NAMES):
        if not waiting:
            return
        group, name, above = waiting.pop()
        try:
            item = _item(group, name.rpartition("/")[2], reach)
        except (KeyError, OSError, RuntimeError, TypeError):  # the last of a link that h5py does not know
            continue
        except DatasetError:
            if strict:
                raise
            continue
        if isinstance(item, h5py.Group):
            if len(above) <= _MOST_DEPTH and item.id not in above:
                waiting += [(item, f"{name}/{part}", (*above, item.id)) for part in reversed(list(item))]
        elif _has_slices(item):
            yield name, item
    if strict:
        raise DatasetError(f"{reach.opened} has more than {_MOST_NAMES} names. Name a data set with --dataset.")


def _has_slices(item: Any) -> bool:
    """Whether it is a data set of numbers that are slices, by `slice_axes`."""
    try:
        return isinstance(item, h5py.Dataset) and slice_axes(item.shape) is not None and item.dtype.kind in "uifb"
    except (TypeError, ValueError):  # a type that numpy has not
        return False


def _only(file: h5py.File, path: Path, reach: Reach) -> str:
    """The data set that is meant where none is named; raises ConfigError where there is a choice."""
    if (signal := _signal(file, reach)) is not None:
        return signal
    found: dict[int, dict[Any, str]] = {3: {}, 2: {}}
    for name, dataset in _walk(file, reach, strict=True):
        if dataset.ndim > 2 or min(dataset.shape) > 1:
            # One that several links lead to counts once.
            info = h5py.h5o.get_info(dataset.id)
            found[min(dataset.ndim, 3)].setdefault((os.fspath(dataset.file.filename), info.addr), name)
    names = list((found[3] or found[2]).values())
    if len(names) == 1:
        return names[0]
    if not names:
        links: list[str] = []
        file.visititems_links(lambda name, link: links.append(name) if hasattr(link, "path") else None)
        for name in links:
            _follow(file, name, path, reach)  # a link that leads nowhere is why there is nothing else
    raise no_such(path, None, dict(_walk(file, reach)) or _of_any_shape(file), of_slices=bool(names))


def _of_any_shape(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(note)
    return found


def _signal(file: h5py.File, reach: Reach) -> str | None:
    """What NeXus calls the data: the attributes `default` from group to group, and `signal` at their end."""
    at, name = file, ""
    with contextlib.suppress(Exception):  # attributes of any type, and links to nowhere: then there is no such hint
        while (following := _text(at.attrs.get("default"))) is not None and name.count("/") < _MOST_DEPTH:
            name, at = f"{name}{following}/", _item(at, following, reach)
        signal = _text(at.attrs.get("signal"))
        if isinstance(signal, str) and name and _item(at, signal, reach).ndim > 2:
            return name + signal
    return None


def _text(value: Any) -> Any:
    """An attribute that is one text, also where its writer has bytes, or an array of one."""
    value = np.asarray(value).item()
    return value.decode() if isinstance(value, bytes) else value


def _check_all_there(dataset: h5py.Dataset, path: Path, name: str, reach: Reach, depth: int = 0) -> set[Path]:
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
    here = _file_of(dataset)
    if dataset.is_virtual:
        return {here} | _check_virtual(dataset, path, name, reach, depth)
    if dataset.external:
        return {here} | _check_external(dataset, path, name, reach)
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
    if depth > _MOST_DEPTH:
        raise DatasetError(f"{path}: {name} is put together of what is put together, more than {_MOST_DEPTH} times.")
    faults, pixels_in, filled = list[str](), set[Path](), h5py.h5s.create_simple(dataset.shape)
    filled.select_none()
    home = _file_of(dataset)  # not that of a link to it
    for source, number, called, inside in _virtual_parts(dataset, home, reach):
        length = None
        file = home if called == "." else _named_file(home, called)
        reach.check(file)
        try:
            with h5py.File(file, "r") as opened:
                part = _item(opened, inside, reach)
                if part != dataset and (file, inside) not in reach.checked:
                    reach.checked.add((file, inside))
                    pixels_in |= _check_all_there(part, file, inside, reach, depth + 1)
                length = _along_unlimited(source.src_space, part.shape)
                if length is None and not _has_room(part.shape, source):
                    faults.append(f"{called} has {part.shape} in {inside}, and more is needed")
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
            if counted and not _goes_on(source, home if file == "." else _named_file(home, file), inside, reach):
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


def _named_file(home: Path, name: str) -> Path:
    """Where HDF5 finds a file that a link or a virtual data set names: there, or, if it was moved, beside its own."""
    names = [name, Path(name).name] if Path(name).is_absolute() else [name]
    places = [folder / name for name in names for folder in (home.parent, home.resolve().parent)]
    return next((place for place in places if os.path.exists(place)), places[0])


def _has_room(shape: tuple[int, ...], source: Any) -> bool:
    """Whether a data set of this shape has all that is taken of it."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        ends = source.src_space.get_select_bounds()[1]
        return len(ends) == len(shape) and all(end < length for end, length in zip(ends, shape, strict=True))
    if _is_counted(source):  # there is no end to all blocks, and a file has one
        _, _, count, block = source.vspace.get_regular_hyperslab()
        count = [blocks for blocks in count if blocks != h5py.h5s.UNLIMITED]
        return bool(math.prod(shape) >= math.prod(block) * math.prod(count))
    return bool(math.prod(shape) >= source.vspace.get_select_npoints())


def _check_external(dataset: h5py.Dataset, path: Path, name: str, reach: Reach) -> set[Path]:
    pixels_in, left = set[Path](), math.prod(dataset.shape) * dataset.dtype.itemsize
    for file, offset, size in dataset.external:
        # Of a data set in another file, to which a link led, its own folder counts.
        where = _file_of(dataset).parent / os.fsdecode(file)
        reach.check(where)
        needs = min(size, left)
        left -= needs
        there = where.stat().st_size if where.is_file() else 0
        if (missing := offset + needs - there) > 0:
            raise DatasetError(f"{path}: the pixels of {name} are in {where}, where {missing} bytes are missing.")
        pixels_in.add(where)
    return pixels_in
