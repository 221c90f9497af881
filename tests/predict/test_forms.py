"""Folders, stacks and HDF5 files go in, and come out in the same form: names, tags, types, sizes."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import threading

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.data.pairs import find_pairs
from hpcseg.predict import layers
from hpcseg.predict.model_file import open_file
from hpcseg.predict.target import Layer
from hpcseg.predict.volume import open_volume
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import why_foreign
from hpcseg.segment.network import Network, Wishes
from hpcseg.slices import array


@pytest.fixture(scope="module")
def slices(tiny_folder):
    """(5, 67, 90) uint16 of the sample."""
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 6)]
    return np.stack([tifffile.imread(file)[:67, :90] for file in files])


@pytest.fixture(scope="module")
def expected(slices, model):
    """The labels that belong to `slices`, slice by slice and without files."""
    import torch

    network = Network([model.trained()], Wishes(), torch.device("cpu"))
    classes = [network.answer((image / np.float32(65535)).astype(np.float32), None).classes for image in slices]
    return np.array([0, 128, 255], dtype=np.uint8)[np.stack(classes)]


def predict(model_file, source, out, *options):
    answer = hpcseg("predict", model_file, source, "-o", out, "--precision", "fp32", *options)
    assert answer.exit_code == 0, answer.output
    return answer


def test_a_folder_keeps_names_sizes_and_resolution(model_file, slices, expected, tmp_path):
    """Of slices of different sizes, whose names have no common form."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = ["10.tif", "2.TIFF", "scan_a.tif", "scan b, 3rd.tiff", "[red].tif"]
    shapes = [(67, 90), (1, 90), (50, 33), (17, 17), (64, 64)]
    for name, pixels, (height, width) in zip(names, slices, shapes, strict=True):
        options = {"resolution": ((20000, 3), (20000, 3)), "resolutionunit": 3}
        tifffile.imwrite(source / name, pixels[:height, :width], compression="lzw", metadata=None, **options)
    tifffile.imwrite(source / "scan_a.tif", slices[2][:50, :33], metadata=None)
    answer = predict(model_file, source, out)
    assert sorted(path.name for path in (out / "labels").iterdir()) == sorted(names)
    for name, shape in zip(names, shapes, strict=True):
        with tifffile.TiffFile(out / "labels" / name) as tif:
            page = tif.pages.first
            assert (page.shape, page.dtype, len(tif.pages), tif.is_imagej) == (shape, np.uint8, 1, False)
            if name != "scan_a.tif":
                assert page.tags["XResolution"].value == page.tags["YResolution"].value == (20000, 3)
                assert page.tags["ResolutionUnit"].value == 3
    np.testing.assert_array_equal(tifffile.imread(out / "labels" / "10.tif"), expected[0])
    record = json.loads((out / "prediction.json").read_text())
    assert record["input"]["names"] == ["2.TIFF", "10.tif", "[red].tif", "scan b, 3rd.tiff", "scan_a.tif"]
    assert "wrote" in answer.output and "slices/s" in answer.output


