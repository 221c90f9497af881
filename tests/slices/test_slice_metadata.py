"""What is only copied along never ends the work: it is carried where it can be, and left out where it is nonsense."""

from __future__ import annotations

import pickle
import struct

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from written import read_all

from hpcseg.data.pairs import find_pairs
from hpcseg.data.store import is_packed_file, read_info
from hpcseg.errors import DatasetError
from hpcseg.predict.layers import open_target
from hpcseg.predict.target import Layer
from hpcseg.slices.calibration import calibration_of, calibration_of_file, in_micrometers, ome_unit
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, VoxelSize, choose_slices

VOLUME = np.random.default_rng(5).integers(0, 60_000, (3, 8, 10), dtype=np.uint16)


def imagej(path, lines):
    text = f"ImageJ=1.54f\nimages=3\nslices=3\n{lines}"
    tifffile.imwrite(path, VOLUME, description=text, resolution=(4, 2), metadata=None, photometric="minisblack")
    return open_source(path)


@pytest.mark.parametrize(
    ("lines", "voxel"),
    [
        ("frames=many\nunit=nm\nspacing=3\n", VoxelSize(3, 0.5, 0.25, "nm")),
        ("unit=\\u00\nspacing=3\n", VoxelSize(3, 0.5, 0.25, "\\u00")),
        ("unit=\\u00C5\nspacing=3\n", VoxelSize(3, 0.5, 0.25, "Å")),
        ("unit=\\u00b5m\nspacing=3\n", VoxelSize(3, 0.5, 0.25, "µm")),
        ("unit=nm\nyunit=\\u00B5m\nzunit=mm\nspacing=3\n", VoxelSize(3e6, 500, 0.25, "nm")),
        ("unit=nm\nzunit=sec\nspacing=3\n", None),
        ("unit=n\0m\nspacing=3\n", None),
        ("unit=nm\nspacing=inf\nfps=\nloop=maybe\n", None),
        ("unit=nm\nspacing=-2\n", VoxelSize(2, 0.5, 0.25, "nm")),
        ("unit=nm\n", VoxelSize(1, 0.5, 0.25, "nm")),
    ],
)
def test_what_imagej_says_of_a_voxel_is_understood_or_left_out(tmp_path, lines, voxel):
    source = imagej(tmp_path / "a.tif", lines)
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel == voxel and source.notes == ()


def plain(path):
    tifffile.imwrite(path, VOLUME, photometric="minisblack", metadata=None, resolution=(4, 2), resolutionunit=3)


def imagej_in_time(path):
    options = {"imagej": True, "photometric": "minisblack", "resolution": (4, 2)}
    tifffile.imwrite(path, VOLUME, metadata={"axes": "TYX", "unit": "cm"}, **options)


def ome_of(axes, **more):
    sizes = {"PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25, "PhysicalSizeYUnit": "cm", "PhysicalSizeXUnit": "cm"}
    return lambda path: tifffile.imwrite(path, VOLUME, metadata={"axes": axes, **sizes, **more}, ome=True)


UNSAID = [plain, imagej_in_time, ome_of("ZYX"), ome_of("TYX", PhysicalSizeZ=3.0)]


@pytest.mark.parametrize("write", UNSAID, ids=["plain", "ImageJ's times", "OME", "OME's times"])
def test_where_no_depth_is_said_the_width_stands_for_it_with_a_note(tmp_path, write):
    write(tmp_path / "a.tif")
    source = open_source(tmp_path / "a.tif")
    assert source.voxel == VoxelSize(0.25, 0.5, 0.25, "cm")
    note = "how far slices are apart is not said, or is uneven; the width of a voxel, 0.25 cm, stands for it."
    assert source.notes == (note,)
    assert "no depth is said" in source.voxel.text()


@pytest.mark.parametrize("dots", [28.35, 28.346456, 37.795, 37.8, 59.06, 118.11])
def test_dots_per_inch_of_screens_say_no_size_in_centimetres_either(tmp_path, dots):
    """72, 96, 150 and 300, which programs write that know none."""
    options = {"metadata": None, "resolution": (dots, dots), "photometric": "minisblack"}
    for unit in (2, 3):
        tifffile.imwrite(tmp_path / "a.tif", VOLUME, resolutionunit=unit, **options)
        source = open_source(tmp_path / "a.tif")
        assert source.voxel is None and source.notes == ()
    # ImageJ's own unit is what somebody has set.
    tifffile.imwrite(tmp_path / "b.tif", VOLUME, imagej=True, resolution=(dots, dots), metadata={"unit": "cm"})
    assert open_source(tmp_path / "b.tif").voxel.width == pytest.approx(1 / dots)


@pytest.mark.parametrize("resolution", [(29, 29), (28.3, 28.3), (28.35, 14.2), (2835, 2835)])
def test_other_resolutions_in_centimetres_are_sizes(tmp_path, resolution):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None, resolution=resolution, resolutionunit=3)
    voxel = open_source(tmp_path / "a.tif").voxel
    assert (voxel.width, voxel.height) == pytest.approx((1 / resolution[0], 1 / resolution[1]))


