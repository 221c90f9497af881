"""A quick look at some slices of a volume, the sheet of a prediction, and what a viewer is given."""

from __future__ import annotations

import csv
import sys
from types import ModuleType

import h5py
import matplotlib.image
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg import sheet
from hpcseg.data.store import is_packed_file
from hpcseg.predict.request import read_request
from hpcseg.predict.view import open_scene
from hpcseg.runs.record import read_json
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import VoxelSize

FORMS = ["folder", "stack", "hdf5"]


@pytest.fixture(scope="module")
def slices(tiny_folder):
    """(9, 96, 80) uint16 of the sample."""
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 10)]
    return np.stack([tifffile.imread(file)[:96, :80] for file in files])


@pytest.fixture
def source(tmp_path, slices):
    """Makes a volume of `slices`, with voxels of 3 x 0.5 x 0.25 micrometres where the form can say it."""

    def make(form):
        path = tmp_path / {"folder": "in", "stack": "in.tif", "hdf5": "in.h5"}[form]
        if form == "folder":
            path.mkdir()
            for number, pixels in enumerate(slices, start=1):
                tifffile.imwrite(path / f"scan{number}.tif", pixels)
        elif form == "stack":
            metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "um", "Labels": [f"z{n}" for n in range(1, 10)]}
            tifffile.imwrite(path, slices, imagej=True, resolution=(4, 2), metadata=metadata)
        else:
            with h5py.File(path, "w") as file:
                file["volume"] = slices
                file["volume"].attrs["element_size_um"] = [3.0, 0.5, 0.25]
        return path

    return make


def labels(out, form):
    """(N, H, W) labels of a prediction, and their files' names or those in fractions.csv."""
    with (out / "fractions.csv").open() as file:
        names = [row["slice"] for row in csv.DictReader(file)][:-1]
    if form == "folder":
        assert sorted(path.name for path in (out / "labels").iterdir()) == sorted(names)
        return np.stack([tifffile.imread(out / "labels" / name) for name in names]), names
    if form == "stack":
        return tifffile.imread(out / "labels.tif"), names
    with h5py.File(out / "labels.h5") as file:
        return file["labels"][:], names


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("options", "chosen"),
    [(("--every", 3), [1, 4, 7]), (("--slices", "4-6"), [4, 5, 6]), (("--slices", "2-9", "--every", 4), [2, 6])],
)
def test_chosen_slices_get_the_labels_that_they_get_in_the_whole_volume(
    model_file, source, tmp_path, form, options, chosen
):
    volume = source(form)
    command = ("predict", model_file, volume, "--precision", "fp32", "-o")
    assert hpcseg(*command, tmp_path / "whole").exit_code == 0
    said = hpcseg(*command, tmp_path / "some", *options)
    assert said.exit_code == 0 and f"{len(chosen)} slices" in said.output, said.output
    whole, all_names = labels(tmp_path / "whole", form)
    some, names = labels(tmp_path / "some", form)
    np.testing.assert_array_equal(some, whole[[number - 1 for number in chosen]])
    assert names == [all_names[number - 1] for number in chosen]


def test_what_was_chosen_is_recorded_and_goes_on_and_nothing_else_goes_into_its_folder(model_file, source, tmp_path):
    command = ("predict", model_file, source("folder"), "-o", tmp_path / "out")
    some = ("--every", 2, "--slices", "1-6")
    assert hpcseg(*command, *some).exit_code == 0
    asked = read_json(tmp_path / "out" / "prediction.json")["asked"]
    assert (asked["every"], asked["slices"]) == (2, [1, 6])
    request = read_request(tmp_path / "out")
    assert (request.every, request.slices) == (2, (1, 6)), "as a part on a cluster reads it"

    (tmp_path / "out" / "labels" / "scan3.tif").unlink()
    said = hpcseg(*command, *some)
    assert said.exit_code == 0 and "2 of 3 slices are there already" in said.output
    assert "there already; nothing was written" in hpcseg(*command, *some).output
    for other, named in [((), "every (2, now null)"), (("--every", 3, "--slices", "1-6"), "every (2, now 3)")]:
        said = hpcseg(*command, *other)
        assert said.exit_code == 2 and f"asked otherwise: {named}" in said.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("4-12", "in has the slices 1 to 9"),
        ("0-3", "in has the slices 1 to 9"),
        ("6-4", "in has the slices 1 to 9"),
        ("first", 'is "first", but it must be FIRST-LAST'),
    ],
)
def test_slices_that_are_not_there_are_refused_before_anything_is_written(model_file, source, tmp_path, asked, said):
    answer = hpcseg("predict", model_file, source("folder"), "-o", tmp_path / "out", "--slices", asked)
    assert answer.exit_code == 2 and said in answer.output and not (tmp_path / "out").exists()


