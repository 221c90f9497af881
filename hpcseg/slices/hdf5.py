"""A data set of an HDF5 or NeXus file in, slices out: the one that is named, or that can only be meant."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.hdf5 import h5py
from hpcseg.slices.array import array_source, no_slices, no_such, none_of_slices, passed_over, slab, slice_axes
from hpcseg.slices.calibration import ELEMENT_SIZE, read_hdf5_voxel, voxel_of_axes
from hpcseg.slices.external import Reach
from hpcseg.slices.hdf5_links import (
    MOST_DEPTH,
    axes_of,
    axis_names,
    file_of,
    follow,
    has_slices,
    in_colour,
    is_of_numbers,
    item_of,
    places_of_signal,
    scales_of,
    slices_in,
    text_attribute,
    text_of,
    walk,
)
from hpcseg.slices.hdf5_parts import PLUGINS, check_all_there
from hpcseg.slices.source import Reading, Source, VoxelSize, refusing, size_in_words
from hpcseg.text import shortened

PACKED_SLICES = "slices"
_MOST_ATTRIBUTE_BYTES = 4096
_BIGDATAVIEWER = re.compile(r"/t\d+/(s\d+)/\d+/cells")
# Attributes of grey values, of a shape, or of a place in the file, which are not true of labels: of ilastik, netCDF,
# NeXus, HDF5's dimension scales, and its images.
_OF_GREY_VALUES = re.compile(
    "axistags|drange|units|(long|standard)_name|actual_range|MATLAB_.*|"
    "scale_factor|add_offset|scaling(_factor)?|valid_(range|min|max)|_FillValue|missing_value|target|DIMENSION_.*|"
    f"REFERENCE_LIST|CLASS|NAME|IMAGE_.*|INTERLACE_MODE|DISPLAY_ORIGIN|PALETTE|_Netcdf4.*|{ELEMENT_SIZE}"
)


def open_hdf5(path: Path, how: Reading) -> Source:
    """The slices of a data set whose last three axes are slices, height and width; two are one slice.

    Args:
        path: of the file.
        how: `dataset` names it; None: what the file's NeXus attributes call its data, or the only one.

    Raises:
        DatasetError: it cannot be opened, is none of slices, or parts of it are missing.
        ConfigError: there are several, and none is named; or there is none of that name.
    """
    reach = Reach(path, how.allow_external)
    with refusing(f"{path} is no HDF5 file that can be read"), h5py.File(path.resolve(), "r") as file:
        wanted = how.dataset.strip("/") if how.dataset is not None else _meant(file, path, reach)
        dataset = follow(file, wanted, path, reach)
        if isinstance(dataset, h5py.Group) and how.dataset is not None:
            wanted = _in_group(file, wanted, path, reach)
            dataset = follow(file, wanted, path, reach)
        if isinstance(dataset, h5py.Dataset) and len(dataset.shape or ()) > 1 and not is_of_numbers(dataset):
            raise no_slices(f"{path}::{wanted}", _what(dataset), slices_in(file, reach))
        if not isinstance(dataset, h5py.Dataset) or not is_of_numbers(dataset) or dataset.ndim < 2:
            raise no_such(path, wanted, slices_in(file, reach))
        above, _, called = wanted.rpartition("/")
        group = follow(file, above, path, reach)
        places = places_of_signal(group, called, dataset)
        if not has_slices(dataset, places):
            raise no_slices(f"{path}::{wanted}", _what(dataset), slices_in(file, reach), shape=dataset.shape)
        names = () if how.pixels == "stored" else axis_names(dataset, places)
        axes = slice_axes(dataset.shape, names, certain=how.pixels == "stored") or ()
        voxel, notes = _voxel(group, wanted, dataset, places, axes, reach)
        dtype = dataset.dtype
        if how.pixels != "stored" and dtype.kind == "i" and _is_of_bigdataviewer(dataset, reach):
            dtype = np.dtype(f"u{dtype.itemsize}")
            notes += (f"BigDataViewer stores {dtype} as {dataset.dtype}, so that is read; --pixels stored takes that.",)
        kept, dropped = _attributes(dataset)
        if dropped:
            notes += (
                f"of {Path(wanted).name} labels will not have {', '.join(map(shortened, dropped))}: attributes of "
                "a type or a size that is not carried.",
            )
        source = array_source(
            path,
            "hdf5",
            how,
            dataset.shape,
            dtype,
            load=_load,
            # Where its links lead, so that HDF5 follows none of them by itself.
            of=(file_of(dataset), h5py.h5i.get_name(dataset.id), PLUGINS in sys.modules, axes),
            name=Path(wanted).name,
            axis_names=names,
            chunks=dataset.chunks,
            dataset=wanted,
            voxel=voxel,
            notes=(*notes, *passed_over(dataset.attrs), *_padding_of_imaris(group, dataset)),
            points_to=(text_attribute(dataset, "DISPLAY_ORIGIN") or "").upper() if how.pixels != "stored" else "",
            attributes=kept,
        )
        files = {path.resolve()} | check_all_there(dataset, path, wanted, reach)
        return replace(source, files=tuple(sorted(files)))


def list_datasets(path: Path, allow_external: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every data set of slices, by name; links are followed."""
    with h5py.File(path.resolve(), "r") as file:
        found = slices_in(file, Reach(path, allow_external))
        return {name: (dataset.shape, str(dataset.dtype)) for name, dataset in found.items()}