def test_a_slice_that_is_alone_is_as_far_from_no_other(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None, resolution=(4, 2), resolutionunit=3)
    assert open_source(tmp_path / "a.tif").notes == ()


@pytest.mark.parametrize(
    "write", [*UNSAID, lambda path: imagej(path, "unit=cm\nspacing=3\n"), lambda path: imagej(path, "unit=cm\n")]
)
def test_every_second_slice_is_twice_as_far_apart_in_all_forms(tmp_path, write):
    write(tmp_path / "a.tif")
    whole = open_source(tmp_path / "a.tif")
    source = choose_slices(whole, every=2)
    for form in ("tiff", "hdf5", "zarr"):
        target = open_target(tmp_path / form, source, [Layer("labels", np.dtype("u1"), "")], form)
        (tmp_path / form).mkdir()
        target.prepare()
        for index, shape in enumerate(source.shapes):
            target.write(index, {"labels": np.ones(shape, np.uint8)})
        target.finish()
        assert target.notes() == []
        voxel = open_source(next((tmp_path / form).iterdir())).voxel
        assert in_micrometers(voxel) == pytest.approx((2e4 * whole.voxel.depth, 5000, 2500))


@pytest.mark.parametrize(
    ("unit", "size"),
    [("millimeter", 0.00016250000044), ("meter", 6.1728388e-7), ("nanometer", 1.2e6), ("micrometer", 0.0001073107)],
)
def test_a_size_of_many_digits_or_of_millions_is_in_the_labels_as_it_was(tmp_path, unit, size):
    source = ome_zarr(tmp_path / "a.zarr", multiscales((unit,) * 3, [{"type": "scale", "scale": [size] * 3}]))
    tifffile.imwrite(tmp_path / "labels.tif", VOLUME % 3, **calibration_of(source).options(np.dtype("u2"), 3))
    voxel = open_source(tmp_path / "labels.tif").voxel
    assert voxel.unit == unit and (voxel.depth, voxel.width) == pytest.approx((size, size), rel=1e-6)


def test_a_size_that_no_tiff_can_say_is_said_to_be_left_out(tmp_path):
    scale = [{"type": "scale", "scale": [1e11] * 3}]
    source = ome_zarr(tmp_path / "a.zarr", multiscales(("micrometer",) * 3, scale))
    target = open_target(tmp_path / "out", source, [Layer("labels", np.dtype("u1"), "")], "tiff")
    (tmp_path / "out").mkdir()
    target.prepare()
    assert "TIFFs have no number for voxels of 1e+11 x 1e+11 x 1e+11 micrometer" in target.notes()[0]


@pytest.mark.parametrize(
    ("unit", "micrometers"),
    [
        ("Micron", 1),
        ("micrometers", 1),
        ("Micrometres", 1),
        (" um", 1),
        ("µM", 1),
        ("Nanometers", 1e-3),
        ("angstroms", 1e-4),
        ("Å", 1e-4),
        ("pm", 1e-6),
        ("MM", 1000),
        ("inches", 25400),
    ],
)
def test_units_are_understood_as_people_write_them(unit, micrometers):
    assert in_micrometers(VoxelSize(1, 1, 1, unit)) == (micrometers,) * 3
    assert ome_unit(unit) in ("micrometer", "nanometer", "angstrom", "picometer", "millimeter", "inch")


