"""Which axes of an array are slices, height and width, where others have the length 1."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from written import read_all

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.array import slice_axes
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, VoxelSize

VOLUME = np.random.default_rng(5).integers(1, 60_000, (6, 10, 12), dtype=np.uint16)
ONE = VOLUME[:1]
STEPS = {"z": 2.0, "y": 0.5, "x": 0.25}
ARRAYS = {
    "slices": (VOLUME, VOLUME),
    "a channel behind": (VOLUME[..., None], VOLUME),  # as ilastik exports it
    "a time before and a channel behind": (VOLUME[None, ..., None], VOLUME),
    "one slice": (VOLUME[0], ONE),
    "one slice and a channel behind": (VOLUME[0, ..., None], ONE),
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
    np.testing.assert_array_equal(read_all(source), wanted)


@pytest.mark.parametrize("shape", [(3, 1, 10, 12), (1, 3, 1, 10, 12), (5, 1, 1, 10, 12), (10, 1, 4, 4), (2, 6, 10, 12)])
def test_times_and_channels_are_no_slices(tmp_path, shape):
    """Also where they are all that there is several of."""
    assert slice_axes(shape) is None
    zarr.create_array(tmp_path / "a", data=np.ones(shape, "u2"))
    with pytest.raises(DatasetError, match="save the one to segment"):
        open_source(tmp_path / "a")


@pytest.mark.parametrize("shape", [(10, 1, 7, 12), (1, 10, 1, 7, 12), (10, 1, 1, 7, 12)])
@pytest.mark.parametrize(("write", "name"), [(hdf5, "a.h5"), (store, "a"), (np.save, "a.npy")])
def test_of_slices_with_an_axis_of_length_1_in_the_middle_it_is_said_how_to_save_them(tmp_path, shape, write, name):
    write(tmp_path / name, np.ones(shape, np.uint8))
    told = r"slices with an axis of length 1 in the middle without it, as \(10, 7, 12\)\."
    with pytest.raises(DatasetError, match=told):
        open_source(tmp_path / name)
    (tmp_path / "of channels").mkdir()
    write(tmp_path / "of channels" / name, np.ones((2, 3, 7, 12), np.uint8))
    with pytest.raises(DatasetError, match=r"save the one to segment\."):
        open_source(tmp_path / "of channels" / name)


@pytest.mark.parametrize("colours", [3, 4])
def test_a_picture_in_colour_is_no_volume(tmp_path, colours):
    picture = np.ones((10, 12, colours), np.uint8)
    np.save(tmp_path / "a.npy", picture)
    hdf5(tmp_path / "a.h5", picture)
    store(tmp_path / "a.zarr", picture)
    for name in ("a.npy", "a.h5", "a.zarr"):
        with pytest.raises(DatasetError, match="save the one to segment"):
            open_source(tmp_path / name)
    for name in ("a.npy", "a.zarr"):
        source = open_source(tmp_path / name, Reading(pixels="stored"))
        assert (len(source), source.read(3).shape) == (10, (12, colours))
    picture.tofile(tmp_path / "a.raw")  # whose shape somebody has said
    assert len(open_source(tmp_path / "a.raw", Reading(shape=picture.shape, dtype="uint8"))) == 10


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


def turned(names):
    """The volume as an array whose axes are those of a text such as "xyz"; channels and times have the length 1."""
    lengths = dict(zip("zyx", VOLUME.shape, strict=True))
    along = [name for name in names if name in lengths]
    return VOLUME.transpose(["zyx".index(name) for name in along]).reshape([lengths.get(name, 1) for name in names])


def ilastik(path, data, names):
    with h5py.File(path, "w") as file:
        file["data"] = data
        file["data"].attrs["axistags"] = json.dumps({"axes": [{"key": name, "typeFlags": 2} for name in names]})


def labelled(path, data, names):
    with h5py.File(path, "w") as file:
        file["data"] = data
        for dimension, name in zip(file["data"].dims, names, strict=True):
            dimension.label = name.upper()


def zarr_v3(path, data, names):
    zarr.create_array(path, data=data, dimension_names=list(names))


def xarray(path, data, names):
    zarr.create_array(path, data=data, zarr_format=2).attrs["_ARRAY_DIMENSIONS"] = list(names)


def netcdf(path, data, names):
    """As netCDF has it, and xarray by it: a data set of places for each axis, of that name."""
    with h5py.File(path, "w") as file:
        file["scan/tomo"] = data
        for axis, (name, length) in enumerate(zip(names, data.shape, strict=True)):
            places = file["scan"].create_dataset(name, data=np.arange(length) * STEPS.get(name, 1.0))
            places.attrs["units"] = "um" if name in STEPS else "s"
            places.make_scale(name)
            file["scan/tomo"].dims[axis].attach_scale(places)


def nexus(path, data, names):
    """The data set is called the signal of a group that it is not in."""
    with h5py.File(path, "w") as file:
        file["detector/data"], group = data, file.create_group("entry")
        group["tomo"] = h5py.SoftLink("/detector/data")
        file.attrs["default"], group.attrs["signal"] = "entry", "tomo"
        group.attrs["axes"] = [f"sample_{name}" for name in names]


WRITERS = pytest.mark.parametrize("write", [ilastik, labelled, netcdf, nexus, zarr_v3, xarray])


@WRITERS
@pytest.mark.parametrize("names", ["zyx", "xyz", "zxy", "czyx", "zyxc", "tzcyx", "yxz"])
def test_named_axes_are_slices_height_and_width_as_they_are_called(tmp_path, write, names):
    write(tmp_path / "a", turned(names), names)
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    in_order = [name for name in names if name in "zyx"] == list("zyx")
    assert in_order or "and the pixels were turned to z, y, x" in source.notes[0]
    if "c" not in names and "t" not in names:  # as they lie
        stored = open_source(tmp_path / "a", Reading(pixels="stored"))
        np.testing.assert_array_equal(stored.read(0), turned(names)[0])


@pytest.mark.parametrize("write", [labelled, zarr_v3, xarray])
@pytest.mark.parametrize(
    "words", [("height", "Width", "depth"), ("rows", "columns", "slices"), ("row", "col", "plane")]
)
def test_axes_that_are_called_by_words_are_turned_as_well(tmp_path, write, words):
    write(tmp_path / "a", turned("yxz"), words)
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.axes == "y, x, z"


@pytest.mark.parametrize("axes", ["YXZ", "ZXY", "XZY", "XYT"])
def test_pages_that_are_no_slices_as_their_own_description_says_are_refused(tmp_path, axes):
    tifffile.imwrite(tmp_path / "a.tif", turned("yxz"), metadata={"axes": axes}, photometric="minisblack")
    with pytest.raises(DatasetError, match=f"its axes are {axes}, so that its pages are no slices.*--pixels stored"):
        open_source(tmp_path / "a.tif")
    assert open_source(tmp_path / "a.tif", Reading(pixels="stored")).shapes[0] == turned("yxz").shape[1:]


@WRITERS
def test_one_slice_with_a_named_channel_is_one(tmp_path, write):
    write(tmp_path / "a", VOLUME[0][..., None], "yxc")
    source = open_source(tmp_path / "a")
    assert len(source) == 1
    np.testing.assert_array_equal(source.read(0), VOLUME[0])


@WRITERS
def test_named_channels_are_no_slices_and_times_are(tmp_path, write):
    write(tmp_path / "c", VOLUME, "cyx")
    with pytest.raises(DatasetError, match=r"of the axes c, y, x, and .* save the one to segment"):
        open_source(tmp_path / "c")
    write(tmp_path / "t", VOLUME, "tyx")
    assert len(open_source(tmp_path / "t")) == len(VOLUME)
    for name, others in (("other", ("line", "y", "x")), ("twice", ("z", "x", "x"))):  # which say nothing
        if write not in (netcdf, zarr_v3) or len(set(others)) == 3:
            write(tmp_path / name, VOLUME, others)
            np.testing.assert_array_equal(open_source(tmp_path / name).read(0), VOLUME[0])


@pytest.mark.parametrize(("shape", "axes"), [((2, 6, 10, 12), "CZYX"), ((6, 10, 12), "CYX"), ((2, 6, 10, 12), "TZYX")])
def test_channels_and_times_that_python_named_in_a_tiff_are_no_slices(tmp_path, shape, axes):
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, "u2"), metadata={"axes": axes}, photometric="minisblack")
    with pytest.raises(DatasetError, match="save the one channel and time to segment"):
        open_source(tmp_path / "a.tif")
    assert len(open_source(tmp_path / "a.tif", Reading(pixels="stored"))) == np.prod(shape[:-2])


def test_labels_that_matlab_wrote_lie_as_their_images(tmp_path):
    marks = (VOLUME > 30_000).astype(np.uint8)
    tifffile.imwrite(tmp_path / "images.tif", VOLUME, photometric="minisblack")
    with h5py.File(tmp_path / "labels.mat", "w", userblock_size=512) as file:  # labels(row, column, slice), -v7.3
        file["labels"] = marks.transpose(0, 2, 1)
        file["labels"].attrs["MATLAB_class"] = np.bytes_("uint8")
    pairs = find_pairs(tmp_path / "images.tif", tmp_path / "labels.mat", Reading())
    for index in range(len(VOLUME)):
        np.testing.assert_array_equal(pairs.read(index)[1], marks[index])


def test_a_turned_volume_and_one_whose_axes_have_no_names_are_no_pairs(tmp_path):
    square = VOLUME[:, :10, :10]
    labelled(tmp_path / "images.h5", square.transpose(0, 2, 1), "zxy")
    hdf5(tmp_path / "labels.h5", (square > 30_000).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"axes of the images are z, x, y, and those of the labels have no names"):
        find_pairs(tmp_path / "images.h5", tmp_path / "labels.h5", Reading())
    assert len(find_pairs(tmp_path / "images.h5", tmp_path / "labels.h5", Reading(pixels="stored"))) == 6
    labelled(tmp_path / "named.h5", (square > 30_000).astype(np.uint8), "zyx")
    pixels, label = find_pairs(tmp_path / "images.h5", tmp_path / "named.h5", Reading()).read(3)
    np.testing.assert_array_equal(pixels > 30_000, label)


def test_channels_are_no_slices_whatever_the_other_axes_are_called(tmp_path):
    space = [{"name": name, "type": "space"} for name in ("height", "width")]
    axes = [{"name": "c", "type": "channel"}, *space]
    image = {
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1] * 3}]}],
    }
    group = zarr.create_group(tmp_path / "a", attributes={"ome": {"multiscales": [image]}})
    group.create_array("0", data=VOLUME)
    with pytest.raises(DatasetError, match="save the one to segment"):
        open_source(tmp_path / "a")


def test_a_mask_beside_channels_is_not_taken_for_the_volume(tmp_path):
    group = zarr.create_group(tmp_path / "a")
    for name, data in (("raw", np.stack([VOLUME, VOLUME])), ("mask", VOLUME)):
        group.create_array(name, data=data)
    with pytest.raises(ConfigError, match="has several data sets"):
        open_source(tmp_path / "a")


def test_places_of_axes_beside_an_array_are_no_second_one(tmp_path):
    group = zarr.create_group(tmp_path / "a")
    for name, data in (("data", VOLUME), ("z", np.arange(6.0)), ("t", np.array(1.0))):
        group.create_array(name, data=data)
    assert open_source(tmp_path / "a").dataset == "data"


@pytest.mark.parametrize("names", ["zyx", "xzy", "tyx", "yx"])
def test_places_along_the_axes_of_netcdf_say_the_size_of_a_voxel(tmp_path, names):
    netcdf(tmp_path / "a", VOLUME if "t" in names else turned(names) if "z" in names else VOLUME[0], names)
    source = open_source(tmp_path / "a", Reading(dataset="scan/tomo"))
    assert source.voxel == VoxelSize(2.0 if "z" in names else 0.25, 0.5, 0.25, "um")  # times have no depth


def copied(tmp_path, names="xyz", *, labels=True):
    """A data set in a file of its own, whose dimension scales refer to what lies elsewhere in the first."""
    with h5py.File(tmp_path / "a.h5", "w") as file, h5py.File(tmp_path / "copy.h5", "w") as copy:
        file["data"] = turned(names)
        for axis, name in enumerate(names):
            file["data"].dims[axis].label = name if labels else ""
            file[name] = np.arange(file["data"].shape[axis]) * 0.5
            file[name].make_scale(name)
            file["data"].dims[axis].attach_scale(file[name])
        file.copy("data", copy)
    return tmp_path / "copy.h5"


def test_names_of_axes_count_where_their_scales_are_gone(tmp_path):
    source = open_source(copied(tmp_path))
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel is None


def test_what_a_copy_takes_for_a_scale_and_is_none_names_no_axis(tmp_path):
    """References are places in a file; here they lead to the data sets of other axes."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        for axis, name in enumerate("xyz"):  # each is attached to another axis than the data set says
            file[name] = np.arange(VOLUME.shape[axis]) * 0.5
            file[name].make_scale(name)
            file["data"].dims[axis].attach_scale(file[name])
        for name in "xyz":
            del file[name].attrs["REFERENCE_LIST"]
    np.testing.assert_array_equal(open_source(tmp_path / "a.h5", Reading(dataset="data")).read(0), VOLUME[0])


