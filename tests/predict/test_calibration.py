"""The size of a voxel is in labels of every type that ImageJ opens; for others it is said that it is not."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.predict.model_file import Model, export
from hpcseg.segment.network import Network, Wishes

KEPT = {"unit": "nm", "spacing": 18.2, "Info": "holder 7\n", "Properties": {"sample": "SOC"}}
DISPLAY = {"min": 17000.0, "max": 46000.0}
OTHERS = "ImageJ opens no TIFFs of this type"


@pytest.fixture(scope="module")
def slices(tiny_folder):
    """(3, 40, 48) uint16 of the sample."""
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 4)]
    return np.stack([tifffile.imread(file)[:40, :48] for file in files])


@pytest.fixture(scope="module")
def expected(slices, model):
    """The labels 1, 2 and 100 that belong to `slices`, slice by slice and without files."""
    import torch

    network = Network([model.trained()], Wishes(), torch.device("cpu"))
    classes = [network.answer((image / np.float32(65535)).astype(np.float32), None).classes for image in slices]
    return np.array([1, 2, 100])[np.stack(classes)]


@pytest.fixture
def labelling(model, tmp_path):
    """Makes a model file whose labels are of a type."""

    def make(dtype):
        card = dataclasses.replace(model.card, class_values=(1, 2, 100), label_dtype=dtype)
        export(Model("relabelled", card, model.network), tmp_path / "m.safetensors")
        return tmp_path / "m.safetensors"

    return make


def write(path, slices, form):
    if form == "stack":
        metadata = {**KEPT, **DISPLAY, "axes": "ZYX", "Labels": ["a", "b", "c"]}
        tifffile.imwrite(path, slices, imagej=True, resolution=(4, 2), metadata=metadata)
        return
    path.mkdir()
    for number, pixels in enumerate(slices):
        tifffile.imwrite(path / f"{number}.tif", pixels, imagej=True, resolution=(4, 2), metadata={**KEPT, **DISPLAY})


def found(file):
    """What ImageJ reads: the unit, the distance of slices, pixels per unit, and its own description and tags."""
    with tifffile.TiffFile(file) as tif:
        x, y = (tif.pages.first.tags[name].value for name in ("XResolution", "YResolution"))
        return tif.imagej_metadata or {}, (x[0] / x[1], y[0] / y[1]), tif.asarray()


@pytest.mark.parametrize("form", ["stack", "folder"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_labels_of_a_type_that_imagej_opens_keep_the_calibration_and_not_the_display(
    labelling, slices, expected, tmp_path, dtype, form
):
    write(tmp_path / "in.tif", slices, form)
    answer = hpcseg("predict", labelling(dtype), tmp_path / "in.tif", "-o", tmp_path / "out", "--precision", "fp32")
    assert answer.exit_code == 0 and OTHERS not in answer.output
    metadata, resolution, labels = found(tmp_path / "out" / ("labels.tif" if form == "stack" else "labels/1.tif"))
    np.testing.assert_array_equal(labels, expected if form == "stack" else expected[1])
    assert labels.dtype == dtype and resolution == (4, 2)
    assert {name: metadata.get(name) for name in KEPT} == KEPT and not DISPLAY.keys() & metadata.keys()
    assert metadata["images"] == (3 if form == "stack" else 1)
    if form == "stack":
        assert metadata["slices"] == 3 and metadata["Labels"] == ["a", "b", "c"]
        with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
            first = tif.pages.first
            assert first.description.startswith("ImageJ=") and first.is_contiguous
            assert [page.dataoffsets[0] - first.dataoffsets[0] for page in tif.pages] == [
                index * labels[0].nbytes for index in range(3)
            ], "ImageJ reads its stacks as one run of pixels"


@pytest.mark.parametrize("form", ["stack", "folder"])
def test_of_every_second_slice_the_distance_is_twice_as_large(labelling, slices, tmp_path, form):
    write(tmp_path / "in.tif", slices, form)
    answer = hpcseg("predict", labelling("uint8"), tmp_path / "in.tif", "-o", tmp_path / "out", "--every", 2)
    assert answer.exit_code == 0, answer.output
    metadata, resolution, _ = found(tmp_path / "out" / ("labels.tif" if form == "stack" else "labels/2.tif"))
    assert metadata["spacing"] == 2 * KEPT["spacing"] and resolution == (4, 2)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_of_labels_that_imagej_does_not_open_it_is_said(labelling, slices, expected, tmp_path, dtype):
    write(tmp_path / "in.tif", slices, "stack")
    model = labelling(dtype)
    answer = hpcseg("predict", model, tmp_path / "in.tif", "-o", tmp_path / "out", "--precision", "fp32")
    assert answer.exit_code == 0
    said = " ".join(answer.stderr.split())
    assert OTHERS in said and f"are not in labels ({dtype})" in said
    labels = found(tmp_path / "out" / "labels.tif")[2]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == dtype
    for number, path in enumerate([tmp_path / "plain.tif", tmp_path / "in.tif"]):
        # What has no unit loses none, and other formats have a place for it.
        tifffile.imwrite(tmp_path / "plain.tif", slices, photometric="minisblack", metadata=None)
        options = ("--format", "hdf5") if number else ()
        answer = hpcseg("predict", model, path, "-o", tmp_path / f"none{number}", *options)
        assert answer.exit_code == 0 and OTHERS not in answer.output


def test_of_layers_of_half_floats_it_is_said(model_file, slices, tmp_path):
    write(tmp_path / "in", slices, "folder")
    answer = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out", "--uncertainty", "--float16")
    assert answer.exit_code == 0 and "are not in uncertainty (float16)." in " ".join(answer.stderr.split())
    assert found(tmp_path / "out" / "labels" / "1.tif")[0]["unit"] == "nm"


@pytest.mark.parametrize("form", ["stack", "folder"])
def test_what_ome_says_of_the_voxels_is_in_the_labels(model_file, slices, tmp_path, form):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (3.0, 0.5, 0.25), strict=True)}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
    if form == "stack":
        tifffile.imwrite(tmp_path / "in.ome.tif", slices, metadata={"axes": "ZYX", **sizes, **units})
    else:
        (tmp_path / "in.ome.tif").mkdir()
        for number, pixels in enumerate(slices):
            options = {"ome": True, "metadata": {"axes": "YX", **sizes, **units}}
            tifffile.imwrite(tmp_path / "in.ome.tif" / f"{number}.tif", pixels, **options)
    assert hpcseg("predict", model_file, tmp_path / "in.ome.tif", "-o", tmp_path / "out").exit_code == 0
    metadata, resolution, _ = found(tmp_path / "out" / ("labels.tif" if form == "stack" else "labels/1.tif"))
    assert (metadata["unit"], resolution) == ("nm", (4, 2))
    assert form == "folder" or metadata["spacing"] == 3.0


def test_a_resolution_that_is_a_floating_point_number_is_kept(model_file, slices, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", slices[0], photometric="minisblack", metadata=None)
    content = bytearray((tmp_path / "in.tif").read_bytes())
    for tag in (282, 283):  # written by hand, since tifffile writes ratios only
        at = content.index(struct.pack("<HHI", tag, 5, 1))
        content[at : at + 12] = struct.pack("<HHIf", tag, 11, 1, 30.5)
    (tmp_path / "in.tif").write_bytes(content)
    assert hpcseg("predict", model_file, tmp_path / "in.tif", "-o", tmp_path / "out").exit_code == 0
    assert found(tmp_path / "out" / "labels.tif")[1] == (30.5, 30.5)


def test_a_resolution_in_a_unit_that_is_not_of_the_standard_is_in_the_labels(model_file, slices, tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif", slices, photometric="minisblack", metadata=None, resolution=(4, 2), resolutionunit=5
    )
    assert hpcseg("predict", model_file, tmp_path / "in.tif", "-o", tmp_path / "out").exit_code == 0
    metadata, resolution, _ = found(tmp_path / "out" / "labels.tif")
    assert (metadata["unit"], resolution) == ("micrometer", (4, 2))