@pytest.mark.parametrize("unit", ["ms", "pixels", "", "s", "reference frame"])
def test_what_is_no_unit_of_length_is_none(unit):
    assert in_micrometers(VoxelSize(1, 1, 1, unit)) is None and ome_unit(unit) == unit


def test_labels_say_it_in_the_letters_that_imagej_has(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", VOLUME, imagej=True, resolution=(4, 2), metadata={"unit": "\\u00C5", "Info": "Größe 5 °C"}
    )
    calibration = calibration_of(open_source(tmp_path / "a.tif"))
    tifffile.imwrite(tmp_path / "labels.tif", VOLUME % 3, **calibration.options(np.dtype("u2"), 3))
    with tifffile.TiffFile(tmp_path / "labels.tif") as tif:
        assert "\nunit=\\u00C5" in tif.pages.first.description
        assert tif.imagej_metadata["Info"] == "Größe 5 °C"


def test_a_resolution_unit_that_is_two_numbers_is_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None, resolution=(4, 2))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        tif.pages.first.tags["ResolutionUnit"].overwrite((3, 3))
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_all(source), VOLUME[:1])
    assert source.voxel is None


def test_a_resolution_unit_that_is_none_costs_no_other_calibration(tmp_path):
    described = tifffile.imagej_description((1, 1), "YX", unit="um")
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None, resolution=(4, 2), description=described)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        tif.pages.first.tags["ResolutionUnit"].overwrite((3, 3))
    voxel = open_source(tmp_path / "a.tif").voxel
    assert voxel is not None and (voxel.height, voxel.width, voxel.unit) == (0.5, 0.25, "um")


def test_axes_of_an_ome_tiff_have_a_unit_each(tmp_path):
    sizes = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 500.0, "PhysicalSizeX": 0.25}
    units = {"PhysicalSizeZUnit": "µm", "PhysicalSizeYUnit": "nm", "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, metadata={"axes": "ZYX", **sizes, **units})
    assert open_source(tmp_path / "a.ome.tif").voxel == VoxelSize(2.0, 0.5, 0.25, "µm")
    units["PhysicalSizeZUnit"] = "reference frame"
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, metadata={"axes": "ZYX", **sizes, **units})
    assert open_source(tmp_path / "a.ome.tif").voxel is None


def ome_zarr(path, attributes):
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("0", data=VOLUME)
    group.attrs.update(attributes)
    return open_source(path)


def multiscales(units, transformations):
    axes = [{"name": name, "type": "space", "unit": unit} for name, unit in zip("zyx", units, strict=True)]
    return {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transformations}]}]}


MICROMETERS = ("micrometer",) * 3
SCALE = {"type": "scale", "scale": [2.0, 500.0, 0.25]}


@pytest.mark.parametrize(
    ("attributes", "voxel"),
    [
        ({"ome": "text", "multiscales": 7}, None),
        ({"multiscales": []}, None),
        (multiscales(("micrometer", "nanometer", "micrometer"), [SCALE]), VoxelSize(2.0, 0.5, 0.25, "micrometer")),
        (multiscales(("pixel", "nanometer", "micrometer"), [SCALE]), None),
        (multiscales((None, None, "micrometer"), [SCALE]), VoxelSize(2.0, 500.0, 0.25, "micrometer")),
        (multiscales(MICROMETERS, ["scale", SCALE]), None),
        (multiscales(MICROMETERS, [{"type": "scale", "scale": "abc"}]), None),
        (multiscales((["um"], "um", "um"), [SCALE]), None),
    ],
)
def test_what_an_ome_zarr_says_of_a_voxel_is_understood_or_left_out(tmp_path, attributes, voxel):
    source = ome_zarr(tmp_path / "a.zarr", attributes)
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel == voxel


@pytest.mark.parametrize(("unit", "size"), [("meter", 1e-10), ("nanometer", 5e9)])
def test_labels_say_a_size_for_which_tiffs_have_no_number_in_that_unit_in_micrometers(tmp_path, unit, size):
    scale = [{"type": "scale", "scale": [3 * size, size, size]}]
    source = ome_zarr(tmp_path / "a.zarr", multiscales((unit,) * 3, scale))
    tifffile.imwrite(tmp_path / "labels.tif", VOLUME % 3, **calibration_of(source).options(np.dtype("u2"), 3))
    voxel, factor = open_source(tmp_path / "labels.tif").voxel, {"meter": 1e6, "nanometer": 1e-3}[unit]
    assert voxel.unit == "micrometer"
    assert (voxel.depth, voxel.width) == pytest.approx((3 * size * factor, size * factor))