def test_a_packed_data_set_is_predicted_as_its_folder(model_file, tiny_dataset, tiny_folder, tmp_path):
    predict(model_file, tiny_folder / "data", tmp_path / "folder")
    predict(model_file, tiny_dataset, tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "labels.h5") as file:
        labels = file["labels"][:]
    assert (labels.shape, labels.dtype) == ((16, 128, 128), np.uint8)
    names = json.loads((tmp_path / "packed" / "prediction.json").read_text())["input"]["names"]
    for name, label in zip(names, labels, strict=True):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "folder" / "labels" / name), label)
    assert (tmp_path / "folder" / "fractions.csv").read_text() == (tmp_path / "packed" / "fractions.csv").read_text()


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_stack_gives_a_stack(model_file, slices, expected, tmp_path, bigtiff, byteorder):
    source = tmp_path / "scan.tif"
    tifffile.imwrite(source, slices, bigtiff=bigtiff, byteorder=byteorder, photometric="minisblack", compression="zlib")
    predict(model_file, source, tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        assert (len(tif.pages), tif.is_bigtiff) == (5, False)
        np.testing.assert_array_equal(tif.asarray(), expected)
        for page, label in zip(tif.pages, expected, strict=True):
            np.testing.assert_array_equal(page.asarray(), label)
    table = (tmp_path / "out" / "fractions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == [
        "slice",
        *(f"scan.tif#{number}" for number in range(1, 6)),
        "volume",
    ]


def test_large_labels_become_a_bigtiff(model_file, slices, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "_LARGEST_CLASSIC_TIFF", 20_000)
    tifffile.imwrite(
        tmp_path / "scan.tif", slices, imagej=True, resolution=(2, 2), metadata={"unit": "um", "axes": "ZYX"}
    )
    predict(model_file, tmp_path / "scan.tif", tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        assert tif.is_bigtiff and len(tif.pages) == 5 and tif.imagej_metadata["unit"] == "um"
        np.testing.assert_array_equal(tif.asarray(), expected)


def test_a_stack_in_time_stays_one(model_file, slices, tmp_path):
    metadata = {"axes": "TYX", "finterval": 2.5, "Properties": {"sample": "SOC"}}
    tifffile.imwrite(tmp_path / "time.tif", slices, imagej=True, metadata=metadata)
    assert hpcseg("predict", model_file, tmp_path / "time.tif", "-o", tmp_path / "out").exit_code == 0
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        found = tif.imagej_metadata
    assert found["frames"] == len(slices) and "slices" not in found
    assert found["finterval"] == 2.5 and found["Properties"] == {"sample": "SOC"}


def test_imagejs_large_stacks_with_one_header_are_read(model_file, slices, expected, tmp_path):
    """Above 4 GB ImageJ writes the header of the first page only; the other pixels follow."""
    tifffile.imwrite(tmp_path / "large.tif", slices, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    with tifffile.TiffFile(tmp_path / "large.tif") as tif:
        assert len(tif.pages) == 1
    predict(model_file, tmp_path / "large.tif", tmp_path / "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "labels.tif"), expected)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (5, {}),
        (5, {"truncate": True}),
        (2, {"metadata": {"spacing": 0.5}}),
        (1, {"metadata": {"spacing": 0.5}}),
        (None, {"metadata": {"spacing": 0.5}}),
    ],
    ids=["stack", "one header", "two slices", "stack of one slice", "one slice"],
)
def test_what_python_writes_for_imagej_without_naming_axes_is_a_volume(
    model_file, slices, expected, tmp_path, count, options
):
    """tifffile then calls the slices channels, and leaves out axes of length 1."""
    part = slice(count) if count else 0
    tifffile.imwrite(tmp_path / "scan.tif", slices[part], imagej=True, resolution=(4, 4), **options)
    predict(model_file, tmp_path / "scan.tif", tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), expected[part] if count != 1 else expected[0])
        found = tif.imagej_metadata
        assert found["images"] == (count or 1) and "channels" not in found
        # ImageJ leaves out a spacing of 1.
        assert found.get("spacing", 1) == options.get("metadata", {}).get("spacing", 1)
        assert tif.pages.first.tags["XResolution"].value == (4, 1)


def test_labels_of_a_volume_that_was_turned_are_its_labels(model_file, slices, tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["volume"] = slices.transpose(2, 1, 0)
        for dimension, name in zip(file["volume"].dims, "xyz", strict=True):
            dimension.label = name
    predict(model_file, tmp_path / "scan.h5", tmp_path / "out")
    pairs = find_pairs(tmp_path / "scan.h5", tmp_path / "out" / "labels.h5")
    assert pairs.labels.axes == "z, y, x"
    np.testing.assert_array_equal(pairs.read(0)[0], slices[0])


def test_an_hdf5_file_gives_an_hdf5_file(model_file, slices, expected, tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["entry/data/volume"] = slices
        file["entry/data/places"] = slices[0, :, :3]
        attributes = file["entry/data/volume"].attrs
        attributes["element_size_um"] = [0.02, 0.01, 0.01]
        # In Latin-1, as older writers have it.
        attributes.create("spacing_unit", np.array(b"\xb5m", dtype=object), dtype=h5py.string_dtype())
    predict(model_file, tmp_path / "scan.h5", tmp_path / "out")
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        assert (file["labels"].shape, file["labels"].dtype) == (slices.shape, np.uint8)
        np.testing.assert_array_equal(file["labels"][:], expected)
        assert file["labels"].attrs["element_size_um"].tolist() == [0.02, 0.01, 0.01]
        assert file["labels"].attrs["spacing_unit"] == "µm"
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["other"] = slices[:2].astype(">u2")
    answer = hpcseg("predict", model_file, tmp_path / "scan.h5", "-o", tmp_path / "none")
    assert answer.exit_code == 2 and "other (2, 67, 90)" in answer.output and "scan.h5::NAME" in answer.output
    predict(model_file, tmp_path / "scan.h5", tmp_path / "other", "--dataset", "/other")
    with h5py.File(tmp_path / "other" / "labels.h5") as file:
        np.testing.assert_array_equal(file["labels"][:], expected[:2])


def as_mrc(path, slices):
    with mrcfile.new(path) as file:
        file.set_data(slices)
        file.set_volume()
        file.voxel_size = (0.25, 0.5, 2.0)


def as_zarr(path, slices):
    group = zarr.create_group(path)
    group.create_array("0", data=slices)
    scale = [{"type": "scale", "scale": [2.0, 0.5, 0.25]}]
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": levels}]}


@pytest.mark.parametrize(
    ("name", "write", "options"), [("scan.mrc", as_mrc, ()), ("scan.zarr", as_zarr, ("--format", "tiff"))]
)
def test_a_volume_of_another_format_gives_a_stack_with_its_voxels(
    model_file, slices, expected, tmp_path, name, write, options
):
    write(tmp_path / name, slices)
    predict(model_file, tmp_path / name, tmp_path / "out", *options)
    with tifffile.TiffFile(tmp_path / "out" / "labels.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), expected)
        assert (tif.imagej_metadata["unit"], tif.imagej_metadata["spacing"]) == ("angstrom", 2.0)
        x, y = (tif.pages.first.tags[tag].value for tag in ("XResolution", "YResolution"))
        assert (x[0] / x[1], y[0] / y[1]) == (4, 2), "pixels per unit"


@pytest.mark.parametrize("kept", [10**9, 67 * 90 * 2 * 2, 1])
def test_chunks_of_many_slices_are_read_as_they_lie(slices, tmp_path, monkeypatch, kept):
    monkeypatch.setattr(array, "_MOST_BYTES_KEPT", kept)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("a", data=slices, chunks=(3, 32, 32), compression="gzip")
    volume = open_volume(tmp_path / "scan.h5")
    for index in (0, 4, 2, 3, 1):
        np.testing.assert_array_equal(volume.read(index), slices[index])


def test_other_layers_have_the_form_of_the_input(model_files, slices, expected, tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", slices, photometric="minisblack")
    (tmp_path / "folder").mkdir()
    for number, pixels in enumerate(slices):
        tifffile.imwrite(tmp_path / "folder" / f"{number}.tif", pixels)
    options = ("--probabilities", "--uncertainty", "--spread", "--ensemble", model_files[1])
    predict(model_files[0], tmp_path / "scan.tif", tmp_path / "stack", *options)
    predict(model_files[0], tmp_path / "folder", tmp_path / "files", *options, "--float16")
    names = ["probability-0", "probability-128", "probability-255", "uncertainty", "spread", "labels"]
    for name in names:
        stack = tifffile.imread(tmp_path / "stack" / f"{name}.tif")
        files = np.stack([tifffile.imread(tmp_path / "files" / name / f"{number}.tif") for number in range(5)])
        if name == "labels":
            np.testing.assert_array_equal(stack, files)
        else:
            assert (stack.dtype, files.dtype) == (np.uint8, np.float16)
            np.testing.assert_allclose(stack / 255, files.astype(float), atol=0.5 / 255 + 1e-3)
    probabilities = np.stack([tifffile.imread(tmp_path / "stack" / f"{name}.tif") for name in names[:3]])
    assert np.abs(probabilities.astype(int).sum(0) - 255).max() <= 2
    record = json.loads((tmp_path / "files" / "prediction.json").read_text())
    assert list(record["layers"]) == ["labels", *names[:5]] and len(record["models"]) == 2


@pytest.mark.parametrize("form", ["tiff", "hdf5"])
def test_a_slice_that_is_being_written_does_not_disturb_what_is_brought_to_the_disk(
    slices, tmp_path, monkeypatch, form
):
    tifffile.imwrite(tmp_path / "in.tif", slices, photometric="minisblack")
    volume, three = open_volume(tmp_path / "in.tif"), [Layer(name, np.dtype("u1"), "") for name in ("a", "b", "c")]
    target = layers.open_target(tmp_path, volume, three, form)
    target.prepare()
    begun, syncing, written, real = threading.Event(), threading.Event(), threading.Event(), os.pwrite

    def pwrite(*args):
        begun.set()
        assert syncing.wait(60)
        return real(*args)

    def fsync(_):
        syncing.set()
        assert written.wait(60)

    def write():
        target.write(0, {layer.name: np.ones(volume.shapes[0], np.uint8) for layer in three})
        written.set()

    with contextlib.closing(target), monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        patched.setattr(os, "fsync", fsync)
        writer = threading.Thread(target=write)
        writer.start()
        assert begun.wait(60)
        target.sync()
        writer.join()
    assert all(target.read(0, layer).all() for layer in three)


def test_fractions_are_those_of_the_labels_and_sum_to_one(model_file, slices, tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", slices, photometric="minisblack")
    answer = predict(model_file, tmp_path / "scan.tif", tmp_path / "out")
    labels = tifffile.imread(tmp_path / "out" / "labels.tif")
    rows = list(csv.DictReader((tmp_path / "out" / "fractions.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[-1]["slice"] == "volume"
    for row, label in zip(rows, [*labels, labels], strict=True):
        shares = {value: float(row[f"fraction_{value}"]) for value in (0, 128, 255)}
        assert sum(shares.values()) == pytest.approx(1, abs=2e-9) and int(row["pixels"]) == label.size
        assert shares == {value: pytest.approx((label == value).mean(), abs=1e-9) for value in shares}
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["fractions"]["128"] == pytest.approx((labels == 128).mean())
    assert f"128: {(labels == 128).mean():.2%}" in answer.output


def test_a_name_of_a_slice_is_no_formula_of_a_spreadsheet(model_file, slices, tmp_path):
    names = ["+3.tif", "-3.tif", "=1+1.tif", "@SUM(A1).tif", "plain-1.tif"]
    (tmp_path / "in").mkdir()
    for name, pixels in zip(names, slices, strict=True):
        tifffile.imwrite(tmp_path / "in" / name, pixels)
    predict(model_file, tmp_path / "in", tmp_path / "out")
    rows = csv.DictReader((tmp_path / "out" / "fractions.csv").read_text().splitlines())
    assert {row["slice"] for row in rows} == {*(f"'{name}" for name in names[:4]), "plain-1.tif", "volume"}
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == names


def test_nobody_else_may_write_to_a_prediction_whatever_the_umask(model_file, slices, tmp_path):
    """Else no job would take it up: what others can write to is read, and never acted upon."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", slices[0])
    before = os.umask(0o002)
    try:
        predict(model_file, tmp_path / "in", tmp_path / "new" / "out")
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) > 4 and not [path for path in made if path.stat().st_mode & 0o022]
    assert why_foreign(RunFolder(tmp_path / "new" / "out")) == ""


def spoil_colour(folder):
    tifffile.imwrite(folder / "b.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")


def spoil_type(folder):
    tifffile.imwrite(folder / "b.tif", np.zeros((8, 8), np.float32))


def spoil_pages(folder):
    tifffile.imwrite(folder / "b.tif", np.zeros((2, 8, 8), np.uint16), photometric="minisblack")


def spoil_length(folder):
    content = (folder / "a.tif").read_bytes()
    (folder / "b.tif").write_bytes(content[: len(content) - 40])


def spoil_kind(folder):
    (folder / "b.tif").write_text("no image")


@pytest.mark.parametrize("spoil", [spoil_colour, spoil_type, spoil_pages, spoil_length, spoil_kind])
def test_a_folder_with_a_file_that_is_no_slice_is_refused_by_its_name(model_file, tmp_path, spoil):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.full((8, 8), 30_000, np.uint16))
    spoil(tmp_path / "in")
    answer = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out")
    assert answer.exit_code == 3 and "cannot be used" in answer.output and "b.tif" in answer.output
    assert not (tmp_path / "out").exists()


def no_finite_values(path):
    tifffile.imwrite(path, np.full((2, 9, 9), np.inf, np.float32), photometric="minisblack")


def channels(path):
    tifffile.imwrite(path, np.zeros((2, 3, 9, 9), "u2"), imagej=True, metadata={"axes": "ZCYX"}, truncate=True)


def channels_of_pages(path):
    tifffile.imwrite(path, np.zeros((2, 3, 9, 9), "u2"), imagej=True, metadata={"axes": "ZCYX"})


def channels_in_colour(path):
    tifffile.imwrite(path, np.zeros((3, 9, 9), "u2"), imagej=True, metadata={"axes": "CYX", "mode": "composite"})


def channels_of_ome(path):
    tifffile.imwrite(path, np.zeros((2, 3, 9, 9), "u2"), ome=True, metadata={"axes": "ZCYX"})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "There is no folder or file of slices"),
        (lambda path: path.mkdir(), "holds no .tif, .tiff or .png files"),
        (lambda path: path.write_text("x"), "not a readable TIFF"),
        (lambda path: path.write_bytes(b""), "not a readable TIFF"),
        (no_finite_values, "infinite"),
        (channels, "it has 2 slices, 3 channels"),
        (channels_of_pages, "it has 2 slices, 3 channels"),
        (channels_in_colour, "it has 3 channels"),
        (channels_of_ome, "it has 2 slices, 3 channels"),
    ],
)
def test_what_is_no_volume_is_refused(model_file, tmp_path, make, told):
    make(tmp_path / "in.tif")
    answer = hpcseg("predict", model_file, tmp_path / "in.tif", "-o", tmp_path / "out", "--range", "0", "1")
    assert answer.exit_code == 3 and told in answer.output and "Traceback" not in answer.output


def test_which_number_of_a_name_counts_can_be_said(model_file, slices, expected, tmp_path):
    (tmp_path / "in").mkdir()
    for number, pixels in enumerate(slices):
        tifffile.imwrite(tmp_path / "in" / f"t{9 - number}_{number}_a.tif", pixels)
    predict(model_file, tmp_path / "in", tmp_path / "out", "--number", r"_(\d+)_")
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["input"]["names"] == [f"t{9 - number}_{number}_a.tif" for number in range(5)]
    refused = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "none", "--number", r"z(\d+)")
    assert (
        refused.exit_code == 3 and "t5_4_a.tif has no number in its name as --number 'z(\\d+)' says" in refused.output
    )


def test_a_model_file_needs_no_cell_and_a_cell_no_file(cells, model_file, slices, expected, tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", slices, photometric="minisblack")
    run = cells[0].path.parents[1]
    for number, model in enumerate((cells[0].path, "*-s0-*")):
        predict(model, tmp_path / "scan.tif", tmp_path / str(number), "--run", run)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / str(number) / "labels.tif"), expected)
    answer = predict("*-s0-*", tmp_path / "scan.tif", tmp_path / "both", "--run", run, "--ensemble", "*-s1-*")
    assert open_file(model_file).card.training.cell in (tmp_path / "both" / "prediction.json").read_text()
    assert "slices/s" in answer.output
