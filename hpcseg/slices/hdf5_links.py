"""Names in an HDF5 file in, what they lead to out: each link is followed here, since HDF5 would open any file.

A file is opened where links of the file system lead, so that the files it names lie where HDF5 looks for them first.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.array import axis_name, no_such, slice_axes
from hpcseg.slices.external import Reach
from hpcseg.slices.source import first_line
from hpcseg.text import shortened

MOST_DEPTH = 12
# As netCDF calls a dimension without places.
_NO_VARIABLE = "This is a netCDF dimension"
# On the way to an item, as HDF5 has it.
_MOST_LINKS = 16
# A few groups that are members of each other have names without end.
_MOST_NAMES = 20_000
# What h5py and HDF5 raise where a link leads nowhere, and for links that h5py does not know.
_NOWHERE = (KeyError, OSError, RuntimeError, TypeError)


def follow(file: h5py.File, name: str, path: Path, reach: Reach, depth: int = 0) -> Any:
    """What a name leads to; DatasetError names the link that leads nowhere."""
    at: Any = file
    passed: list[str] = []
    for part in _names(name):
        passed.append(part)
        try:
            at = item_of(at, part, reach)
        except _NOWHERE as error:
            link: Any = None
            with contextlib.suppress(TypeError):
                if (link := _link(at, part)) is None:
                    raise no_such(path, name, slices_in(file, reach)) from None
            if isinstance(link, h5py.SoftLink) and depth < MOST_DEPTH:  # it may lead to another link that is broken
                way = os.path.join(text_of(h5py.h5i.get_name(at.id)), link.path)
                with contextlib.suppress(ConfigError):
                    follow(at.file, way, file_of(at), reach, depth + 1)
            target = f" to {shortened(link.path)}" if hasattr(link, "path") else ""
            target += f" in {shortened(link.filename)}" if isinstance(link, h5py.ExternalLink) else ""
            raise DatasetError(
                f"{path}: {'/'.join(passed)} is a link{target}, and cannot be opened. Is it there? "
                f"({first_line(error)}) Another data set is named as FILE::DATASET."
            ) from None
    return at


def item_of(group: Any, name: str, reach: Reach) -> Any:
    """What a name in a group leads to: each link by itself, since HDF5 would open any file, and wait for a pipe.

    Raises:
        KeyError, OSError, RuntimeError, TypeError: it leads nowhere.
        DatasetError: it leads to a file that is not to be read.
    """
    left, links = _names(name)[::-1], 0
    while left:
        part = left.pop()
        link = _link(group, part)
        if link is None or links > _MOST_LINKS:
            raise KeyError(f"no {part} there")
        if isinstance(link, h5py.HardLink):
            group = group[_key(group, part)]
            continue
        links += 1
        left += _names(link.path)[::-1]
        if isinstance(link, h5py.ExternalLink):
            reach.check(file := named_file(file_of(group), link.filename))
            group = h5py.File(file.resolve(), "r")["/"]
        elif link.path.startswith("/"):
            group = group.file["/"]
    return group


def walk(file: h5py.File, reach: Reach, *, strict: bool = False) -> Iterator[tuple[str, h5py.Dataset | None]]:
    """Every data set in a file, through links, and None for a name that leads nowhere; a ring ends.

    Args:
        file: to look in.
        reach: how far links may lead.
        strict: raise DatasetError where one leads too far, or there are too many names, in place of passing it over.
    """
    root = file["/"]
    waiting: list[tuple[Any, str, str, tuple[Any, ...]]] = [(root, "", part, (root.id,)) for part in _members(root)]
    for _ in range(_MOST_NAMES):
        if not waiting:
            return
        group, way, part, above = waiting.pop()
        try:
            item = item_of(group, part, reach)
        except _NOWHERE:
            yield way + part, None
            continue
        except DatasetError:
            if strict:
                raise
            continue
        if isinstance(item, h5py.Dataset):
            yield way + part, item
        elif isinstance(item, h5py.Group) and len(above) <= MOST_DEPTH and item.id not in above:
            waiting += [(item, f"{way}{part}/", member, (*above, item.id)) for member in _members(item)]
    if strict:
        raise DatasetError(f"{reach.opened} has more than {_MOST_NAMES} names. Name a data set, as FILE::DATASET.")


def slices_in(file: h5py.File, reach: Reach) -> dict[str, h5py.Dataset]:
    """Every data set of slices by its name."""
    return {name: item for name, item in walk(file, reach) if item is not None and has_slices(item)}


def has_slices(item: h5py.Dataset, places: Sequence[str] = ()) -> bool:
    """Whether a data set is of numbers that are slices, by `axes_of`, and no colour image."""
    return is_of_numbers(item) and item.dtype.kind != "c" and axes_of(item, places) is not None and not in_colour(item)


def axes_of(item: h5py.Dataset, places: Sequence[str] = ()) -> tuple[int, ...] | None:
    """As `slice_axes` has them, by the names of the axes, `axis_names`; where these tell of channels, without."""
    return slice_axes(item.shape, axis_names(item, places)) or slice_axes(item.shape)


def is_of_numbers(item: h5py.Dataset) -> bool:
    """Whether they may be pixels, be it of a type that is not read."""
    try:
        return item.shape is not None and item.dtype.kind in "uifbc"
    except (TypeError, ValueError):  # a type that numpy has not
        return False


def in_colour(item: h5py.Dataset) -> bool:
    """Whether HDF5's own attributes of images say so."""
    return text_attribute(item, "IMAGE_SUBCLASS") == "IMAGE_TRUECOLOR"