def _load(path: Path, name: bytes, plugins: bool, axes: tuple[int, ...], first: int, last: int) -> np.ndarray:
    if plugins:  # each process has to load the filters
        importlib.import_module(PLUGINS)
    with h5py.File(path, "r") as file:
        # Raw files lie beside their data set, also where h5py was loaded before `hpcseg.hdf5` could say so.
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_efile_prefix(b"${ORIGIN}")
        dataset = h5py.Dataset(h5py.h5d.open(file.id, name, access))
        return slab(dataset, axes, first, last)


def _meant(file: h5py.File, path: Path, reach: Reach) -> str:
    """The data set that is meant where none is named.

    That is what the file calls its data, whatever it is, or the only volume, or the only image. No other is taken where
    something as large lies beside it that may be meant as well, such as an image, two channels, or complex numbers; nor
    where a link leads nowhere, to what may have been the data.

    Raises:
        ConfigError: there is a choice, or nothing.
        DatasetError: a link leads nowhere, or too far.
    """
    if (signal := _signal(file, (), path, reach)) is not None:
        return signal
    everything, once, nowhere = dict[str, h5py.Dataset](), set[Any](), list[str]()
    for name, item in walk(file, reach, strict=True):
        if item is None:
            nowhere.append(name)
        elif (place := (file_of(item), h5py.h5o.get_info(item.id).addr)) not in once:
            once.add(place)  # though several links may lead to it
            everything[name] = item
    images = {name: item for name, item in everything.items() if has_slices(item)}
    found = {name: item for name, item in images.items() if item.ndim > 2}
    found = found or {name: item for name, item in images.items() if min(item.shape) > 1}
    if len(found) == 1:
        (only,) = found.values()
        height, width = sorted(only.shape[axis] for axis in (axes_of(only) or ())[-2:])
        for name, item in everything.items():
            shape = sorted(item.shape or ())
            if is_of_numbers(item) and len(shape) > 1 and shape[-2] >= height and shape[-1] >= width:
                found[name] = item
    if len(found) > 1:
        raise no_such(path, None, found)
    for name in nowhere:
        follow(file, name, path, reach)
    # Where nothing is slices, why not is told of the only one that might be.
    found = found or {name: item for name, item in everything.items() if is_of_numbers(item) and item.ndim > 1}
    if len(found) != 1:
        raise none_of_slices(path, {name: _what(item) for name, item in everything.items()})
    return next(iter(found))


def _in_group(file: h5py.File, group: str, path: Path, reach: Reach) -> str:
    """The data set that is meant where a group is named: what NeXus calls its data, or its only one of slices."""
    if (signal := _signal(file, tuple(filter(None, group.split("/"))), path, reach)) is not None:
        return signal
    inside = {name: item for name, item in slices_in(file, reach).items() if name.startswith(f"{group}/")}
    if len(inside) != 1:
        raise no_such(path, None if inside else group, inside or slices_in(file, reach))
    return next(iter(inside))


def _signal(file: h5py.File, group: Sequence[str], path: Path, reach: Reach) -> str | None:
    """What NeXus calls the data of a group: the attributes `default` from group to group, and `signal` at their end."""
    names = list(group)
    at = follow(file, "/".join(names), path, reach)
    for _ in range(MOST_DEPTH):
        if (following := text_attribute(at, "default")) is None:
            break
        names = [following.strip("/")] if following.startswith("/") else [*names, following]
        at = follow(file, "/".join(names), path, reach)
    if isinstance(at, h5py.Dataset):
        return "/".join(names)
    signal = text_attribute(at, "signal")
    return "/".join([*names, signal]) if signal is not None and names else None


