"""Labels as OME-Zarr, or as HDF5, of any input: by several processes, and with the size of its voxels."""

from __future__ import annotations

import json
import shutil
import sys

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.predict.request import begin, part_of, read_request
from hpcseg.predict.view import open_scene
from hpcseg.predict.work import finish, work
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import VoxelSize


@pytest.fixture(scope="module")
def slices(tiny_folder):
    """(4, 48, 56) uint16 of the sample."""
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 5)]
    return np.stack([tifffile.imread(file)[:48, :56] for file in files])


@pytest.fixture
def source(tmp_path, slices):
    """Makes a volume with voxels of 3 x 0.5 x 0.25 micrometres in one of the forms."""

    def make(form):
        path = tmp_path / {"folder": "in", "stack": "in.tif", "hdf5": "in.h5", "zarr": "in.zarr"}[form]
        metadata = {"spacing": 3.0, "unit": "um"}
        if form == "folder":
            path.mkdir()
            for number, pixels in enumerate(slices):
                tifffile.imwrite(path / f"s{number}.tif", pixels, imagej=True, resolution=(4, 2), metadata=metadata)
        elif form == "stack":
            tifffile.imwrite(path, slices, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", **metadata})
        elif form == "hdf5":
            with h5py.File(path, "w") as file:
                file["volume"] = slices
                file["volume"].attrs["element_size_um"] = [3.0, 0.5, 0.25]
        else:
            group = zarr.create_group(path)
            group.create_array("s0", data=slices, chunks=(3, 20, 56))
            scale = [{"type": "scale", "scale": [3.0, 0.5, 0.25]}]
            axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
            levels = [{"path": "s0", "coordinateTransformations": scale}]
            group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
        return path

    return make


def predict(*arguments):
    answer = hpcseg("predict", *arguments, "--precision", "fp32")
    assert answer.exit_code == 0, answer.output
    return answer


@pytest.fixture(scope="module")
def expected(model_file, slices, tmp_path_factory):
    """The labels that belong to `slices`, from a stack."""
    folder = tmp_path_factory.mktemp("expected")
    tifffile.imwrite(folder / "in.tif", slices, photometric="minisblack")
    predict(model_file, folder / "in.tif", "-o", folder / "out")
    return tifffile.imread(folder / "out" / "labels.tif")


@pytest.mark.parametrize("form", ["folder", "stack", "hdf5", "zarr"])
def test_any_input_gives_an_ome_zarr_with_its_voxels(model_file, source, expected, tmp_path, form):
    options = () if form == "zarr" else ("--format", "zarr")
    predict(model_file, source(form), "-o", tmp_path / "out", "--uncertainty", "--float16", *options)
    group = zarr.open_group(tmp_path / "out" / "labels.zarr", mode="r")
    ome = group.attrs["ome"]
    assert group.metadata.zarr_format == 3 and ome["version"] == "0.5" and "image-label" in ome
    assert [(axis["name"], axis["type"], axis["unit"]) for axis in ome["multiscales"][0]["axes"]] == [
        (name, "space", "micrometer") for name in "zyx"
    ]
    (level,) = ome["multiscales"][0]["datasets"]
    assert level == {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [3.0, 0.5, 0.25]}]}
    array = group["0"]
    assert (array.dtype, array.chunks, array.metadata.dimension_names) == (np.uint8, (1, 48, 56), ("z", "y", "x"))
    np.testing.assert_array_equal(array[:], expected)
    unsure = open_source(tmp_path / "out" / "uncertainty.zarr")
    assert (unsure.dtype, unsure.voxel) == (np.float16, VoxelSize(3.0, 0.5, 0.25, "micrometer"))
    scene = open_scene(tmp_path / "out")
    np.testing.assert_array_equal(scene.layers[1].read(2), expected[2])
    assert (tmp_path / "out" / "sheet.png").exists() and not list((tmp_path / "out").rglob(".*"))


@pytest.mark.parametrize("options", [("--format", "zarr"), ("--format", "hdf5"), ()])
def test_a_slice_that_is_missing_is_told_where_no_name_says_it(model_file, source, tmp_path, options):
    (source("folder") / "s2.tif").unlink()
    said = " ".join(predict(model_file, tmp_path / "in", "-o", tmp_path / "out", *options).stderr.split())
    assert ("unevenly apart by their numbers, such as 1 and 3" in said) == bool(options)


