"""The size of a voxel where there is one slice, no depth, another size in each file, or hardly any."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile

from hpcseg.data.pack import pack
from hpcseg.data.pairs import find_pairs
from hpcseg.predict.volume import open_volume
from hpcseg.slices.calibration import calibration_of
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, VoxelSize

VOLUME = np.random.default_rng(7).integers(1, 60_000, (4, 10, 12), dtype=np.uint16)


def nexus(path, pixels, axes):
    """A NeXus file whose axes have places in um, but those that are called "."."""
    steps = {"z": 2.0, "y": 0.25, "x": 0.5}
    with h5py.File(path, "w") as file:
        group = file.create_group("entry")
        file.attrs["default"], group.attrs["signal"], group.attrs["axes"] = "/entry", "data", axes
        group["data"] = pixels
        for axis, length in zip(axes, pixels.shape, strict=True):
            if axis != ".":
                group[axis] = np.arange(length) * steps[axis]
                group[axis].attrs["units"] = "um"
    return open_source(path)


@pytest.mark.parametrize(
    ("pixels", "axes", "said"),
    [(VOLUME, "zyx", True), (VOLUME[:1], "zyx", False), (VOLUME[0], "yx", False), (VOLUME, ".yx", False)],
)
def test_height_and_width_of_one_slice_or_without_a_depth_are_kept(tmp_path, pixels, axes, said):
    voxel = nexus(tmp_path / "a.nxs", pixels, list(axes)).voxel
    assert voxel is not None
    assert (voxel.depth, voxel.height, voxel.width, voxel.depth_said) == (2.0 if said else 0.5, 0.25, 0.5, said)


def test_a_voxel_is_turned_as_the_pixels_are(tmp_path):
    nexus(tmp_path / "a.nxs", VOLUME.transpose(2, 1, 0), list("xyz"))
    shown, stored = (open_source(tmp_path / "a.nxs", Reading(pixels=pixels)) for pixels in (None, "stored"))
    for source, sizes, lengths in ((shown, (2.0, 0.25, 0.5), (4, 10, 12)), (stored, (0.5, 0.25, 2.0), (12, 10, 4))):
        assert source.voxel is not None
        assert (source.voxel.depth, source.voxel.height, source.voxel.width) == sizes
        assert (len(source), *source.shapes[0]) == lengths


@pytest.mark.parametrize("axes", [["z", ".", "x"], ["z", "y", "."]])
def test_without_places_of_rows_or_columns_there_is_no_size(tmp_path, axes):
    assert nexus(tmp_path / "a.nxs", VOLUME, axes).voxel is None


def test_two_sizes_are_those_of_one_slice(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME[0]
        file["data"].attrs["element_size_um"] = [0.25, 0.5]
    voxel = open_source(tmp_path / "a.h5").voxel
    assert voxel is not None and (voxel.height, voxel.width, voxel.depth_said) == (0.25, 0.5, False)


def in_imagej_units(file, pixels, odd):
    metadata = {"axes": "YX", "unit": "mm" if odd else "micron"}
    tifffile.imwrite(file, pixels, imagej=True, resolution=(2, 4), metadata=metadata)


def in_ome_units(file, pixels, odd):
    size = 0.25 if odd else 0.5
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": size}
    tifffile.imwrite(file, pixels, ome=True, metadata=metadata)


@pytest.mark.parametrize("write", [in_imagej_units, in_ome_units])
def test_files_whose_descriptions_say_another_size_than_the_first_are_named(tmp_path, write):
    for number, pixels in enumerate(VOLUME):
        write(tmp_path / f"s{number}.tif", pixels, number % 2)
    assert any("2 of 4 slices, such as s1.tif, say another size" in note for note in open_source(tmp_path).notes)


@pytest.mark.parametrize("others", [{"unit": "um"}, {"unit": "micron", "spacing": 2.0}, {}])
def test_the_same_size_in_other_words_or_none_is_no_other(tmp_path, others):
    for number, pixels in enumerate(VOLUME):
        metadata = {
            "axes": "YX",
            **(others if number else {"unit": "micron", **({"spacing": 2} if "spacing" in others else {})}),
        }
        tifffile.imwrite(tmp_path / f"s{number}.tif", pixels, imagej=True, resolution=(2, 4), metadata=metadata)
    assert not any("another size" in note for note in open_source(tmp_path).notes)


@pytest.mark.parametrize(("size", "unit"), [("1e-320", "Å"), ("1e300", "km"), ("1e-300", "m")])
def test_a_size_that_is_nearly_nothing_ends_no_work(tmp_path, size, unit):
    metadata = {f"PhysicalSize{axis}": size for axis in "XYZ"} | {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, ome=True, metadata={"axes": "ZYX", **metadata})
    assert calibration_of(open_source(tmp_path / "a.ome.tif")).resolution is None


def test_images_and_labels_of_other_voxels_are_noted(tmp_path):
    for name, size, unit in (("a", 0.5, "um"), ("b", 500, "nm"), ("c", 1, "um")):
        metadata = {"axes": "ZYX", "unit": unit, "spacing": size}
        tifffile.imwrite(tmp_path / f"{name}.tif", VOLUME, imagej=True, resolution=(1 / size,) * 2, metadata=metadata)
    assert not find_pairs(tmp_path / "a.tif", tmp_path / "b.tif").notes
    (note,) = find_pairs(tmp_path / "a.tif", tmp_path / "c.tif").notes
    assert "voxels of the images are 0.5 x 0.5 x 0.5 um" in note and "of the labels 1 x 1 x 1 um" in note


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_a_unit_that_is_no_length_is_none(tmp_path, unit):
    metadata = {f"PhysicalSize{axis}": 1 for axis in "XYZ"} | {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, ome=True, metadata={"axes": "ZYX", **metadata})
    assert open_source(tmp_path / "a.ome.tif").voxel is None


@pytest.mark.parametrize(("labelled", "depth"), [((1, 2, 3), 2.0), ((1, 3), 4.0), ((1, 4), 6.0), ((1, 2, 4), 2.0)])
def test_packed_slices_are_as_far_apart_as_they_were(tmp_path, labelled, depth):
    source = nexus(tmp_path / "a.nxs", VOLUME, list("zyx"))
    (tmp_path / "labels").mkdir()
    for number in labelled:
        label = (VOLUME[number - 1] > 30_000).astype(np.uint8)
        tifffile.imwrite(tmp_path / "labels" / f"l{number}.tif", label, metadata=None)
    notes, output = list[str](), tmp_path / "packed.h5"
    for _ in range(2):  # and it is the same slices when it is packed again
        notes.clear()
        info = pack(source.path, tmp_path / "labels", output, command="test", on_note=notes.append)
    assert info.voxel == open_volume(output).voxel == VoxelSize(depth, 0.25, 0.5, "um")
    assert [note for note in notes if "unevenly" in note or "voxels are" in note] == [
        "the slices lie unevenly apart: the depth of a voxel, 2 um, stays that of a.nxs."
    ] * (labelled == (1, 2, 4))


@pytest.mark.parametrize(
    ("images", "labels", "depth"),
    [((1, 2, 4, 5, 7, 8), (2, 5, 8), 6.0), ((1, 2, 4, 5, 6, 7, 8), (2, 4, 6, 8), 4.0), ((0, 10, 20, 30), (0, 20), 4.0)],
)
def test_packed_files_are_as_far_apart_as_their_numbers(tmp_path, images, labels, depth):
    """Where files are missing in between; of every tenth one, the usual distance is 10."""
    for folder, numbers in (("images", images), ("labels", labels)):
        (tmp_path / folder).mkdir()
        for number in numbers:
            pixels = VOLUME[number % 4] if folder == "images" else (VOLUME[number % 4] > 30_000).astype(np.uint8)
            options = {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um", "spacing": 2.0, "slices": 1}}
            tifffile.imwrite(tmp_path / folder / f"s{number:03}.tif", pixels, **options)
    info = pack(tmp_path / "images", tmp_path / "labels", tmp_path / "packed.h5", command="test")
    assert info.voxel == VoxelSize(depth, 0.5, 0.5, "um")