def _what(dataset: h5py.Dataset) -> str:
    if in_colour(dataset):
        return f"the colour image {dataset.shape}"
    try:
        kind = str(dataset.dtype)
    except (TypeError, ValueError):
        kind = "of a type that NumPy has not"
    return f"{dataset.shape} {shortened(kind)}{', without a pixel' * (0 in dataset.shape)}"


def _padding_of_imaris(group: Any, dataset: h5py.Dataset) -> tuple[str, ...]:
    """A note where a channel of an Imaris file is longer than it says: it is padded to whole chunks."""
    with contextlib.suppress(Exception):  # whatever else is called so
        said = tuple(int(b"".join(group.attrs[f"ImageSize{axis}"].tolist())) for axis in "ZYX")
        if said != dataset.shape:
            return (
                f"Imaris pads its data: {size_in_words(said)} of {size_in_words(dataset.shape)} voxels are the volume, "
                "and the rest is empty. Export it as TIFF or OME-TIFF, without the padding.",
            )
    return ()


def _is_of_bigdataviewer(dataset: h5py.Dataset, reach: Reach) -> bool:
    """Whether it lies where BigDataViewer puts a level of an image, and the list of levels beside it."""
    found = _BIGDATAVIEWER.fullmatch(text_of(h5py.h5i.get_name(dataset.id)))
    with contextlib.suppress(Exception):  # there is none, or a link that leads nowhere
        return found is not None and item_of(dataset.file["/"], f"{found[1]}/resolutions", reach) is not None
    return False


def _voxel(
    group: Any, wanted: str, dataset: h5py.Dataset, places: Sequence[str], chosen: tuple[int, ...], reach: Reach
) -> tuple[VoxelSize | None, tuple[str, ...]]:
    """The size of a voxel, and a note where what says it was passed over; `chosen` axes as of `slice_axes`."""
    voxel = read_hdf5_voxel(dataset)
    if voxel is None and ELEMENT_SIZE in dataset.attrs:
        note = f"{ELEMENT_SIZE} of {wanted} is no depth, height and width of a voxel, and is passed over."
        return None, (note,)
    with contextlib.suppress(Exception):  # what is only copied never ends the work, whatever lies there
        return voxel or _voxel_of_axes(group, places, dataset, chosen, reach), ()
    return voxel, ()


def _voxel_of_axes(
    group: Any, places: Sequence[str], dataset: h5py.Dataset, chosen: tuple[int, ...], reach: Reach
) -> VoxelSize | None:
    """Of the places along its axes: of those that `places_of_signal` has in a group, or its dimension scales."""
    if places:
        scales = {axis: item_of(group, places[axis], reach) for axis in chosen if places[axis] != "."}
    else:
        scales = scales_of(dataset)
    placed = [axis for axis in chosen if axis in scales or axis in chosen[-2:]]  # which have to have places
    axes = [scales[axis] for axis in placed]
    fitting = all(one.shape == (dataset.shape[axis],) for one, axis in zip(axes, placed, strict=True))
    if not fitting or any(one.is_virtual or one.external for one in axes):  # HDF5 would open any file
        return None
    if any(passed_over(one.attrs) for one in axes):  # its numbers are no places
        return None
    return voxel_of_axes([(one[:].astype(float), text_attribute(one, "units")) for one in axes])


def _attributes(dataset: h5py.Dataset) -> tuple[dict[str, Any], list[str]]:
    """Those small ones that are true of labels of its pixels as well, and the names of others that would be."""
    kept, dropped = dict[str, Any](), list[str]()
    for name in filter(lambda name: not _OF_GREY_VALUES.fullmatch(text_of(name)), dataset.attrs):
        try:
            value = dataset.attrs[name]
        except (TypeError, ValueError, OSError):  # of a type that numpy has not
            dropped.append(text_of(name))
        else:
            if isinstance(value, str):  # bytes of no UTF-8 are Latin-1, which h5py reads but does not write
                value = re.sub("[\udc80-\udcff]", lambda found: chr(ord(found[0]) - 0xDC00), value)
            as_array = np.asarray(value)
            texts = as_array.dtype.kind == "O" and all(isinstance(text, str) for text in as_array.flat)
            if passed_over({name: value}):  # an offset of three numbers is one in space
                continue
            if (texts or as_array.dtype.kind in "biufcSU") and as_array.nbytes <= _MOST_ATTRIBUTE_BYTES:
                kept[name] = value
            else:
                dropped.append(text_of(name))
    return kept, dropped
