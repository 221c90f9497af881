"""Values that a file says it shows in place of those that it stores are named, and all slices' or refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.random.default_rng(6).integers(1, 60_000, (4, 10, 12), dtype=np.uint16)
HOUNSFIELD = {"cf": 0, "c0": -1000.0, "c1": 0.5, "vunit": "HU"}


def test_a_function_of_imagej_is_noted_and_one_of_some_slices_only_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, imagej=True, metadata={"axes": "ZYX", **HOUNSFIELD})
    source = open_source(tmp_path / "a.tif")
    assert any("ImageJ shows other values (cf=0, c0=-1000.0, c1=0.5" in note for note in source.notes)
    np.testing.assert_array_equal(source.read(3), VOLUME[3])
    folder = tmp_path / "some"
    folder.mkdir()
    for number, pixels in enumerate(VOLUME):
        said = HOUNSFIELD if number % 2 else {}
        tifffile.imwrite(folder / f"s{number}.tif", pixels, imagej=True, metadata={"axes": "YX", **said})
    with pytest.raises(DatasetError, match=r"2 of 4 slices, such as s1.tif, have another calibration function"):
        open_source(folder)
    assert len(open_source(folder, Reading(pixels="stored"))) == 4


@pytest.mark.parametrize("said", [{"cf": 0, "c0": 0, "c1": 1}, {"cf": 20}, {"vunit": "gray"}])
def test_a_function_that_changes_nothing_is_none(tmp_path, said):
    for number, pixels in enumerate(VOLUME):
        metadata = {"axes": "YX", **(said if number else {})}
        tifffile.imwrite(tmp_path / f"s{number}.tif", pixels, imagej=True, metadata=metadata)
    assert open_source(tmp_path).notes == ()


def with_attributes(path, attributes):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = VOLUME
            file["data"].attrs.update(attributes)
    else:
        zarr.create_array(path, data=VOLUME).attrs.update(attributes)
    return open_source(path)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_scale_and_offset_of_netcdf_are_noted_where_they_change_anything(tmp_path, suffix):
    source = with_attributes(tmp_path / f"a{suffix}", {"scale_factor": 0.5, "add_offset": -1000.0})
    assert source.notes == ("what it says of its pixels is passed over: scale_factor 0.5 and add_offset -1000.",)
    assert not with_attributes(tmp_path / f"b{suffix}", {"scale_factor": 1.0, "add_offset": 0}).notes


def test_scale_and_offset_of_nexus_are_noted_and_an_offset_in_space_is_none(tmp_path):
    (note,) = with_attributes(tmp_path / "a.h5", {"scaling": 2.0, "offset": -7.0}).notes
    assert note.endswith("scaling 2 and offset -7.")
    source = with_attributes(tmp_path / "b.h5", {"offset": [4.0, 5.0, 6.0]})
    assert not source.notes and source.attributes["offset"].tolist() == [4, 5, 6]


def test_grey_values_of_bigdataviewer_have_no_sign(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s00/resolutions"] = np.ones((1, 3))
        file["t00000/s00/0/cells"] = VOLUME.view("i2")
    source, stored = (open_source(tmp_path / "a.h5", Reading(dataset="t00000/s00/0/cells", pixels=pixels))
                      for pixels in (None, "stored"))  # fmt: skip
    np.testing.assert_array_equal(source.read(3), VOLUME[3])
    assert source.notes[0].startswith("BigDataViewer stores uint16 as int16")
    np.testing.assert_array_equal(stored.read(3), VOLUME[3].view("i2"))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["s00"]
    assert open_source(tmp_path / "a.h5").dtype == np.int16, "which is only called so"


def test_what_hdf5_says_of_images_is_noted_and_is_that_of_their_labels_or_refused(tmp_path):
    flipped = {"CLASS": np.bytes_("IMAGE"), "IMAGE_WHITE_IS_ZERO": np.uint8(1), "DISPLAY_ORIGIN": np.bytes_("LL")}
    source = with_attributes(tmp_path / "a.h5", flipped)
    assert source.notes == ("what it says of its pixels is passed over: IMAGE_WHITE_IS_ZERO 1.",)
    with_attributes(tmp_path / "b.h5", {**flipped, "DISPLAY_ORIGIN": np.bytes_("UL")})
    with pytest.raises(DatasetError, match="of the images point to LL and those of the labels to UL"):
        find_pairs(tmp_path / "a.h5", tmp_path / "b.h5", Reading())
    assert len(find_pairs(tmp_path / "a.h5", tmp_path / "b.h5", Reading(pixels="stored"))) == 4