def axis_names(dataset: h5py.Dataset, places: Sequence[str] = ()) -> tuple[str, ...]:
    """As MATLAB's, whose first axis is the rows and is stored last, ilastik's, or of HDF5's own labels; empty: none.

    What has no label is called as the data set of its places, which in netCDF is its name; `places` are what NeXus
    calls those, by `places_of_signal`, as z or sample_z.
    """
    with contextlib.suppress(Exception):  # whatever else is called so
        if "MATLAB_class" in dataset.attrs:
            return ("c", "z", "x", "y")[-dataset.ndim :]
        if (tags := text_attribute(dataset, "axistags")) is not None:
            return tuple(axis["key"] for axis in json.loads(tags)["axes"])
        scales = scales_of(dataset)
        own = [dimension.label or _own_name(scales.get(axis)) for axis, dimension in enumerate(dataset.dims)]
        return tuple(map(axis_name, own if any(own) else (re.sub(r".*[\W_]", "", name) for name in places)))
    return ()


def places_of_signal(group: h5py.Group, name: str, dataset: h5py.Dataset) -> list[str]:
    """What a NeXus group calls the places along each axis of what is its signal by that name; empty: it says nothing.

    "." is an axis without places.
    """
    with contextlib.suppress(Exception):  # whatever else is called so
        names = [text_of(axis) for axis in np.ravel(group.attrs.get("axes", ())).tolist()]
        return names if text_attribute(group, "signal") == name and len(names) == dataset.ndim else []
    return []


def scales_of(dataset: h5py.Dataset) -> dict[int, h5py.Dataset]:
    """The dimension scales of its axes: data sets of the places along each, by the axis.

    Only those that say the same of it, since a copy refers to what lay there in another file.
    """
    scales = dict[int, h5py.Dataset]()
    for axis, length in enumerate(dataset.shape if "DIMENSION_LIST" in dataset.attrs else ()):
        with contextlib.suppress(Exception):  # there is none, or it is gone
            scale = dataset.dims[axis][0]
            if scale.shape == (length,) and h5py.h5ds.is_attached(dataset.id, scale.id, axis):
                scales[axis] = scale
    return scales


def _own_name(scale: h5py.Dataset | None) -> str:
    """What a dimension scale is called; "" where there is none. To ask HDF5 takes a look at all names of the file."""
    said = "" if scale is None else text_attribute(scale, "NAME") or ""
    if scale is not None and said.startswith(_NO_VARIABLE):
        said = os.path.basename(text_of(h5py.h5i.get_name(scale.id)))
    return said


def text_attribute(item: Any, name: str) -> str | None:
    """An attribute that is one text, also where its writer has bytes, or an array of one; None: it is none."""
    with contextlib.suppress(TypeError, ValueError, OSError):  # of a type that h5py or numpy has not
        value = np.asarray(item.attrs.get(name)).item()
        return text_of(value) if isinstance(value, str | bytes) else None
    return None


def text_of(name: str | bytes) -> str:
    """A name as a text: what is no UTF-8 is Latin-1, as some writers have it."""
    if isinstance(name, str):
        return name
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def file_of(item: Any) -> Path:
    """The file that an item is in."""
    return Path(os.fsdecode(item.file.filename))


def named_file(home: Path, name: str) -> Path:
    """Where HDF5 finds a file that a link or a virtual data set names: there, or, if it was moved, in `folders`.

    Raises:
        DatasetError: it finds another in the current folder, where it looks before it follows a link.
    """
    names = [name, Path(name).name] if Path(name).is_absolute() else [name]
    beside, *led, current = ([folder / one for one in names] for folder in (*folders(home), Path()))
    found = next((place for place in itertools.chain(beside, *led) if os.path.exists(place)), beside[0])
    other = next((place for place in current if os.path.exists(place)), found)
    if found not in beside and not os.path.samefile(found, other):
        raise DatasetError(f"{home} names {found}, and HDF5 would take {other} of this folder. Run it in another one.")
    return found


def folders(home: Path) -> list[Path]:
    """Where files lie that a file names: beside it, and then, if it is a link, where that leads."""
    return list(dict.fromkeys((home.parent, home.resolve().parent)))


def _names(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _members(group: h5py.Group) -> list[str]:
    """Their names, the last one first."""
    return [text_of(part) for part in reversed(list(group))]


def _link(group: Any, part: str) -> Any:
    """What a name in a group is, as of `Group.get`, which refuses names of no UTF-8; None: there is no such name."""
    if not isinstance(group, h5py.Group) or not group.id.links.exists(key := _key(group, part)):
        return None
    kind = group.id.links.get_info(key).type
    if kind == h5py.h5l.TYPE_HARD:
        return h5py.HardLink()
    if kind == h5py.h5l.TYPE_SOFT:
        return h5py.SoftLink(text_of(group.id.links.get_val(key)))
    if kind == h5py.h5l.TYPE_EXTERNAL:
        file, path = group.id.links.get_val(key)
        return h5py.ExternalLink(os.fsdecode(file), text_of(path))
    raise TypeError("a link of a kind that only its writer knows")


def _key(group: h5py.Group, part: str) -> bytes:
    """A name in a group as HDF5 has it; the inverse of `text_of`."""
    key = part.encode("utf-8", "surrogateescape")  # as Python has what was typed in other bytes
    return key if group.id.links.exists(key) else part.encode("latin-1", "replace")
