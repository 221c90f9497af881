"""A prediction goes on with a copy of its input, and not with other pixels, however well the files' times agree."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.errors import HpcsegError
from hpcseg.predict import work
from hpcseg.runs.record import read_json

FORMS = {"folder": "in", "stack": "in.tif", "hdf5": "in.h5", "virtual": "in.h5", "external": "in.h5", "zarr": "in.zarr"}
NAMES = {"folder": "slice2.tif", "stack": "in.tif#3", "zarr": "in.zarr#3"}


@pytest.fixture(scope="module")
def slices(tiny_folder):
    """(6, 40, 48) uint16 of the sample."""
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 7)]
    return np.stack([tifffile.imread(file)[:40, :48] for file in files])


def write(folder, form, slices):
    """A volume under a folder, in one of the forms."""
    folder.mkdir(exist_ok=True)
    path = folder / FORMS[form]
    if form == "folder":
        path.mkdir()
        for number, pixels in enumerate(slices):
            tifffile.imwrite(path / f"slice{number}.tif", pixels)
    elif form == "stack":
        tifffile.imwrite(path, slices, photometric="minisblack")
    elif form == "zarr":
        zarr.create_array(path, data=slices, chunks=(2, 40, 48), compressors=None)
    elif form == "virtual":
        with h5py.File(folder / "raw.h5", "w") as raw:
            raw["volume"] = slices
        layout = h5py.VirtualLayout(slices.shape, "u2")
        layout[:] = h5py.VirtualSource("raw.h5", "volume", slices.shape)
        with h5py.File(path, "w") as file:
            file.create_virtual_dataset("volume", layout)
    elif form == "external":
        (folder / "raw.bin").write_bytes(slices.astype("<u2").tobytes())
        with h5py.File(path, "w") as file:
            file.create_dataset("volume", slices.shape, "<u2", external=[("raw.bin", 0, slices.nbytes)])
    else:
        with h5py.File(path, "w") as file:
            file["volume"] = slices
    return path


def change(folder, slices):
    """One pixel of the third slice in whichever file holds it, with the size and times that it had."""
    old = slices[2].astype("<u2").tobytes()
    for file in folder.rglob("*"):
        if file.is_file() and (at := file.read_bytes().find(old)) >= 0:
            times = file.stat()
            with file.open("r+b") as opened:
                opened.seek(at + 999)
                opened.write(bytes([old[999] ^ 1]))
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            return
    raise AssertionError("no file holds it")


@pytest.fixture
def stopped(model_file, slices, tmp_path, monkeypatch):
    """Begins a prediction that ends after four of six slices; gives the command without its input."""

    def begin(path, *options):
        made = work._layers_of

        def fails(prediction, read, answer):
            if read.index >= 4:
                raise HpcsegError("the disk is full")
            return made(prediction, read, answer)

        command = ("-o", tmp_path / "out", "--precision", "fp32", *options)
        with monkeypatch.context() as patched:
            patched.setattr(work, "_layers_of", fails)
            assert "the disk is full" in hpcseg("predict", model_file, path, *command).output
        return command

    return begin


@pytest.mark.parametrize("form", FORMS)
def test_it_goes_on_with_a_copy_of_its_input(model_file, slices, stopped, tmp_path, form):
    command = stopped(write(tmp_path / "here", form, slices))
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "here")
    answer = hpcseg("predict", model_file, tmp_path / "there" / FORMS[form], *command)
    assert answer.exit_code == 0 and "4 of 6 slices are there already" in answer.output, answer.output
    assert Path("..", "there") in Path(read_json(tmp_path / "out" / "prediction.json")["input"]["path"]).parents
    hpcseg("predict", model_file, write(tmp_path / "new", form, slices), "-o", tmp_path / "whole", *command[2:])
    table = (tmp_path / "whole" / "fractions.csv").read_text()
    assert (tmp_path / "out" / "fractions.csv").read_text() == table
    # Looking at it takes the copy as well, and a copy of that.
    shutil.move(tmp_path / "there", tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", tmp_path / "there", copy_function=shutil.copyfile)
    assert "napari" in hpcseg("view", tmp_path / "out").output


@pytest.mark.parametrize("form", FORMS)
def test_a_pixel_that_changed_is_found_though_size_and_times_are_the_same(model_file, slices, stopped, tmp_path, form):
    path = write(tmp_path / "here", form, slices)
    command = stopped(path)
    record = (tmp_path / "out" / "prediction.json").read_bytes()
    change(tmp_path / "here", slices)
    answer = hpcseg("predict", model_file, path, *command)
    assert answer.exit_code == 2 and f"have other pixels now: {NAMES.get(form, 'volume#3')}." in answer.output
    assert (tmp_path / "out" / "prediction.json").read_bytes() == record


def test_looking_at_a_prediction_of_other_pixels_is_refused(model_file, slices, tmp_path):
    path = write(tmp_path / "here", "stack", slices)
    assert hpcseg("predict", model_file, path, "-o", tmp_path / "out").exit_code == 0
    change(tmp_path / "here", slices)
    answer = hpcseg("view", tmp_path / "out")
    assert answer.exit_code == 2 and "1 of the 6 slices that were read have other pixels now" in answer.output


def test_files_that_were_only_touched_or_compressed_otherwise_are_the_same(model_file, slices, stopped, tmp_path):
    path = write(tmp_path / "here", "folder", slices)
    command = stopped(path)
    os.utime(path / "slice0.tif", (1, 1))
    tifffile.imwrite(path / "slice1.tif", slices[1], compression="zlib")
    answer = hpcseg("predict", model_file, path, *command)
    assert answer.exit_code == 0 and "4 of 6 slices are there already" in answer.output


def test_what_headers_say_otherwise_is_told(model_file, slices, stopped, tmp_path):
    path = write(tmp_path / "here", "folder", slices)
    command = stopped(path)
    (path / "slice5.tif").rename(path / "slice6.tif")
    assert "gone: slice5.tif; new: slice6.tif" in hpcseg("predict", model_file, path, *command).output
    (path / "slice6.tif").unlink()
    assert "the number of slices was 6 and is 5" in hpcseg("predict", model_file, path, *command).output
    other = write(tmp_path / "there", "stack", slices)
    assert "the form was folder and is stack" in hpcseg("predict", model_file, other, *command).output


def test_percentiles_of_some_slices_are_of_the_whole_volume_whose_slices_count(model_file, slices, tmp_path):
    path = write(tmp_path / "here", "folder", slices)
    command = ("predict", model_file, path, "--precision", "fp32", "--percentiles", 1, 99, "-o")
    for out, options in (("whole", ()), ("some", ("--slices", "5-6"))):
        assert hpcseg(*command, tmp_path / out, *options).exit_code == 0
    some, whole = (read_json(tmp_path / out / "prediction.json")["mapping"] for out in ("some", "whole"))
    assert some == whole
    tifffile.imwrite(path / "slice1.tif", slices[1] // 2)
    answer = hpcseg(*command, tmp_path / "some", "--slices", "5-6")
    assert answer.exit_code == 2 and "have other pixels now: slice1.tif." in answer.output


def test_what_an_earlier_version_wrote_has_no_hashes_and_says_so(model_file, slices, stopped, tmp_path):
    path = write(tmp_path / "here", "stack", slices)
    command = stopped(path)
    journal = tmp_path / "out" / "slices.jsonl"
    journal.write_text(journal.read_text().replace('"sha256"', '"other"'))
    os.utime(path, (1, 1))
    answer = hpcseg("predict", model_file, path, *command)
    assert answer.exit_code == 2 and "an earlier hpcseg kept no hashes" in answer.output