def test_a_level_that_is_gone_is_named(tmp_path):
    with pytest.raises(Exception, match=r"has no data set full of slices. It has 0 \(3, 8, 10\)"):
        ome_zarr(tmp_path / "a.zarr", {"multiscales": [{"datasets": [{"path": "full"}, {"path": "0"}]}]})


def test_attributes_of_any_type_end_no_reading(tmp_path):
    latin = h5py.h5t.C_S1.copy()
    latin.set_size(2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        written = h5py.h5a.create(file.id, b"voxel_unit", latin, h5py.h5s.create(h5py.h5s.SCALAR))
        written.write(np.array(b"\xb5m"))
        file.attrs["format"], file.attrs["voxel_size"] = "hpcseg-dataset", (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.h5")), VOLUME)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["voxel_unit"] = np.array(["um", "nm"], dtype=h5py.string_dtype())
    source = open_source(tmp_path / "a.h5")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel is None


@pytest.mark.parametrize("format_", [None, "mine", [1, 2], np.void(b"x")])
def test_a_size_of_a_voxel_at_the_root_of_a_file_of_another_program_is_in_what_order_nobody_knows(tmp_path, format_):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        file.attrs["voxel_size"], file.attrs["voxel_unit"] = (0.5, 1.0, 2.0), "um"  # as x, y, z, say
        if format_ is not None:
            file.attrs["format"] = format_
    assert open_source(tmp_path / "a.h5").voxel is None


def test_a_format_of_a_type_that_numpy_has_not_is_none_of_ours(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        h5py.h5a.create(file.id, b"format", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))
        with pytest.raises(TypeError):
            file.attrs["format"]
    assert not is_packed_file(tmp_path / "a.h5")
    with pytest.raises(DatasetError, match=r"a.h5 was not written by hpcseg\. Make a data set with"):
        read_info(tmp_path / "a.h5")
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.h5")), VOLUME)


@pytest.mark.parametrize("kind", [np.bytes_, lambda text: np.array([text], dtype=h5py.string_dtype())])
def test_the_data_of_a_nexus_file_are_found_however_its_attributes_are_stored(tmp_path, kind):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/data/dark"], file["entry/data/data"] = VOLUME[::-1], VOLUME
        for name, attribute, value in (("/", "default", "entry"), ("entry", "default", "data")):
            file[name].attrs[attribute] = kind(value)
        file["entry/data"].attrs["signal"] = kind("data")
    source = open_source(tmp_path / "a.nxs")
    assert source.dataset == "entry/data/data"
    np.testing.assert_array_equal(read_all(source), VOLUME)


@pytest.mark.parametrize("unit", [0, 7])
def test_without_a_unit_that_nifti_has_sizes_are_proportions(tmp_path, unit):
    nibabel.save(nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), np.diag([3, 2, 1, 1])), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[123] = unit  # xyzt_units
    (tmp_path / "a.nii").write_bytes(content)
    source = open_source(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel == VoxelSize(1.0, 2.0, 3.0, "") and "1 x 2 x 3 without a unit" in source.voxel.text()


def test_what_says_where_the_voxels_of_nifti_lie_says_their_size(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), np.diag([3, 2, 1, 1]))
    image.header.set_xyzt_units("micron")
    image.header["pixdim"][1:4] = 1
    nibabel.save(image, tmp_path / "a.nii")
    assert open_source(tmp_path / "a.nii").voxel == VoxelSize(1.0, 2.0, 3.0, "micrometer")


def test_an_axis_of_an_ome_tiff_that_has_no_unit_is_in_micrometers(tmp_path):
    """By the default of its schema, whatever the others are in."""
    sizes = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 500.0, "PhysicalSizeX": 250.0}
    units = {"PhysicalSizeYUnit": "nm", "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, metadata={"axes": "ZYX", **sizes, **units})
    assert open_source(tmp_path / "a.ome.tif").voxel == VoxelSize(2000.0, 500.0, 250.0, "nm")


def test_each_image_of_an_ome_tiff_has_a_voxel_of_its_own(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for depth in (2.0, 0.5):
            sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (depth, 1.0, 1.0), strict=True)}
            tif.write(VOLUME, photometric="minisblack", metadata={"axes": "ZYX", "Name": f"of {depth}", **sizes})
    for name, depth in (("0", 2.0), ("1", 0.5), ("of 0.5", 0.5)):
        source = open_source(tmp_path / "a.ome.tif", Reading(dataset=name))
        assert source.voxel == VoxelSize(depth, 1.0, 1.0, "µm")
        assert calibration_of(source).voxel == source.voxel


