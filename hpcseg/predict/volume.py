"""A source of slices in, grey values to segment out, whatever the files are called; of a packed file its slices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hpcseg.data.store import FORMAT, read_info
from hpcseg.hdf5 import h5py
from hpcseg.slices.hdf5 import PACKED_SLICES, open_hdf5
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, Source, as_grey_values


def open_volume(path: Path, how: Reading = Reading()) -> Source:  # noqa: B008
    """Find the slices of a volume; reads headers, no pixels.

    Args:
        path: as for `open_source`; names of files need no number.
        how: what its files do not say; of a packed file the slices are meant, where no data set is named.

    Raises:
        DatasetError, ConfigError: as `open_source`; it holds no grey values.
    """
    path = path.expanduser()
    if how.dataset in (None, PACKED_SLICES) and os.path.isfile(path) and _is_packed(path):
        return as_grey_values(open_hdf5(path, replace(how, dataset=PACKED_SLICES), names=read_info(path).image_names))
    return as_grey_values(open_source(path, replace(how, needs_numbers=False)), of_any_type=True)


def _is_packed(path: Path) -> bool:
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("format")) == FORMAT
    except OSError:
        return False