def test_a_stack_of_every_third_slice_says_that_they_are_three_times_as_far_apart(model_file, source, tmp_path):
    command = ("predict", model_file, source("stack"), "-o", tmp_path / "out", "--every", 3)
    assert hpcseg(*command).exit_code == 0
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        assert tif.imagej_metadata["spacing"] == 9.0 and tif.imagej_metadata["Labels"] == ["z1", "z4", "z7"]


def test_a_data_set_of_every_third_slice_says_that_they_are_three_times_as_far_apart(model_file, source, tmp_path):
    assert hpcseg("predict", model_file, source("hdf5"), "-o", tmp_path / "out", "--every", 3).exit_code == 0
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        assert file["labels"].attrs["element_size_um"].tolist() == [9.0, 0.5, 0.25]
    one = ("--slices", "4-5", "--every", 3)
    assert hpcseg("predict", model_file, source("hdf5"), "-o", tmp_path / "one", *one).exit_code == 0
    with h5py.File(tmp_path / "one" / "labels.h5") as file:
        assert file["labels"].attrs["element_size_um"].tolist() == [3.0, 0.5, 0.25], "one alone is as deep as it is"


def test_a_size_in_a_unit_that_nobody_knows_is_kept_in_hdf5(model_file, slices, tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif", slices[:3], imagej=True, resolution=(4, 2),
        metadata={"axes": "ZYX", "spacing": 3.0, "unit": "furlong"},
    )  # fmt: skip
    out = ("-o", tmp_path / "out", "--format", "hdf5")
    assert hpcseg("predict", model_file, tmp_path / "in.tif", *out).exit_code == 0
    assert open_source(tmp_path / "out" / "labels.h5").voxel == VoxelSize(3.0, 0.5, 0.25, "furlong")
    assert not is_packed_file(tmp_path / "out" / "labels.h5")


@pytest.mark.parametrize("form", FORMS)
def test_the_sheet_shows_slices_with_their_labels_and_uncertainty(
    model_file, source, slices, tmp_path, form, monkeypatch
):
    drawn, draw = [], sheet.draw
    monkeypatch.setattr(sheet, "draw", lambda *given: (drawn.append(given), draw(*given))[1])
    command = ("predict", model_file, source(form), "-o", tmp_path / "out", "--uncertainty", "--every", 4)
    said = hpcseg(*command)
    assert f"wrote {tmp_path / 'out' / 'sheet.png'}" in said.output
    assert matplotlib.image.imread(tmp_path / "out" / "sheet.png").std() > 0
    ((seen, classes, _),) = drawn
    written, names = labels(tmp_path / "out", form)
    assert [one.title for one in seen] == [f"slice {n}: {name}" for n, name in zip((1, 5, 9), names, strict=True)]
    unsure = np.stack([one.uncertainty for one in seen])
    assert 0 <= unsure.min() < unsure.max() <= 1
    for one, grey, label in zip(seen, slices[[0, 4, 8]], written, strict=True):
        np.testing.assert_array_equal(one.grey, grey)
        np.testing.assert_array_equal(np.array([0, 128, 255])[one.classes], label)
    assert [name.split(":")[0] for name in classes] == ["0", "128", "255"]


