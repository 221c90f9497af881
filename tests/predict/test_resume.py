"""A prediction that was killed goes on; one that was asked otherwise, or of other slices, is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.errors import HpcsegError
from hpcseg.predict.layers import _Folder, _Runs, _Stores
from hpcseg.predict.outcome import OutFolder
from hpcseg.runs.record import read_json, read_lines

FORMS = ["folder", "stack", "hdf5", "zarr"]
KINDS = {"folder": _Folder, "stack": _Runs, "hdf5": _Runs, "zarr": _Stores}


@pytest.fixture
def source(tmp_path, tiny_folder):
    """Makes a volume of the sample's first slices, 96 x 80 pixels, in one of the forms."""

    def make(form, count=12):
        files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, count + 1)]
        slices = np.stack([tifffile.imread(file)[:96, :80] for file in files])
        path = tmp_path / {"folder": "in", "stack": "in.tif", "hdf5": "in.h5", "zarr": "in.zarr"}[form]
        if form == "folder":
            path.mkdir()
            for number, pixels in enumerate(slices):
                tifffile.imwrite(path / f"slice{number:02d}.tif", pixels)
        elif form == "stack":
            tifffile.imwrite(path, slices, photometric="minisblack")
        elif form == "zarr":
            zarr.create_array(path, data=slices, chunks=(5, 96, 40))
        else:
            with h5py.File(path, "w") as file:
                file["volume"] = slices
        return path

    return make


def contents(out):
    """The bytes of all layers of a prediction, by name."""
    files = [path for path in out.rglob("*") if path.is_file() and re.search(r"\.(tif|h5|zarr/.*)$", str(path))]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same(one, other):
    assert one == other and one


