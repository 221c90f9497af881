"""A data set that is named is opened; what fails says which link, file, filter or package it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.opening import list_parts, open_source
from hpcseg.slices.source import Reading

VOLUME = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)


@pytest.fixture
def scan(tmp_path):
    """A master file as detectors write it, with all kinds of links."""
    with h5py.File(tmp_path / "raw_1.h5", "w") as file:
        file["measurement/data"] = VOLUME
        file["measurement/flat"] = VOLUME[::-1]
    with h5py.File(tmp_path / "master.nxs", "w") as file:
        file["whole"] = h5py.ExternalLink("raw_1.h5", "/measurement")
        file["entry/a"] = h5py.ExternalLink("raw_1.h5", "measurement/flat")
        file["entry/b"] = h5py.SoftLink("/entry/a")
        file["entry/c"] = h5py.SoftLink("../nowhere")
        file["entry/d"] = h5py.ExternalLink("gone.h5", "/measurement/data")
        file["entry/e"] = h5py.ExternalLink("raw_1.h5", "/measurement/dark")
        file["entry/image"] = VOLUME[1]
        file["entry/text"] = "notes"
        file["entry/ring"] = h5py.SoftLink("/entry")
        file["entry/lost"] = h5py.SoftLink("/elsewhere")
        file["entry/way"] = h5py.SoftLink("ring/d")
        file["entry/frames"] = np.stack([VOLUME, VOLUME])
    return tmp_path / "master.nxs"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("whole/data", VOLUME),
        ("/whole/flat/", VOLUME[::-1]),
        ("./whole/./flat", VOLUME[::-1]),
        ("entry/a", VOLUME[::-1]),
        ("entry/ring/ring/b", VOLUME[::-1]),
        ("entry/image", VOLUME[1:2]),
    ],
)
def test_a_data_set_is_opened_by_any_name_that_leads_to_it(scan, name, wanted):
    for source in (open_source(scan, Reading(dataset=name)), open_source(Path(f"{scan}::{name}"))):
        np.testing.assert_array_equal([source.read(index) for index in range(len(source))], wanted)


def test_colons_in_the_name_of_a_folder_name_no_data_set(scan):
    folder = scan.parent / "run::2 of 50% µ"
    folder.mkdir()
    moved = scan.rename(folder / scan.name)
    (scan.parent / "raw_1.h5").rename(folder / "raw_1.h5")
    np.testing.assert_array_equal(open_source(Path(f"{moved}::/whole/data")).read(2), VOLUME[2])
    assert "whole/flat" in list_parts(moved)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("entry/c", r"entry/c is a link to \.\./nowhere, and cannot be opened. Is it there"),
        ("entry/d", r"entry/d is a link to /measurement/data in gone.h5, .*cannot be opened. Is it there"),
        ("entry/e", r"entry/e is a link to /measurement/dark in raw_1.h5"),
        ("entry/way", r"entry/ring/d is a link to /measurement/data in gone.h5, .*cannot be opened. Is it there"),
        (
            "entry/frames",
            r"entry/frames is \(2, 3, 5, 7\) uint16, and slices of grey values are \(slices, height, width\)",
        ),
        ("entry/lost/data", r"entry/lost is a link to /elsewhere, and cannot be opened"),
        ("entry/ring/d", r"entry/ring/d is a link to /measurement/data in gone.h5"),
        ("entry/x", r"has no data set entry/x of slices. It has entry/a \(3, 5, 7\)"),
        ("entry/text", r"has no data set entry/text of slices"),
        ("entry", r"has several data sets. It has entry/a"),
        (None, r"has several data sets. It has .*Name one as master.nxs::NAME"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_its_link(scan, name, told):
    with pytest.raises((DatasetError, ConfigError), match=rf"master.nxs.*{told}"):
        open_source(scan, Reading(dataset=name))


def test_a_file_of_nothing_but_a_broken_link_says_which(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = h5py.ExternalLink("frames.h5", "/data")
    with pytest.raises(DatasetError, match=r"entry/data is a link to /data in frames.h5"):
        open_source(tmp_path / "a.h5")


def test_a_file_that_is_none_of_all_formats_is_not_called_one_of_them(tmp_path):
    (tmp_path / "scan.h5").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(
        DatasetError, match=r"scan.h5 is not a folder of TIFFs or PNGs, .*HDF5 or NeXus.*or is not all there"
    ):
        open_source(tmp_path / "scan.h5")


def test_a_filter_that_nobody_has_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, 5, 7))
        plan.set_filter(32_767, h5py.h5z.FLAG_OPTIONAL)  # the last number, which is registered for none
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple(VOLUME.shape), plan)
        for index in range(3):
            file["data"].id.write_direct_chunk((index, 0, 0), bytes(70))
    with pytest.raises(DatasetError, match=r"data is compressed by the filter .*32767.*pip install 'hpcseg\[hdf5\]'"):
        open_source(tmp_path / "a.h5")


def test_two_names_for_one_source_are_a_question_of_usage(scan):
    with pytest.raises(ConfigError, match="name two"):
        open_source(Path(f"{scan}::entry/a"), Reading(dataset="entry/b"))
    tifffile.imwrite(scan.with_name("a.tif"), VOLUME[0])
    with pytest.raises(ConfigError, match=r"--dataset.* is a part of .*a.tif is none"):
        open_source(scan.with_name("a.tif"), Reading(dataset="x"))


def test_an_array_of_a_zarr_store_is_named_or_the_only_one(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("scan/raw", data=VOLUME)
    assert open_source(tmp_path / "a.zarr").dataset == "scan/raw"
    group.create_array("scan/flat", data=VOLUME[::-1])
    for name, told in ((None, "has several data sets"), ("dark", "has no data set dark of slices")):
        with pytest.raises(ConfigError, match=rf"{told}. It has scan/flat \(3, 5, 7\), scan/raw.*::NAME"):
            open_source(tmp_path / "a.zarr", Reading(dataset=name))
    np.testing.assert_array_equal(open_source(tmp_path / "a.zarr", Reading(dataset="scan/flat")).read(0), VOLUME[2])


@pytest.mark.parametrize(
    ("package", "extra", "name"),
    [("zarr", "zarr", "a.zarr"), ("mrcfile", "mrc", "a.mrc"), ("nibabel", "nifti", "a.nii.gz")],
)
def test_a_format_whose_package_is_not_installed_names_the_command_that_installs_it(
    tmp_path, monkeypatch, package, extra, name
):
    if name == "a.zarr":
        zarr.save_array(tmp_path / name, VOLUME)
    else:
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{name} needs the package {package}: pip install 'hpcseg\[{extra}\]'"):
        open_source(tmp_path / name)


def test_raw_files_lie_beside_their_data_set_also_where_h5py_was_loaded_first(tmp_path):
    """As in a notebook, which does not stand in the folder of the scan."""
    (tmp_path / "scan").mkdir()
    volume = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    (tmp_path / "scan" / "pixels.raw").write_bytes(volume.tobytes())
    with h5py.File(tmp_path / "scan" / "a.h5", "w") as file:
        file.create_dataset("data", volume.shape, "u2", external=[("pixels.raw", 0, volume.nbytes)])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["here"] = h5py.ExternalLink("scan/a.h5", "data")
    script = (
        "import h5py, sys\nfrom pathlib import Path\nfrom hpcseg.slices.opening import open_source\n"
        "for name in ('scan/a.h5', 'link.h5'):\n    print(open_source(Path(sys.argv[1]) / name).read(1)[0])"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd="/", capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[12 13 14 15]"] * 2, done.stderr


def write(path, calls=None, **sets):
    """Data sets by name, with two underscores for each slash; `calls` is what the file calls its data."""
    with h5py.File(path, "w") as file:
        for name, data in sets.items():
            file[name.replace("__", "/")] = data
        if calls is not None:
            file.attrs["default"], file.require_group("entry").attrs["signal"] = "entry", calls
    return path


@pytest.mark.parametrize("calls", ["data", None])
@pytest.mark.parametrize("link", [h5py.ExternalLink("gone.h5", "/data"), h5py.SoftLink("/detector/data")])
def test_nothing_else_is_taken_for_data_that_a_broken_link_leads_to(tmp_path, link, calls):
    path = write(tmp_path / "a.h5", calls, entry__flats=VOLUME[:2], entry__data=link)
    with pytest.raises(
        DatasetError, match=r"entry/data is a link to .*cannot be opened.*Another .* named as FILE::DATASET"
    ):
        open_source(path)
    np.testing.assert_array_equal(open_source(path, Reading(dataset="entry/flats")).read(1), VOLUME[1])


@pytest.mark.parametrize(
    "data",
    [VOLUME[:0], np.stack([VOLUME, VOLUME]), VOLUME.astype("c8"), VOLUME[0]],
    ids=["none", "4-D", "complex", "2-D"],
)
def test_what_is_as_large_as_the_only_volume_makes_a_choice(tmp_path, data):
    with pytest.raises(ConfigError, match=r"several data sets. It has entry/mask .*, entry/data .*::NAME"):
        open_source(write(tmp_path / "a.h5", entry__data=data, entry__mask=VOLUME > 9))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (VOLUME[:0], r"is \(0, 5, 7\) uint16, without a pixel"),
        (np.stack([VOLUME, VOLUME]), r"is \(2, 3, 5, 7\) uint16, and slices"),
        (VOLUME.astype("c8"), r"is \(3, 5, 7\) complex64, and slices"),
        (VOLUME[0, 0], "of slices"),
    ],
    ids=["none", "4-D", "complex", "1-D"],
)
def test_what_a_file_calls_its_data_is_taken_or_refused(tmp_path, data, told):
    with pytest.raises((DatasetError, ConfigError), match=rf"entry/data.*{told}.*entry/other \(3, 5, 7\)") as refused:
        open_source(write(tmp_path / "a.h5", "data", entry__data=data, entry__other=VOLUME))
    assert "::" in str(refused.value)


def test_one_image_that_a_file_calls_its_data_is_one_slice(tmp_path):
    source = open_source(write(tmp_path / "a.h5", "data", entry__data=VOLUME[1], entry__other=VOLUME))
    assert len(source) == 1
    np.testing.assert_array_equal(source.read(0), VOLUME[1])


def test_a_data_set_may_be_the_default_itself(tmp_path):
    path = write(tmp_path / "a.h5", entry__data=VOLUME, entry__other=VOLUME[::-1])
    with h5py.File(path, "a") as file:
        file.attrs["default"], file["entry"].attrs["default"] = "entry", "data"
    np.testing.assert_array_equal(open_source(path).read(0), VOLUME[0])


def test_names_that_are_no_utf8_are_read_as_latin_1(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5g.create(file.id, b"gr\xf6\xdfe")
        file[b"gr\xf6\xdfe"]["d"] = VOLUME
    source = open_source(tmp_path / "a.h5")
    assert source.dataset == "gr\xf6\xdfe/d"
    for name in ("gr\xf6\xdfe/d", "gr\udcf6\udcdfe/d"):  # the second as Python has what was typed in these bytes
        np.testing.assert_array_equal(open_source(tmp_path / "a.h5", Reading(dataset=name)).read(2), VOLUME[2])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["mask"] = VOLUME
    with pytest.raises(ConfigError, match=r"It has gr\xf6\xdfe/d \(3, 5, 7\), mask"):
        open_source(tmp_path / "a.h5")


def test_the_root_of_a_file_is_no_data_set(scan):
    with pytest.raises(ConfigError, match=r"master.nxs has no data set to read of slices. It has entry/a"):
        open_source(Path(f"{scan}::/"))


def test_a_colour_image_is_no_slices(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((64, 64, 3), "u1")
        file["image"].attrs["CLASS"], file["image"].attrs["IMAGE_SUBCLASS"] = (
            np.bytes_("IMAGE"),
            np.bytes_("IMAGE_TRUECOLOR"),
        )
    with pytest.raises(DatasetError, match=r"a.h5::image is the colour image \(64, 64, 3\)"):
        open_source(tmp_path / "a.h5")


def test_a_group_that_is_named_is_what_it_holds(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/scan/counts"], file["entry/scan/dark"] = VOLUME, VOLUME[::-1]
        file["entry/scan"].attrs["signal"] = "counts"
        file["entry/flat/only"] = VOLUME + 1
        file["entry/two/a"] = file["entry/two/b"] = VOLUME
        file["entry/text"] = "notes"
    for named, wanted in (("entry/scan", VOLUME), ("entry/scan/", VOLUME), ("entry/flat", VOLUME + 1)):
        np.testing.assert_array_equal(open_source(tmp_path / f"a.nxs::{named}").read(1), wanted[1])
    with pytest.raises(ConfigError, match=r"It has entry/two/a .*, entry/two/b [^,]*, [^,]*, [^,]*\. Name one"):
        open_source(tmp_path / "a.nxs::entry/two")


def test_a_data_set_that_is_named_and_is_no_numbers_is_told_by_its_type(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros((3, 5, 7), [("grey", "u2"), ("time", "f4")])
    with pytest.raises(DatasetError, match=r"a.h5::data is \(3, 5, 7\) \[\('grey', '<u2'\), \('time', '<f4'\)\]"):
        open_source(tmp_path / "a.h5::data")


def test_the_padding_of_imaris_is_told(tmp_path):
    with h5py.File(tmp_path / "a.ims", "w") as file:
        channel = file.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")
        channel["Data"] = np.ones((8, 64, 128), np.uint16)
        for axis, length in zip("ZYX", (5, 60, 90), strict=True):
            channel.attrs[f"ImageSize{axis}"] = np.array(list(str(length)), "S1")
    (note,) = open_source(tmp_path / "a.ims").notes
    assert "5 x 60 x 90 of 8 x 64 x 128 voxels are the volume" in note
    with h5py.File(tmp_path / "a.ims", "a") as file:
        for axis, length in zip("ZYX", (8, 64, 128), strict=True):
            file["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"].attrs[f"ImageSize{axis}"] = np.array(
                list(str(length)), "S1"
            )
    assert open_source(tmp_path / "a.ims").notes == ()


def test_chunks_that_were_never_written_are_told_by_their_slices(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", (12, 5, 7), np.uint16, chunks=(1, 5, 7))
        for index in (2, 5, 9):
            data[index] = VOLUME[0]
    with pytest.raises(
        DatasetError, match="9 were never written, from slice 1 to slice 2, from slice 4 to slice 5, from slice 7"
    ):
        open_source(tmp_path / "a.h5")