def test_an_image_of_an_ome_tiff_without_planes_has_no_voxel_of_others(tmp_path):
    sizes = {f"PhysicalSize{axis}": 2.0 for axis in "ZYX"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    with tifffile.TiffFile(tmp_path / "a.ome.tif", mode="r+") as tif:
        text = tif.ome_metadata
        sizes = 'DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="8" SizeZ="1" SizeC="1" SizeT="1"'
        voxel = 'PhysicalSizeX="9" PhysicalSizeY="9" PhysicalSizeZ="9"'
        empty = f'<Image ID="Image:9" Name="preview"><Pixels ID="Pixels:9" {sizes} {voxel}></Pixels></Image>'
        tif.pages.first.tags["ImageDescription"].overwrite(text.replace("<Image ", f"{empty}<Image ", 1))
    for dataset in (None, "0"):
        assert open_source(tmp_path / "a.ome.tif", Reading(dataset=dataset)).voxel == VoxelSize(2.0, 2.0, 2.0, "µm")


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True)])
def test_pixels_that_are_turned_by_a_quarter_take_their_height_and_width_with_them(tmp_path, orientation, turned):
    tags = [(274, "H", 1, orientation, True)]
    (tmp_path / "in").mkdir()
    for index, pixels in enumerate(VOLUME):
        options = {"metadata": None, "resolution": (1000, 2000), "resolutionunit": 3, "extratags": tags}
        tifffile.imwrite(tmp_path / f"in/s{index}.tif", pixels, **options)
    for pixels in (None, "shown", "stored"):
        source = open_source(tmp_path / "in", Reading(pixels=pixels))
        there = turned and pixels != "stored"
        assert (source.voxel.height, source.voxel.width) == ((0.001, 0.0005) if there else (0.0005, 0.001))
        assert source.shapes[0] == (VOLUME.shape[:0:-1] if there else VOLUME.shape[1:])
        # And so have labels that are made of it.
        options = calibration_of_file(source, 0).options(np.dtype("u1"))
        tifffile.imwrite(tmp_path / "label.tif", np.zeros(source.shapes[0], np.uint8), **options)
        again = open_source(tmp_path / "label.tif").voxel
        assert (again.height, again.width) == (source.voxel.height, source.voxel.width)


def test_the_axes_of_an_mrc_file_say_which_size_is_whose(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(VOLUME)
        mrc.voxel_size = (1, 2, 3)
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 1, 3, 2
    assert open_source(tmp_path / "a.mrc").voxel == VoxelSize(2.0, 3.0, 1.0, "angstrom")


def test_images_and_labels_of_which_one_has_its_columns_along_another_axis_are_no_pairs(tmp_path):
    square = VOLUME[:, :, :8]
    for name, data, axes in (
        ("images", square, (1, 2, 3)),
        ("alike", square % 3, (1, 2, 3)),
        ("turned", square.transpose(0, 2, 1) % 3, (2, 1, 3)),
        ("silent", square % 3, (0, 0, 0)),
    ):
        with mrcfile.new(tmp_path / f"{name}.mrc") as mrc:
            mrc.set_data(np.ascontiguousarray(data))
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes
    images = tmp_path / "images.mrc"
    with pytest.raises(DatasetError, match="the axes of the images point to XYZ and those of the labels to YXZ"):
        find_pairs(images, tmp_path / "turned.mrc")
    for name in ("alike", "silent"):
        np.testing.assert_array_equal(read_all(find_pairs(images, tmp_path / f"{name}.mrc").labels), square % 3)
    stored = find_pairs(images, tmp_path / "turned.mrc", Reading(pixels="stored"))
    np.testing.assert_array_equal(read_all(stored.labels), square.transpose(0, 2, 1) % 3)
    # A format that does not say it in the same words is paired as it lies.
    image = nibabel.Nifti1Image((square % 3).transpose(2, 1, 0), np.eye(4))
    image.set_sform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "labels.nii")
    np.testing.assert_array_equal(read_all(find_pairs(images, tmp_path / "labels.nii").labels), square % 3)


