"""Which axes of an array are slices, height and width, where others have the length 1."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr

from hpcseg.errors import DatasetError
from hpcseg.slices.array import slice_axes
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.random.default_rng(5).integers(1, 60_000, (6, 10, 12), dtype=np.uint16)
ONE = VOLUME[:1]
ARRAYS = {
    "slices": (VOLUME, VOLUME),
    "a channel behind": (VOLUME[..., None], VOLUME),  # as ilastik exports it
    "a time before and a channel behind": (VOLUME[None, ..., None], VOLUME),
    "one slice": (VOLUME[0], ONE),
    "slices of a column": (VOLUME[..., :1], VOLUME[..., :1]),
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
def test_axes_of_length_1_are_passed_over_before_the_slices_and_behind_them(tmp_path, data, wanted, write):
    write(tmp_path / "a", data)
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(np.stack([source.read(index) for index in range(len(source))]), wanted)


@pytest.mark.parametrize("shape", [(3, 1, 10, 12), (1, 3, 1, 10, 12), (5, 1, 1, 10, 12), (10, 1, 4, 4), (2, 6, 10, 12)])
def test_times_and_channels_are_no_slices(tmp_path, shape):
    """Also where they are all that there is several of."""
    assert slice_axes(shape) is None
    zarr.create_array(tmp_path / "a", data=np.ones(shape, "u2"))
    with pytest.raises(DatasetError, match="save the one to segment"):
        open_source(tmp_path / "a")


def test_a_table_beside_a_volume_is_no_second_one(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["matrices"], file["counts"] = VOLUME, np.ones((6, 1, 4, 4)), np.ones((6, 1, 1, 256))
    assert open_source(tmp_path / "a.h5").dataset == "data"


def test_times_and_channels_are_refused_and_named(tmp_path):
    hdf5(tmp_path / "a", np.stack([VOLUME, VOLUME]))
    for name in (None, "data"):
        with pytest.raises(DatasetError, match=r"a::data is \(2, 6, 10, 12\) uint16.*save the one to segment"):
            open_source(tmp_path / "a", Reading(dataset=name))
    assert slice_axes((5,)) is None and slice_axes((5, 0, 4)) is None