@pytest.mark.parametrize("form", FORMS)
def test_it_goes_on_after_an_error_and_ends_with_the_same(model_file, source, tmp_path, monkeypatch, form):
    command = ("predict", model_file, source(form), "--uncertainty", "--precision", "fp32", "-o")
    assert hpcseg(*command, tmp_path / "whole").exit_code == 0
    time.sleep(1)  # HDF5 would write the second in which a data set was made, and the bytes would differ
    kind, written = KINDS[form], []
    write = kind.write

    def fails(self, index, pixels):
        if len(written) == 5:
            raise HpcsegError("the disk is full")
        written.append(index)
        write(self, index, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "write", fails)
        answer = hpcseg(*command, tmp_path / "out")
    assert answer.exit_code == 1 and "the disk is full" in answer.output
    assert sorted(OutFolder(tmp_path / "out").done()) == [0, 1, 2, 3, 4]
    assert form == "folder" or not list((tmp_path / "out").glob("labels*")), "no file has its name before it is whole"
    written = []
    monkeypatch.setattr(kind, "write", lambda self, index, pixels: (written.append(index), write(self, index, pixels)))
    answer = hpcseg(*command, tmp_path / "out")
    assert answer.exit_code == 0 and "5 of 12 slices are there already" in answer.output
    assert written == list(range(5, 12))
    same(contents(tmp_path / "out"), contents(tmp_path / "whole"))
    assert (tmp_path / "out" / "fractions.csv").read_text() == (tmp_path / "whole" / "fractions.csv").read_text()
    assert not list((tmp_path / "out").rglob(".*"))
    written.clear()
    answer = hpcseg(*command, tmp_path / "out")
    assert answer.exit_code == 0 and "there already; nothing was written" in answer.output and not written
    assert "Phase fractions" in answer.output
    for name in ("fractions.csv", "sheet.png"):
        (tmp_path / "out" / name).unlink()
        assert f"wrote {tmp_path / 'out' / name}" in hpcseg(*command, tmp_path / "out").output and not written
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("form", ["folder", "stack", "zarr"])
def test_it_goes_on_after_a_kill(model_file, source, tmp_path, form):
    arguments = ["predict", model_file, source(form), "--precision", "fp32", "-o"]
    out = OutFolder(tmp_path / "out")
    script = (
        "import sys, time\nfrom hpcseg.predict import work\nfrom hpcseg.segment.network import Network\n"
        "work._SECONDS_BETWEEN_COMMITS = 0\nanswer = Network.answer\n"
        "Network.answer = lambda *asked: (time.sleep(0.1), answer(*asked))[1]\n"
        "from hpcseg.cli.app import main\nmain()"
    )
    slow = [sys.executable, "-c", script, *map(str, arguments), str(out.path)]
    process = subprocess.Popen(slow, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(out.done()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(out.done())
    assert 3 <= done < 12
    # As if the last line had been cut in the middle.
    with out.journal_file(None).open("a") as file:
        file.write('{"index": 11, "cou')
    again = hpcseg(*arguments, out.path)
    assert again.exit_code == 0 and f"{done} of 12 slices are there already" in again.stderr
    assert len([line for line in read_lines(out.journal_file(None)) if "index" in line]) == 12
    assert hpcseg(*arguments, tmp_path / "whole").exit_code == 0
    same(contents(out.path), contents(tmp_path / "whole"))


@contextlib.contextmanager
def writing_a_file(call):
    """A `predict` in a process of its own that is long in writing each file of a slice, and is at its second."""
    script = (
        "import os, time\nfrom hpcseg import files\n"
        "def slow(self, path):\n"
        "    if 'labels' in str(path) and path.suffix != '.json':\n"
        "        print('a slice is written', flush=True)\n        time.sleep(0.5)\n"
        "    os.replace(self, path)\n"
        "files.Path.replace = slow\nfrom hpcseg.cli.app import main\nmain()"
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, *call], **streams) as process:
        told = 0
        while told < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            told += line == "a slice is written\n"
        yield process


@pytest.mark.parametrize("form", ["folder", "zarr"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_the_same_command_goes_on_and_leaves_no_temporary_file(
    model_file, source, tmp_path, form, number
):
    call = ["predict", str(model_file), str(source(form)), "--precision", "fp32", "-o", str(tmp_path / "out")]
    with writing_a_file(call) as process:
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    left = list(tmp_path.glob("out/**/.*.tmp"))
    if number == signal.SIGTERM:
        assert (process.returncode, said) == (130, "Stopped by you. The same command goes on where it was.\n")
        assert not left and OutFolder(tmp_path / "out").done()
    else:
        assert left
    again = hpcseg(*call)
    assert again.exit_code == 0, again.output
    assert ("slices are there already" in again.output) == (number == signal.SIGTERM)
    assert not list(tmp_path.glob("out/**/.*"))
    assert hpcseg(*call[:-1], tmp_path / "whole").exit_code == 0
    same(contents(tmp_path / "out"), contents(tmp_path / "whole"))
    assert (tmp_path / "out" / "fractions.csv").read_bytes() == (tmp_path / "whole" / "fractions.csv").read_bytes()


def test_one_that_was_killed_with_its_first_file_begins_anew(model_file, source, tmp_path):
    left = tmp_path / "out" / ".prediction.json.12345678.tmp"
    left.parent.mkdir()
    left.touch()
    assert hpcseg("predict", model_file, source("folder", count=2), "-o", left.parent).exit_code == 0
    assert not left.exists()


def test_a_stack_that_is_deleted_is_made_again(model_file, source, tmp_path):
    command = ("predict", model_file, source("stack"), "-o", tmp_path / "out")
    assert hpcseg(*command).exit_code == 0
    labels = tifffile.imread(tmp_path / "out" / "labels.tif")
    (tmp_path / "out" / "labels.tif").unlink()
    assert hpcseg(*command).exit_code == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "labels.tif"), labels)


def test_another_question_does_not_go_into_the_same_folder(model_files, source, tmp_path):
    volume = source("folder", count=2)
    command = ("predict", model_files[0], volume, "-o", tmp_path / "out")
    assert hpcseg(*command).exit_code == 0
    before = (tmp_path / "out" / "prediction.json").read_bytes()
    for options, named in [
        (("--flips",), "flips"),
        (("--tile", 64), "tile"),
        (("--range", 0, 65535), "range"),
        (("--percentiles", 0, 100), "percentiles"),
        (("--format", "hdf5"), "format"),
        (("--ensemble", model_files[1]), "models"),
    ]:
        answer = hpcseg(*command, *options)
        assert answer.exit_code == 2 and f"asked otherwise: {named}" in answer.output, answer.output
    assert (tmp_path / "out" / "prediction.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(model_file, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    volume = source("folder", count=2)
    for out in (tmp_path / "out", volume, tmp_path / "out" / "notes.txt"):
        answer = hpcseg("predict", model_file, volume, "-o", out)
        assert answer.exit_code == 2 and "is no prediction of hpcseg" in answer.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_two_processes_do_not_write_to_one_folder(model_file, source, tmp_path):
    command = ("predict", model_file, source("folder", count=2), "-o", tmp_path / "out")
    assert hpcseg(*command).exit_code == 0
    (tmp_path / "out" / "labels" / "slice01.tif").unlink()
    with OutFolder(tmp_path / "out").alone(None):
        answer = hpcseg(*command)
    assert answer.exit_code == 1 and "Another process is writing" in answer.output


def test_the_whole_and_a_part_of_it_are_not_written_at_the_same_time(tmp_path):
    folder = OutFolder(tmp_path / "out")
    with folder.alone(0), folder.alone(1), pytest.raises(HpcsegError, match="Another process"), folder.alone(None):
        pass
    with folder.alone(None), pytest.raises(HpcsegError, match="Another process"), folder.alone(0):
        pass


def test_a_model_that_is_given_twice_counts_once(model_files, source, tmp_path):
    first, second = model_files
    twice = ("--ensemble", first, "--ensemble", second)
    assert hpcseg("predict", first, source("folder"), "-o", tmp_path / "out", *twice).exit_code == 0
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert len(record["models"]) == len(record["model_paths"]) == 2
    assert record["peak_memory_mib"] > 50


def test_the_record_says_where_the_labels_come_from(model_file, source, tmp_path):
    volume = source("folder", count=2)
    for path in volume.iterdir():
        tifffile.imwrite(path, (tifffile.imread(path) // 256).astype(np.uint8))
    answer = hpcseg("predict", model_file, volume, "-o", tmp_path / "out")
    assert answer.exit_code == 3 and "--range LOW HIGH" in answer.output and not (tmp_path / "out").exists()
    assert hpcseg("predict", model_file, volume, "-o", tmp_path / "out", "--range", 0, 255).exit_code == 0
    record = read_json(tmp_path / "out" / "prediction.json")
    assert record["mapping"]["kind"] == "range" and record["mapping"]["asked"] == [0, 255]
    assert record["mapping"]["counts"] == "257 * grey value + 0" and record["mapping"]["meant"] == [0, 65535]
    assert record["state"] == "finished" and record["input"]["names"] == ["slice00.tif", "slice01.tif"]
    assert record["models"][0]["sha256"] and record["torch"] and record["command"] and record["slices_per_second"] > 0
    assert str(tmp_path) not in json.dumps({key: value for key, value in record.items() if key != "command"})


def test_strange_slices_among_others_are_named(model_file, source, tmp_path):
    volume = source("folder", count=6)
    for path in volume.iterdir():
        tifffile.imwrite(path, tifffile.imread(path).astype(np.float32))
    tifffile.imwrite(volume / "slice05.tif", np.full((96, 80), 90_000, np.float32))
    answer = hpcseg("predict", model_file, volume, "-o", tmp_path / "out", "--range", 0, 65535)
    assert answer.exit_code == 0 and "grey values of slice05.tif are far outside" in answer.output


def test_memory_does_not_grow_with_the_number_of_slices(model_file, tmp_path):
    """Peak of 40 slices and of 340; in one process, since the peak never falls."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np, tifffile
from slice_folder import hpcseg
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
pixels = np.random.default_rng(0).integers(20000, 40000, (160, 160), dtype=np.uint16)
for count in (40, 340):
    with tifffile.TiffWriter(f"{count}.tif") as tif:
        for _ in range(count):
            tif.write(pixels, metadata=None)
    answer = hpcseg("predict", sys.argv[1], f"{count}.tif", "-o", str(count), "--uncertainty", "--precision", "fp32")
    assert answer.exit_code == 0, answer.output
    print(peak())
"""
    # One thread, since two wait for each other at every layer of so small a network.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, model_file],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = map(float, done.stdout.split())
    # 300 slices more are 15 MB as they are read, 31 MB as the network takes them, and 15 MB of labels and uncertainty.
    assert many - few < 10, f"{few:.0f} MiB, then {many:.0f} MiB"
