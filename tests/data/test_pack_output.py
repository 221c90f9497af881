"""Where `hpcseg pack` writes: what is there stays unless it is replaced by a whole file, and a disk may be full."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg, write_image, write_label

from hpcseg.data import store
from hpcseg.data.pack import pack
from hpcseg.errors import HpcsegError


def test_an_output_folder_that_is_missing_is_made(good, tmp_path):
    output = tmp_path / "new" / "folder" / "packed.h5"
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    assert sorted(output.parent.iterdir()) == [output.with_name("packed-sheet.png"), output]


def test_an_output_folder_that_is_a_file_is_an_error_that_names_the_output(good, tmp_path):
    (tmp_path / "file").write_text("")
    result = hpcseg("pack", good, "-o", tmp_path / "file" / "packed.h5")
    assert result.exit_code == 1
    assert f"{tmp_path / 'file' / 'packed.h5'} cannot be written" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "good"]


def test_an_output_that_is_a_folder_is_told_so(good, tmp_path):
    answer = hpcseg("pack", good, "-o", tmp_path, "--force")
    assert answer.exit_code == 2 and f"is a folder. Name the file to write: -o {tmp_path}/dataset.h5" in " ".join(
        answer.stderr.split()
    )


@pytest.mark.parametrize("there", [False, True])
def test_an_output_that_is_a_link_is_written_where_it_leads(good, tmp_path, there):
    (tmp_path / "scratch").mkdir()
    target = tmp_path / "scratch" / "packed.h5"
    if there:
        target.write_bytes(b"old")
    (tmp_path / "set.h5").symlink_to(target)
    assert hpcseg("pack", good, "-o", tmp_path / "set.h5", *["--force"] * there).exit_code == 0
    assert (tmp_path / "set.h5").is_symlink() and store.read_info(target).shape[0] > 0


def test_an_output_folder_that_takes_no_files_is_an_error_that_names_the_output(good):
    # /proc/self is read-only for everyone, root included.
    result = hpcseg("pack", good, "-o", "/proc/self/packed.h5")
    assert result.exit_code == 1
    assert "/proc/self/packed.h5 cannot be written" in result.stderr


def test_an_existing_output_stays_as_it_is_without_force(good, output):
    output.write_bytes(b"precious")
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 2
    assert f"{output} exists already" in result.stderr
    assert "--force" in result.stderr
    assert output.read_bytes() == b"precious"


def test_an_output_that_holds_the_same_data_is_left_as_it_is(good, output):
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    before = output.stat().st_mtime_ns, output.read_bytes()
    for file in (good / "data").iterdir():  # other names and compression, the same data
        tifffile.imwrite(file.with_name(f"renamed_{file.name}"), tifffile.imread(file), compression="zlib")
        file.unlink()
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 0
    assert "there already; nothing was written" in result.stderr
    assert "Next: hpcseg grid --job segment --data" in result.stdout
    assert (output.stat().st_mtime_ns, output.read_bytes()) == before


@pytest.mark.parametrize("changed", ["pixel", "label", "number", "label type", "a slice more"])
def test_an_output_that_holds_other_data_stays_as_it_is_without_force(good, output, changed):
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    before = output.read_bytes()
    if changed == "pixel":
        write_image(good, 3, value=1001)
    elif changed == "label":
        write_label(good, 3, values=(128, 0, 255))
    elif changed == "label type":
        for number in (1, 2, 3):
            write_label(good, number, dtype="uint16")
    else:
        write_image(good, 4)
        write_label(good, 4)
        if changed == "number":
            (good / "data" / "image3.tif").unlink()
            (good / "labels" / "label3.tif").unlink()
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 2
    assert f"{output} exists already and does not hold these slices" in result.stderr
    assert "Write elsewhere with -o OTHER.h5: models that were trained on this file need it" in result.stderr
    assert output.read_bytes() == before


def test_force_replaces_an_output_only_with_a_whole_one(good, output):
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    before = output.read_bytes()
    file = good / "data" / "image3.tif"
    tifffile.imwrite(file, tifffile.imread(file), compression="zlib")
    with file.open("rb+") as damaged:
        damaged.seek(-20, 2)
        damaged.write(bytes(20))
    assert hpcseg("pack", good, "-o", output, "--force").exit_code == 3
    assert output.read_bytes() == before
    assert sorted(output.parent.iterdir()) == [output.with_name("packed-sheet.png"), output]

    write_image(good, 3, value=2000)
    assert hpcseg("pack", good, "-o", output, "--force").exit_code == 0
    assert store.read_info(output).grey_max.tolist() == [1049, 1049, 2049]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("processes", [1, 2])
def test_whoever_stops_it_leaves_nothing_of_a_new_file_and_all_of_the_old_one(good, output, number, processes):
    output.write_bytes(b"the old one")
    with packing(good, output, "--force", number=number, processes=processes) as process:
        assert len(list(output.parent.iterdir())) == 2
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "error: stopped\n")
    assert list(output.parent.iterdir()) == [output]
    assert output.read_bytes() == b"the old one"


@contextlib.contextmanager
def packing(good, output, *options, number=signal.SIGTERM, processes=1, seconds=60):
    """A `pack` in a process of its own, which has written a slice and waits so long before each of the next."""
    script = (
        "import time; import hpcseg.data.pack as pack; from hpcseg.data.writer import Writer;"
        f"pack.processes_for = lambda pairs: {processes};"
        "add = Writer.add;"
        f"Writer.add = lambda *given: (add(*given), print('one is packed', flush=True), time.sleep({seconds}));"
        "from hpcseg.cli.app import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "pack", good, "-o", output, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        ),
    ) as process:
        assert process.stdout.readline() == "one is packed\n"
        yield process


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_killed_one_has_left_goes_with_the_next(good, output, processes):
    others = [output.with_name(name) for name in (".other.h5.12345678.tmp", ".packed.h5.tmp", "packed.h5.12345678.tmp")]
    for other in others:
        other.touch()
    with packing(good, output, processes=processes) as process:
        process.kill()
    (left,) = set(output.parent.iterdir()) - set(others)
    assert left.name.startswith(".packed.h5.")
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    whole = {output, output.with_name("packed-sheet.png"), *others}
    assert set(output.parent.iterdir()) == whole
    # And with one that has nothing to write: it was killed while it drew, or is as old as that.
    left.touch()
    output.with_name(".packed-sheet.png.12345678.tmp").touch()
    output.with_name("packed-sheet.png").unlink()
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    assert set(output.parent.iterdir()) == whole


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_of_a_new_file_and_all_of_the_old_one(good, output):
    output.write_bytes(b"the old one")
    for number in range(4, 30):  # so many that some are not begun
        write_image(good, number)
        write_label(good, number)
    with packing(good, output, "--force", processes=2, seconds=1) as process:
        children = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        killed = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        os.kill(killed[0], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "A process that worked on the slices was ended" in said
    assert list(output.parent.iterdir()) == [output] and output.read_bytes() == b"the old one"


def test_what_a_living_one_writes_to_stays(good, output):
    with packing(good, output, seconds=2) as process:
        assert hpcseg("pack", good, "-o", output).exit_code == 0
        assert len(list(output.parent.glob(".packed.h5.*.tmp"))) == 1
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert store.read_info(output).shape[0] == 3 and not list(output.parent.glob(".*"))


def test_hdf5_may_lock_what_is_written(good, output):
    """As where h5py was imported first, in a notebook, or where a site wants locks."""
    command = [sys.executable, "-m", "hpcseg", "pack", str(good), "-o", str(output)]
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert store.read_info(output).shape[0] == 3


# A limit on the size of a file stands for a disk that is full from the start, in the slices, the labels and the table.
@pytest.mark.parametrize(
    ("limit", "processes"),
    # A pool of processes has semaphores in files of their own, so the least limit is for one process alone.
    [(0, 1), *itertools.product([8_000, 1_100_000, 2_200_000, 3_250_000], [1, 2])],
)
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(good, output, limit, processes):
    for number in (1, 2, 3):  # 720 kB and 360 kB each, 3.24 MB in all, and the table beside
        write_image(good, number, shape=(600, 600))
        write_label(good, number, shape=(600, 600), values=np.random.default_rng(number).integers(0, 250, 360_000))
    script = (
        f"import hpcseg.data.pack as pack; pack.processes_for = lambda pairs: {processes};"
        "from hpcseg.cli.app import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "pack", str(good), "-o", str(output)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr == f"error: {output} cannot be written: File too large. Is there space and permission?\n"
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("size", ["4k", "8k", "64k", "1m", "2200k"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_is_too_small_ends_in_one_line_and_keeps_the_old_file(good, disk, size, processes):
    for number in (1, 2, 3):  # 720 kB each, 2.16 MB in all, and labels and tables beside
        write_image(good, number, shape=(600, 600))
        write_label(good, number, shape=(600, 600), values=np.random.default_rng(number).integers(0, 250, 360_000))
    output = disk(f"size={size}") / "packed.h5"
    output.write_bytes(b"the old one")
    script = (
        f"import hpcseg.data.pack as pack; pack.processes_for = lambda pairs: {processes};"
        "from hpcseg.cli.app import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "pack", good, "-o", output, "--force"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert (
        result.stderr == f"error: {output} cannot be written: No space left on device. Is there space and permission?\n"
    )
    assert list(output.parent.iterdir()) == [output]
    assert output.read_bytes() == b"the old one"


def test_a_read_only_disk_is_an_error_that_names_the_output(good, disk):
    output = disk("ro") / "packed.h5"
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 1
    assert (
        result.stderr == f"error: {output} cannot be written: Read-only file system. Is there space and permission?\n"
    )


@pytest.mark.parametrize("name", ["folder", ".", "/", "name too long"])
def test_an_output_that_can_be_no_file_is_refused_before_a_slice_is_packed(good, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    output = Path("n" * 250 if name == "name too long" else name)  # with what is added while it is written
    packed = []
    with pytest.raises(HpcsegError, match=r"is a folder\. Name the file|cannot be written: File name too long"):
        pack(good / "data", good / "labels", output, command="test", on_slice=lambda *done: packed.append(done))
    assert packed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "good"]


@pytest.mark.parametrize("kind", ["the file", "a link to it"])
def test_an_output_that_is_one_of_the_slices_is_refused_even_with_force(good, kind):
    slice_file = good / "data" / "image2.tif"
    before = slice_file.read_bytes()
    output = slice_file if kind == "the file" else good / "packed.h5"
    if kind == "a link to it":
        output.hardlink_to(slice_file)
    result = hpcseg("pack", good, "-o", output, "--force")
    assert result.exit_code == 2
    assert f"{output} is one of the slices or labels to pack" in result.stderr
    assert slice_file.read_bytes() == before
