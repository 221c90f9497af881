"""A source of slices in, grey values to segment out, whatever the files are called; of a packed file its slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpcseg.data.store import is_packed_file, read_info
from hpcseg.slices.hdf5 import PACKED_SLICES, open_hdf5
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, Source, as_grey_values


def open_volume(path: Path, how: Reading = Reading()) -> Source:  # noqa: B008
    """Find the slices of a volume; reads headers, no pixels.

    Args:
        path: as for `open_source`; names of files need no number where nobody says which.
        how: what its files do not say; of a packed file the slices are meant, where no data set is named.

    Raises:
        DatasetError, ConfigError: as `open_source`; it holds no grey values.
    """
    path = path.expanduser()
    if how.dataset in (None, PACKED_SLICES) and is_packed_file(path):
        return as_grey_values(open_hdf5(path, replace(how, dataset=PACKED_SLICES), names=read_info(path).image_names))
    return as_grey_values(open_source(path, replace(how, needs_numbers=how.number is not None)), of_any_type=True)


def asked_reading(how: Reading) -> dict[str, Any] | None:
    """What was said of a volume beside its data set, as a record has it; None where nothing was."""
    usual = Reading()
    said = {name: value for name, value in asdict(how).items() if name != "dataset" and value != getattr(usual, name)}
    return said or None


def read_reading(asked: Mapping[str, Any]) -> Reading:
    """What `asked_reading` has made a record of, with the data set beside it."""
    said = dict(asked.get("reading") or {})
    if said.get("shape"):
        said["shape"] = tuple(said["shape"])
    return Reading(dataset=asked["dataset"], **said)
