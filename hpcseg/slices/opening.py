"""A path in, its slices out, whatever format it has: by what the file is, and by its name only where that is all."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.array import no_parts
from hpcseg.slices.hdf5 import list_datasets, open_hdf5
from hpcseg.slices.mrc import is_mrc, open_mrc
from hpcseg.slices.nifti import is_nifti, open_nifti
from hpcseg.slices.npy import is_npy, open_npy
from hpcseg.slices.raw import is_raw, open_raw
from hpcseg.slices.sizes import refuse_bomb
from hpcseg.slices.source import Reading, Source, refusing
from hpcseg.slices.tiff import open_file, open_folder
from hpcseg.slices.zarr import is_zarr, list_arrays, open_zarr


def open_source(path: Path, how: Reading = Reading()) -> Source:  # noqa: B008
    """Find the slices of a source; reads headers, no pixels.

    Args:
        path: a folder of TIFFs or PNGs, or a file or store of any format; `NAME::DATASET` names what is in it.
        how: what its files do not say.

    Raises:
        DatasetError: nothing there, damaged, parts missing, or no grey values.
        ConfigError: there is a choice, or an option does not fit.
    """
    path = Path(os.path.expanduser(path))
    name, dataset = split_name(os.fspath(path))
    opened: Callable[[Path, Reading], Source]
    if dataset is not None:
        if how.dataset not in (None, dataset):
            raise ConfigError(f"{path} and --dataset {how.dataset} name two. Give one of them.")
        return open_source(Path(name), replace(how, dataset=dataset))
    if os.path.isdir(path):
        opened = open_zarr if is_zarr(path) else open_folder
    elif not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder may not be entered
        if os.path.exists(path):
            raise DatasetError(f"{path} is no folder and no regular file, and is never read.")
        raise DatasetError(f"There is no folder or file of slices {path}.")
    else:
        opened = _opener(path, how)
    if how.dataset is not None and opened not in (open_hdf5, open_zarr, open_file):
        raise no_parts(path)
    source = opened(path, how)
    if source.form != "zarr":  # by whose definition chunks of nothing but one value are left out
        claimed = sum(
            math.prod(shape) * dtype.itemsize for shape, dtype in zip(source.shapes, source.dtypes, strict=True)
        )
        refuse_bomb(path, claimed, source.files)
    if source.voxel is not None and not source.voxel.depth_said and len(source) > 1:
        width = source.voxel.with_unit(f"{source.voxel.width:g}")
        note = f"how far slices are apart is not said, or is uneven; the width of a voxel, {width}, stands for it."
        return replace(source, notes=(*source.notes, note))
    return source


def _opener(path: Path, how: Reading) -> Callable[[Path, Reading], Source]:
    """Which function opens a file; raises DatasetError where it may not be read."""
    with refusing(f"{path} cannot be opened"), path.open("rb"):
        pass
    if h5py.is_hdf5(path):
        return open_hdf5
    if is_npy(path):
        return open_npy
    if how.dtype is not None or is_raw(path) or how.shape is not None:
        return open_raw
    return open_mrc if is_mrc(path) else open_nifti if is_nifti(path) else open_file


def list_parts(path: Path, allow_external: bool = False) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of what an HDF5 file or a Zarr store holds by name; nothing for other formats.

    Args:
        path: as for `open_source`.
        allow_external: also of those that are reached through files outside of the file's folder.

    Raises:
        DatasetError: it is damaged.
    """
    path = Path(split_name(os.path.expanduser(path))[0])
    with refusing(f"What {path} holds cannot be listed"):
        if os.path.isdir(path):
            return list_arrays(path) if is_zarr(path) else {}
        return list_datasets(path, allow_external) if os.path.isfile(path) and h5py.is_hdf5(path) else {}


def split_name(text: str) -> tuple[str, str | None]:
    """A path and the data set that is named behind it: scan.nxs::/entry/data; either may have :: in it."""
    splits: list[tuple[str, str | None]] = [
        (text[: found.start()], text[found.end() :]) for found in re.finditer(r"(?<!^)::", text)
    ]
    there = (split for split in [(text, None), *splits] if os.path.lexists(os.path.expanduser(split[0])))
    return next(there, (splits or [(text, None)])[0])