@pytest.mark.parametrize(("form", "written"), [("zarr", "labels.zarr"), ("hdf5", "labels.h5")])
def test_a_depth_that_nobody_said_is_not_said_by_the_labels_either(model_file, slices, tmp_path, form, written):
    (tmp_path / "in").mkdir()
    for number, pixels in enumerate(slices):
        tifffile.imwrite(tmp_path / "in" / f"s{number}.tif", pixels, resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    predict(model_file, tmp_path / "in", "-o", tmp_path / "out", "--format", form)
    voxel = open_source(tmp_path / "out" / written).voxel
    assert voxel.width == voxel.depth and not voxel.depth_said


def test_every_second_slice_is_twice_as_far_from_the_next(model_file, source, expected, tmp_path):
    predict(model_file, source("zarr"), "-o", tmp_path / "out", "--every", 2)
    labels = open_source(tmp_path / "out" / "labels.zarr")
    assert labels.voxel == VoxelSize(6.0, 0.5, 0.25, "micrometer") and len(labels) == 2
    np.testing.assert_array_equal(labels.read(1), expected[2])


def test_some_slices_lie_where_they_are_in_the_volume(model_file, source, tmp_path):
    volume = source("zarr")
    predict(model_file, volume, "-o", tmp_path / "out", "--slices", "2-3")
    (level,) = zarr.open_group(tmp_path / "out" / "labels.zarr", mode="r").attrs["ome"]["multiscales"][0]["datasets"]
    scale, translation = level["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [3.0, 0.5, 0.25]}
    first = open_source(volume).numbers[0]
    assert translation == {"type": "translation", "translation": [3.0 * (2 - first), 0.0, 0.0]}
    assert open_source(tmp_path / "out" / "labels.zarr").voxel == VoxelSize(3.0, 0.5, 0.25, "micrometer")


def test_labels_lie_where_their_image_does_in_its_space(model_file, source, tmp_path):
    volume = source("zarr")
    group = zarr.open_group(volume, mode="a")
    described = json.loads(json.dumps(group.attrs["ome"] if "ome" in group.attrs else dict(group.attrs)))
    (image,) = described["multiscales"]
    image["datasets"][0]["coordinateTransformations"].append({"type": "translation", "translation": [12.0, 6.5, 3.25]})
    group.attrs.update({"ome": described} if "ome" in group.attrs else described)
    places = []
    for out, options in (("whole", ()), ("some", ("--slices", "2-3"))):
        predict(model_file, volume, "-o", tmp_path / out, *options)
        labels = zarr.open_group(tmp_path / out / "labels.zarr", mode="r").attrs["ome"]["multiscales"][0]
        places.append(labels["datasets"][0]["coordinateTransformations"][1]["translation"])
    assert places == [pytest.approx([12.0, 6.5, 3.25]), pytest.approx([15.0, 6.5, 3.25])]
    assert open_source(tmp_path / "whole" / "labels.zarr").begins == pytest.approx(open_source(volume).begins)


def test_sizes_without_a_unit_are_proportions_that_labels_have_as_well(model_file, source, tmp_path):
    volume = source("zarr")
    group = zarr.open_group(volume, mode="a")
    described = json.loads(json.dumps(group.attrs["ome"]))
    (image,) = described["multiscales"]
    image["axes"] = [{"name": name, "type": "space"} for name in "zyx"]
    steps = image["datasets"][0]["coordinateTransformations"]
    steps.append({"type": "translation", "translation": [12.0, 6.5, 3.25]})
    group.attrs.update({"ome": described})
    for form in ("zarr", "hdf5", "tiff"):
        predict(model_file, volume, "-o", tmp_path / form, "--format", form)
    labels = zarr.open_group(tmp_path / "zarr" / "labels.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert labels["axes"] == image["axes"] and labels["datasets"][0]["coordinateTransformations"] == steps
    voxels = [open_source(tmp_path / place).voxel for place in ("zarr/labels.zarr", "hdf5/labels.h5")]
    assert voxels == [VoxelSize(3.0, 0.5, 0.25, "")] * 2


def test_a_slice_of_nothing_but_zeros_is_there(model_file, tmp_path):
    """zarr leaves out such chunks, and what is not there would be segmented anew."""
    tifffile.imwrite(tmp_path / "in.tif", np.full((2, 16, 16), np.nan, np.float32), photometric="minisblack")
    command = (model_file, tmp_path / "in.tif", "-o", tmp_path / "out", "--format", "zarr", "--range", 0, 1)
    predict(*command)
    assert not open_source(tmp_path / "out" / "labels.zarr").notes
    assert "there already; nothing was written" in predict(*command).output


def test_parts_fill_one_store_and_a_deleted_slice_is_made_again(model_file, source, expected, tmp_path):
    volume = source("hdf5")
    hpcseg("predict", model_file, volume, "-o", tmp_path / "out", "--format", "zarr", "--precision", "fp32")
    shutil.copytree(tmp_path / "out" / "labels.zarr", tmp_path / "whole.zarr")
    for name in ("labels.zarr", "slices.jsonl"):
        path = tmp_path / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for part in (1, 0):
        prediction = begin(read_request(tmp_path / "out"))
        own = part_of(prediction.missing(), 4, part, 2)
        assert len(own) == 2 and work(prediction, own, part=part)
        assert not (tmp_path / "out" / "labels.zarr").exists(), "it has its name when all slices are there"
    finish(begin(read_request(tmp_path / "out")))
    (tmp_path / "out" / "labels.zarr" / "0" / "c" / "3" / "0" / "0").unlink()
    said = predict(model_file, volume, "-o", tmp_path / "out", "--format", "zarr")
    assert "3 of 4 slices are there already" in said.output
    files = [path.relative_to(tmp_path / "whole.zarr") for path in (tmp_path / "whole.zarr").rglob("*")]
    assert len(files) == 3 + 1 + 3 * 4
    for file in files:
        if (tmp_path / "whole.zarr" / file).is_file():
            there = tmp_path / "out" / "labels.zarr" / file
            assert there.read_bytes() == (tmp_path / "whole.zarr" / file).read_bytes(), file


@pytest.mark.parametrize("form", ["folder", "stack", "zarr"])
def test_any_input_gives_an_hdf5_file_with_its_voxels(model_file, source, expected, tmp_path, form):
    predict(model_file, source(form), "-o", tmp_path / "out", "--format", "hdf5")
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        np.testing.assert_array_equal(file["labels"][:], expected)
        assert file["labels"].attrs["element_size_um"].tolist() == [3.0, 0.5, 0.25]


@pytest.mark.parametrize(("options", "name"), [((), "labels.h5"), (("--format", "zarr"), "labels.zarr")])
def test_the_voxels_of_a_packed_file_keep_their_size(model_file, source, slices, tmp_path, options, name):
    (tmp_path / "labels").mkdir()
    for number in range(4):
        tifffile.imwrite(tmp_path / "labels" / f"l{number + 1}.tif", (slices[number] > 30000).astype("u1"))
    packed = hpcseg("pack", "--images", source("stack"), "--labels", tmp_path / "labels", "-o", tmp_path / "packed.h5")
    assert packed.exit_code == 0, packed.output
    predict(model_file, tmp_path / "packed.h5", "-o", tmp_path / "out", *options)
    assert open_source(tmp_path / "out" / name).voxel == VoxelSize(3.0, 0.5, 0.25, "micrometer")


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_slices_of_several_sizes_are_no_volume(model_file, slices, tmp_path, format_):
    (tmp_path / "in").mkdir()
    for number, pixels in enumerate(slices):
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", pixels[: 40 + number])
    said = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out", "--format", format_)
    assert said.exit_code == 2 and "such as 40 x 56 and 43 x 56 pixels" in said.output and "--format" in said.output
    assert not (tmp_path / "out").exists()


def test_zarr_is_named_where_it_is_missing(model_file, source, tmp_path, monkeypatch):
    volume = source("stack")
    monkeypatch.setitem(sys.modules, "zarr", None)
    said = hpcseg("predict", model_file, volume, "-o", tmp_path / "out", "--format", "zarr")
    assert said.exit_code == 2 and "pip install 'hpcseg[zarr]'" in said.output and not (tmp_path / "out").exists()
