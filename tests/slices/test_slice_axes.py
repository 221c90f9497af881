"""Which axes of an array are slices, height and width, where others have the length 1."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.array import slice_axes
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.random.default_rng(5).integers(1, 60_000, (6, 10, 12), dtype=np.uint16)
ONE = VOLUME[:1]
ARRAYS = {
    "slices": (VOLUME, VOLUME),
    "a channel behind": (VOLUME[..., None], VOLUME),  # as ilastik exports it
    "a time before and a channel behind": (VOLUME[None, ..., None], VOLUME),
    "a channel between": (VOLUME[:, None], VOLUME),
    "one slice": (VOLUME[0], ONE),
    "one slice with a channel": (VOLUME[0][..., None], ONE),
    "one slice with its axis and a channel": (ONE[..., None], ONE),
    "one slice with two axes": (VOLUME[None, :1], ONE),
    "slices of a row": (VOLUME[:, :1], VOLUME[:, :1]),
}


def hdf5(path, data):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, chunks=tuple(min(2, length) for length in data.shape))


def store(path, data):
    zarr.create_array(path, data=data, chunks=tuple(min(4, length) for length in data.shape))


@pytest.mark.parametrize(("data", "wanted"), ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("write", [hdf5, store])
def test_axes_of_length_1_are_passed_over_wherever_they_stand(tmp_path, data, wanted, write):
    write(tmp_path / "a", data)
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(np.stack([source.read(index) for index in range(len(source))]), wanted)


def test_times_and_channels_are_refused_and_named(tmp_path):
    hdf5(tmp_path / "a", np.stack([VOLUME, VOLUME]))
    with pytest.raises(ConfigError, match=r"no data set to read of slices.* It has data \(2, 6, 10, 12\)"):
        open_source(tmp_path / "a")
    with pytest.raises(DatasetError, match=r"is \(2, 6, 10, 12\) uint16.*save the one to segment"):
        open_source(tmp_path / "a", Reading(dataset="data"))
    assert slice_axes((5,)) is None and slice_axes((5, 0, 4)) is None