@pytest.mark.parametrize(
    ("form", "voxel"),
    [("folder", None), ("stack", VoxelSize(6, 0.5, 0.25, "um")), ("hdf5", VoxelSize(6, 0.5, 0.25, "micrometer"))],
)
def test_a_viewer_gets_the_slices_and_all_layers_in_the_scale_of_the_files(
    model_file, source, slices, tmp_path, form, voxel
):
    command = ("predict", model_file, source(form), "-o", tmp_path / "out", "--uncertainty", "--every", 2)
    assert hpcseg(*command).exit_code == 0
    scene = open_scene(tmp_path / "out")
    assert (scene.shape, scene.voxel) == ((5, 96, 80), voxel)
    assert [(layer.name, layer.are_labels) for layer in scene.layers] == [
        ("slices", False),
        ("labels", True),
        ("uncertainty", False),
    ]
    written, _ = labels(tmp_path / "out", form)
    for index in range(5):
        np.testing.assert_array_equal(scene.layers[0].read(index), slices[2 * index])
        np.testing.assert_array_equal(scene.layers[1].read(index), written[index])


def test_a_viewer_gets_the_labels_of_a_packed_file_with_their_own_values(tiny_dataset, tiny_folder):
    scene = open_scene(tiny_dataset)
    assert scene.shape == (16, 128, 128) and scene.voxel is None
    read = [layer.read(3) for layer in scene.layers]
    np.testing.assert_array_equal(read[0], tifffile.imread(tiny_folder / "data" / "sample0004.tiff"))
    np.testing.assert_array_equal(read[1], tifffile.imread(tiny_folder / "labels" / "sample0004.tif"))


class FakeViewer:
    """Stands for napari's, and keeps what it is given."""

    def __init__(self, **_):
        self.added = []
        FakeViewer.made = self

    def add_image(self, data, **options):
        self.added.append(("image", data, options))

    def add_labels(self, data, **options):
        self.added.append(("labels", data, options))


def test_the_command_shows_labels_over_slices_at_their_scale(model_file, source, tmp_path, monkeypatch):
    napari, dask, array = ModuleType("napari"), ModuleType("dask"), ModuleType("dask.array")
    napari.Viewer, napari.run, dask.array = FakeViewer, lambda: None, array
    array.map_blocks = lambda read, *, chunks, dtype, meta: (read, chunks)
    for name, module in (("napari", napari), ("dask", dask), ("dask.array", array)):
        monkeypatch.setitem(sys.modules, name, module)
    assert hpcseg("predict", model_file, source("stack"), "-o", tmp_path / "out").exit_code == 0
    said = hpcseg("view", tmp_path / "out")
    assert said.exit_code == 0 and "Voxels of 3 x 0.5 x 0.25 um" in said.output, said.output
    kinds = [(kind, options["name"], options["scale"]) for kind, _, options in FakeViewer.made.added]
    assert kinds == [(kind, name, pytest.approx((3, 0.5, 0.25))) for kind, name in
                     (("image", "slices"), ("labels", "labels"))]  # fmt: skip
    read, chunks = FakeViewer.made.added[1][1]
    assert chunks == ((1,) * 9, (96,), (80,))
    block = read(block_info={None: {"array-location": [(4, 5), (0, 96), (0, 80)]}})
    np.testing.assert_array_equal(block[0], tifffile.imread(tmp_path / "out" / "labels.tif")[4])


def test_a_missing_viewer_is_named_with_what_installs_it(tiny_dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    said = hpcseg("view", tiny_dataset)
    assert said.exit_code == 2 and "pip install 'hpcseg[napari]'" in said.output


def test_what_cannot_be_looked_at_is_said(model_file, source, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no folder of a prediction" in hpcseg("view", tmp_path / "empty").output
    assert "no packed data set" in hpcseg("view", tmp_path / "none.h5").output
    volume = source("folder")
    assert hpcseg("predict", model_file, volume, "-o", tmp_path / "out").exit_code == 0
    (volume / "scan9.tif").unlink()
    said = hpcseg("view", tmp_path / "out")
    assert said.exit_code == 2 and "gone: scan9.tif" in said.output
