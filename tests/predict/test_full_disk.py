"""A prediction whose disk is full ends in one sentence, and the same command goes on once there is room."""

from __future__ import annotations

import re
import subprocess

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.runs.record import append_lines


@pytest.fixture(scope="module")
def slices(tiny_folder):
    return np.stack([tifffile.imread(tiny_folder / "data" / f"sample{one:04d}.tiff")[:96, :80] for one in range(1, 7)])


def labels(path):
    """Of all slices, whatever they were written as."""
    if path.is_dir() and path.suffix != ".zarr":
        return np.stack([tifffile.imread(one) for one in sorted(path.iterdir())])
    if path.suffix == ".tif":
        return tifffile.imread(path)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["labels"][:]
    return zarr.open_array(path / "0", mode="r")[:]


@pytest.mark.parametrize("name", ["labels", "labels.tif", "labels.h5", "labels.zarr"])
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(model_file, slices, tmp_path, disk, name):
    source = tmp_path / ("in.tif" if "." in name else "in")
    if "." in name:
        tifffile.imwrite(source, slices, photometric="minisblack")
    else:
        source.mkdir()
        for number, pixels in enumerate(slices):
            tifffile.imwrite(source / f"slice{number}.tif", pixels)
    format_ = {".h5": "hdf5", ".zarr": "zarr"}.get(f".{name.partition('.')[2]}", "tiff")
    out, refused = disk("size=4k") / "out", 0
    command = ("predict", model_file, source, "--format", format_, "--precision", "fp32", "-o", out)
    # A page more or so at a time: each kind of file meets its own end once.
    for pages in (2, 3, 4, 6, 8, 10, 14, 18, 24, 32, 2_000):
        answer = hpcseg(*command)
        if not answer.exit_code:
            break
        refused += 1
        (error,) = re.findall(r"error: .*", answer.stderr, re.DOTALL)
        assert re.fullmatch(
            rf"error: {re.escape(str(out))}\S* cannot be written: No space left on device\. Is there space and "
            r"permission\? The same command goes on then\.\n",
            error,
        )
        assert answer.exit_code == 1
        subprocess.run(["mount", "-o", f"remount,size={4 * pages}k", out.parent], check=True)
    answer = hpcseg(*command)
    assert answer.exit_code == 0 and refused >= 4, answer.output
    assert hpcseg(*command[:-1], tmp_path / "whole").exit_code == 0
    np.testing.assert_array_equal(labels(out / name), labels(tmp_path / "whole" / name))


def test_a_line_that_cannot_be_appended_names_its_file(disk):
    journal = disk("size=8k") / "events.jsonl"
    append_lines(journal, [{"a": 1}], durable=True)
    with pytest.raises(OSError, match="No space left on device") as refused:
        append_lines(journal, [{"a": "x" * 20_000}], durable=True)
    assert refused.value.filename == str(journal)
