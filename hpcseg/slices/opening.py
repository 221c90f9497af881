"""A path in, its slices out, whatever format it has: by what the file is, and by its name only where that is all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.hdf5 import h5py
from hpcseg.slices.hdf5 import list_datasets, open_hdf5, split_name
from hpcseg.slices.mrc import SUFFIXES as MRC_SUFFIXES
from hpcseg.slices.mrc import is_mrc, open_mrc
from hpcseg.slices.nifti import is_nifti, open_nifti
from hpcseg.slices.raw import SUFFIXES as RAW_SUFFIXES
from hpcseg.slices.raw import open_raw
from hpcseg.slices.source import Reading, Source
from hpcseg.slices.tiff import is_tiff, open_file, open_folder
from hpcseg.slices.zarr import is_zarr, list_arrays, open_zarr

FORMATS = "a folder of TIFFs, a TIFF stack, HDF5 or NeXus, Zarr, MRC, NIfTI or raw pixels"


def open_source(path: Path, how: Reading = Reading(), *, known: dict[str, int] | None = None) -> Source:  # noqa: B008
    """Find the slices of a source; reads headers, no pixels.

    Args:
        path: a folder of TIFFs, or a file or store of any format; `NAME::DATASET` names what is in it.
        how: what its files do not say.
        known: numbers of slices by the names of their files without suffix, for a folder of their labels.

    Raises:
        DatasetError: nothing there, damaged, parts missing, or no grey values.
        ConfigError: there is a choice, or an option does not fit.
    """
    path = Path(path).expanduser()
    name, dataset = split_name(os.fspath(path))
    if dataset is not None:
        if how.dataset not in (None, dataset):
            raise ConfigError(f"{path} and --dataset {how.dataset} name two. Give one of them.")
        return open_source(Path(name), replace(how, dataset=dataset), known=known)
    if os.path.isdir(path):
        if is_zarr(path):
            return open_zarr(path, how)
        _no_dataset(path, how)
        return open_folder(path, how, known=known)
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder may not be entered
        raise DatasetError(f"There is no folder or file of slices {path}.")
    if h5py.is_hdf5(path):
        return open_hdf5(path, how)
    suffix = path.suffix.lower()
    if how.shape is not None or suffix in RAW_SUFFIXES:
        _no_dataset(path, how)
        return open_raw(path, how)
    if suffix in MRC_SUFFIXES or is_mrc(path):
        _no_dataset(path, how)
        return open_mrc(path, how)
    if is_nifti(path):
        _no_dataset(path, how)
        return open_nifti(path, how)
    if not is_tiff(path):
        raise DatasetError(f"{path} is not {FORMATS}. Is it all there?")
    return open_file(path, how)


def list_parts(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of what an HDF5 file or a Zarr store holds by name; nothing for other formats.

    Args:
        path: as for `open_source`.
    """
    path = Path(split_name(os.fspath(path.expanduser()))[0])
    if os.path.isdir(path):
        arrays = list_arrays(path) if is_zarr(path) else {}
        return {name: array for name, array in arrays.items() if name}
    return list_datasets(path) if os.path.isfile(path) and h5py.is_hdf5(path) else {}


def _no_dataset(path: Path, how: Reading) -> None:
    if how.dataset is not None:
        raise ConfigError(
            f"--dataset, or ::DATASET behind a name, is a part of an HDF5, Zarr or OME file, and {path} is none. Leave "
            "it out."
        )