def test_times_are_slices_where_there_is_one_slice_of_each(tmp_path):
    netcdf(tmp_path / "a", VOLUME[None], "ztyx")
    source = open_source(tmp_path / "a", Reading(dataset="scan/tomo"))
    np.testing.assert_array_equal(read_all(source), VOLUME)


def test_a_dimension_of_netcdf_without_places_has_a_name(tmp_path):
    netcdf(tmp_path / "a", turned("xyz"), "xyz")
    with h5py.File(tmp_path / "a", "a") as file:
        for name in "xyz":
            file["scan"][name].attrs["NAME"] = np.bytes_("This is a netCDF dimension but not a netCDF variable.    48")
    source = open_source(tmp_path / "a", Reading(dataset="scan/tomo"))
    np.testing.assert_array_equal(read_all(source), VOLUME)


def test_places_that_are_packed_as_other_numbers_say_no_size(tmp_path):
    netcdf(tmp_path / "a", VOLUME, "zyx")
    with h5py.File(tmp_path / "a", "a") as file:
        file["scan/x"].attrs["scale_factor"] = 0.001
    assert open_source(tmp_path / "a", Reading(dataset="scan/tomo")).voxel is None


def test_labels_without_axes_beside_turned_images_are_told_of(tmp_path):
    netcdf(tmp_path / "a.nc", turned("xyz"), "xyz")
    tifffile.imwrite(tmp_path / "labels.tif", VOLUME % 3, photometric="minisblack", metadata=None)
    notes = find_pairs(Path(f"{tmp_path}/a.nc::scan/tomo"), tmp_path / "labels.tif").notes
    assert any("the labels have no names" in note and "--pixels stored" in note for note in notes)