def test_a_nifti_of_two_axes_has_the_size_of_a_pixel(tmp_path):
    image = nibabel.Nifti1Image(VOLUME[0].T, np.diag([0.25, 0.5, 1, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert open_source(tmp_path / "a.nii").voxel == VoxelSize(0.25, 0.5, 0.25, "micrometer")


def test_a_header_that_nibabel_warns_of_is_warned_of_once(tmp_path, caplog):
    nibabel.save(nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 80, -1.0)  # pixdim[1]
    (tmp_path / "a.nii").write_bytes(content)
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "a.nii")))
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert caplog.text.count("pixdim[1,2,3] should be positive") == 1


@pytest.mark.parametrize(("distance", "known"), [(2, True), (0, True), (2, False)])
def test_the_calibration_of_an_stk_is_read_and_is_in_the_labels(tmp_path, distance, known):
    """UIC1 has ratios and the unit behind it, UIC2 six numbers of each plane, of which two are the distance."""
    planes = [(distance, 1, 0, 0, 0, 0)] * len(VOLUME)
    tags = [
        (33628, 4, 8, (4, 0, 5, 0, 6, 0, 3, int(known))),
        (33629, 5, 3 * len(VOLUME), tuple(number for plane in planes for number in plane)),
    ]
    options = {"photometric": "minisblack", "metadata": None, "truncate": True, "extratags": tags}
    tifffile.imwrite(tmp_path / "a.stk", VOLUME, **options)
    content = bytearray((tmp_path / "a.stk").read_bytes())
    (header,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, header)
    for at in range(header + 2, header + 2 + 12 * count, 12):
        tag, _, _, place = struct.unpack_from("<HHII", content, at)
        if tag == 33628:
            struct.pack_into("<I", content, at + 4, 4)
            for index, value in enumerate((struct.pack("<II", 1, 4), struct.pack("<II", 1, 2), b"\x03\0\0\0um\0")):
                struct.pack_into("<I", content, place + 8 * index + 4, len(content))
                content += value
        if tag == 33629:
            struct.pack_into("<I", content, at + 4, len(VOLUME))
    (tmp_path / "a.stk").write_bytes(content)
    source = open_source(tmp_path / "a.stk")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel == (VoxelSize(distance or 0.25, 0.5, 0.25, "um") if known else None)
    assert (source.notes == ()) == (distance == 2)
    tifffile.imwrite(tmp_path / "labels.tif", VOLUME % 3, **calibration_of(source).options(np.dtype("u2"), 3))
    assert open_source(tmp_path / "labels.tif").voxel == source.voxel


def test_an_attribute_that_numpy_cannot_hold_is_passed_over(tmp_path):
    """A number of 128 bits, as some machines write a long double."""
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_size(16)
    kind.set_precision(128)
    kind.set_fields(127, 112, 15, 0, 112)
    kind.set_ebias(16383)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        for name in (b"exposure", b"element_size_um"):
            h5py.h5a.create(file["data"].id, name, kind, h5py.h5s.create(h5py.h5s.SCALAR))
        h5py.h5d.create(file.id, b"long", kind, h5py.h5s.create_simple((6, 4, 4)))
    source = open_source(tmp_path / "a.h5")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel is None
    target = open_target(tmp_path / "out", source, [Layer("labels", np.dtype("u1"), "")])
    (tmp_path / "out").mkdir()
    target.prepare()
    target.finish()
    assert not h5py.File(tmp_path / "out/labels.h5")["labels"].attrs.keys()


def nexus_axes(path, units=("um", "um", "um"), steps=(2.0, 0.5, 0.65), uneven=0.0, signal="data"):
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        group = file.create_group("entry")
        group.attrs["signal"], group.attrs["axes"] = signal, ["z", "y", "x"]
        group["data"] = VOLUME
        for name, length, unit, step in zip("zyx", VOLUME.shape, units, steps, strict=True):
            places = 7 + np.arange(length) * step
            places[-1] += uneven
            group[name] = places
            group[name].attrs["units"] = unit
    return path


@pytest.mark.parametrize(
    ("said", "voxel"),
    [
        ({}, VoxelSize(2.0, 0.5, 0.65, "um")),
        ({"units": ("mm", "um", "um"), "steps": (0.002, -0.5, 0.65)}, VoxelSize(2.0, 0.5, 0.65, "um")),
        ({"units": ("deg", "um", "um")}, VoxelSize(0.65, 0.5, 0.65, "um")),  # projections
        ({"units": ("", "um", "um")}, VoxelSize(0.65, 0.5, 0.65, "um")),  # numbers of slices
        ({"units": ("", "", "")}, None),
        ({"units": ("um", "um", "")}, None),
        ({"uneven": 1.0, "steps": (0.1, 0.5, 0.65)}, None),  # of all three
        ({"steps": (0.0, 0.5, 0.65)}, VoxelSize(0.65, 0.5, 0.65, "um")),
    ],
)
def test_the_axes_of_a_nexus_group_say_a_size_where_they_are_even_lengths(tmp_path, said, voxel):
    found = open_source(nexus_axes(tmp_path / "a.nxs", **said)).voxel
    assert (found is None) == (voxel is None)
    if voxel is not None:
        assert (found.depth, found.height, found.width) == pytest.approx((voxel.depth, voxel.height, voxel.width))
        assert found.unit == voxel.unit


def test_axes_are_of_the_signal_alone_and_never_the_end_of_the_work(tmp_path):
    path = nexus_axes(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        file["entry"].attrs["axes"] = [1, 2, 3]
    assert open_source(path).voxel is None
    path = nexus_axes(tmp_path / "a.nxs", signal="other")
    assert open_source(path, Reading(dataset="entry/data")).voxel is None
    with h5py.File(path, "a") as file:
        file["entry"].attrs["signal"] = "data"
        del file["entry/z"]
    assert open_source(path).voxel is None
    with h5py.File(path, "a") as file:  # which HDF5 would open
        file["entry"].create_dataset("z", (len(VOLUME),), "f8", external=[("/dev/zero", 0, 8 * len(VOLUME))])
        file["entry/z"].attrs["units"] = "um"
    assert open_source(path).voxel is None


@pytest.mark.parametrize("size", [(0.5, 0.5), (1, 2, 0.5, 0.5), (0, 1, 1)])
def test_a_size_that_is_not_of_three_is_passed_over_with_a_note(tmp_path, size):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME
        file["data"].attrs["element_size_um"] = size
    source = open_source(tmp_path / "a.h5")
    assert source.voxel is None
    assert source.notes == ("element_size_um of data is no depth, height and width of a voxel, and is passed over.",)


def test_attributes_of_grey_values_and_of_a_shape_are_not_those_of_labels(tmp_path):
    of_others = ["axistags", "drange", "scale_factor", "add_offset", "target", "DIMENSION_LABELS", "valid_range"]
    of_others += ["_FillValue", "CLASS", "IMAGE_SUBCLASS", "IMAGE_MINMAXRANGE", "element_size_um"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME[..., None]
        for name in (*of_others, "sample"):
            file["data"].attrs[name] = f"of {name}"
        kept = {"names": ["a", "ß"], "flag": True, "phase": 1 + 2j}
        file["data"].attrs.update({**kept, "log": "x" * 5000, "origin": file.ref})
    source = open_source(tmp_path / "a.h5")
    (tmp_path / "out").mkdir()
    target = open_target(tmp_path / "out", source, [Layer("labels", np.dtype("u1"), "")])
    target.prepare()
    target.finish()
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        found = dict(file["labels"].attrs)
        assert found.pop("names").tolist() == kept.pop("names")
        assert found == {"sample": "of sample", **kept}
    assert any(note.startswith("of data labels will not have log, origin: ") for note in source.notes)
