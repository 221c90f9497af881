"""`hpcseg pack` and `hpcseg info`, as users call them: all of a folder goes in, or a message says why not."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.data import store
from hpcseg.data.pack import pack


def hpcseg(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_image(folder, number, value=1000, shape=(40, 48), dtype="uint16"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pixels = (np.arange(np.prod(shape)).reshape(shape) % 50 + value).astype(dtype)
    tifffile.imwrite(folder / "data" / f"image{number}.tif", pixels)


def write_label(folder, number, values=(0, 128, 255), shape=(40, 48), dtype="uint8"):
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    pixels = np.resize(np.array(values, dtype=dtype), shape)
    tifffile.imwrite(folder / "labels" / f"label{number}.tif", pixels)


@pytest.fixture
def good(tmp_path):
    """Three slices with labels in tmp_path/good."""
    for number in (1, 2, 3):
        write_image(tmp_path / "good", number)
        write_label(tmp_path / "good", number)
    return tmp_path / "good"


@pytest.fixture
def output(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "packed.h5"


def refused(good, output, code=3):
    """The message of a pack that must fail, having left nothing behind."""
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == code, result.output
    assert list(output.parent.iterdir()) == []
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


def test_pack_writes_what_info_then_verifies(good, output):
    packed = hpcseg("pack", good, "-o", output)
    assert packed.exit_code == 0, packed.output
    assert list(output.parent.iterdir()) == [output]

    checked = hpcseg("info", output, "--verify", "--json")
    assert checked.exit_code == 0
    assert "3 slices and labels match" in checked.stderr
    summary = json.loads(checked.stdout)
    assert summary["shape"] == [3, 40, 48]
    assert summary["class_values"] == [0, 128, 255]
    # 40 x 48 pixels are 640 times the three values.
    assert summary["class_shares"] == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert (summary["grey_min"], summary["grey_max"]) == (1000, 1049)
    assert summary["tiles"] == {"small": None, "large": None}


def test_info_counts_the_tiles_of_each_size(tiny_dataset):
    # 16 slices of 128 x 128 pixels: one tile each.
    assert json.loads(hpcseg("info", tiny_dataset, "--json").stdout)["tiles"] == {"small": 16, "large": None}


def test_info_shows_the_shares_for_people_too(good, output):
    hpcseg("pack", good, "-o", output)
    shown = hpcseg("info", output)
    assert "3 of 40 x 48 pixels, uint16" in shown.stdout
    assert "33.3%" in shown.stdout
    assert "small does not fit (128 pixels)" in shown.stdout


@pytest.mark.parametrize(
    ("dtype", "full_scale"),
    # float32 has no natural end: the largest grey value, 49 + 100, is the full scale.
    [("uint8", 255), ("uint16", 65_535), ("float32", 149)],
)
def test_full_scale_is_the_largest_of_the_type_or_of_floating_point_data(good, output, dtype, full_scale):
    for number in (1, 2, 3):
        write_image(good, number, value=100, dtype=dtype)
    info = pack(good / "data", good / "labels", output, command="test")
    assert (info.dtype, info.full_scale) == (dtype, full_scale)


def test_stacks_and_folders_of_any_compression_and_name_have_the_same_hash(good, output):
    info = pack(good / "data", good / "labels", output, command="test")
    images = np.stack([tifffile.imread(good / "data" / f"image{number}.tif") for number in (1, 2, 3)])
    labels = np.stack([tifffile.imread(good / "labels" / f"label{number}.tif") for number in (1, 2, 3)])
    tifffile.imwrite(good / "images.tif", images, byteorder=">", compression="lzw", photometric="minisblack")
    tifffile.imwrite(good / "labels.tif", labels, bigtiff=True, photometric="minisblack")

    result = hpcseg("pack", "--images", good / "images.tif", "--labels", good / "labels.tif", "-o", output, "--force")

    assert result.exit_code == 0, result.output
    stacks = store.read_info(output)
    assert stacks.data_sha256 == info.data_sha256
    assert stacks.image_names == ("images.tif#1", "images.tif#2", "images.tif#3")


@pytest.mark.parametrize("changed", ["pixel", "label", "number"])
def test_the_hash_changes_with_a_pixel_a_label_and_a_number(good, output, changed):
    before = pack(good / "data", good / "labels", output, command="test").data_sha256
    if changed == "pixel":
        write_image(good, 2, value=1001)
    elif changed == "label":
        write_label(good, 2, values=(128, 0, 255))
    else:
        (good / "data" / "image3.tif").rename(good / "data" / "image4.tif")
        (good / "labels" / "label3.tif").rename(good / "labels" / "label4.tif")
    assert pack(good / "data", good / "labels", output, command="test").data_sha256 != before


def test_any_whole_numbers_become_classes_in_ascending_order(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=(700, -5, 3), dtype="int16")
    info = pack(good / "data", good / "labels", output, command="test")
    assert info.class_values == (-5, 3, 700)
    with h5py.File(output) as file:
        assert file["labels"][0, 0, :4].tolist() == [2, 0, 1, 2]
    store.verify(output, lambda *_: None)


def test_a_class_that_only_one_slice_has_is_a_class_of_all(good, output):
    write_label(good, 3, values=(0, 77))
    info = pack(good / "data", good / "labels", output, command="test")
    assert info.class_values == (0, 77, 128, 255)
    assert info.class_counts[:, 1].tolist() == [0, 0, 40 * 48 // 2]


@pytest.mark.parametrize(
    "name", ["with space", "it's", 'say "x"', "new\nline", "back\\slash", "Ü 試料 🧪", "-o", "[red]", "[-red]", "a:b:c"]
)
def test_folder_names_of_any_kind_work(good, tmp_path, name):
    folder = good.rename(tmp_path / name)
    output = folder / f"{name}.h5"
    result = hpcseg("pack", f"--output={output}", "--", folder)
    assert result.exit_code == 0, result.output
    checked = hpcseg("info", "--verify", "--", output)
    assert checked.exit_code == 0, checked.output
    assert store.read_tiles(output, np.array([(1, 0, 0)]), 8)[0][0, 0, 0] == 1000


@pytest.mark.parametrize("name", ["a b.h5", "it's.h5", "[red].h5", "[/red]", "a:b:c.h5"])
def test_the_next_command_names_the_output_as_a_shell_reads_it(good, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.h5"
    path.parent.mkdir(exist_ok=True)  # "[/red].h5" is a file in a folder "["
    result = hpcseg("pack", good, "-o", path)
    assert result.exit_code == 0, result.output
    *_, command = result.stdout.splitlines()
    assert shlex.split(command) == ["Next:", "hpcseg", "grid", "--data", str(path)]


def test_the_default_output_needs_no_option_in_the_next_command(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hpcseg("pack", good).stdout.endswith("\nNext: hpcseg grid\n")
    assert (tmp_path / "dataset.h5").is_file()


@pytest.mark.parametrize("name", ["new\nline", "Ü 試料 🧪", "[red]"])
def test_a_refusal_shows_a_name_of_any_kind_as_it_is(tmp_path, name):
    result = hpcseg("pack", tmp_path / name, "-o", tmp_path / "packed.h5")
    assert result.exit_code == 3
    assert str(tmp_path / name / "data") in result.stderr


# --- refusals: the message names the file, and nothing is left behind


def test_an_image_without_a_label_is_refused(good, output):
    (good / "labels" / "label2.tif").unlink()
    assert "image2.tif (number 2) has no label" in refused(good, output)


def test_a_label_without_an_image_is_refused(good, output):
    (good / "data" / "image3.tif").unlink()
    assert "label label3.tif (number 3) has no image" in refused(good, output)


def test_two_images_of_one_number_are_refused(good, output):
    write_image(good, "02")
    message = refused(good, output)
    assert "image2.tif" in message
    assert "image02.tif" in message


def test_an_image_without_a_number_is_refused(good, output):
    write_image(good, "mean")
    assert "imagemean.tif has no number" in refused(good, output)


def test_a_colour_image_is_refused(good, output):
    tifffile.imwrite(good / "data" / "image2.tif", np.zeros((40, 48, 3), "uint8"), photometric="rgb")
    assert "image2.tif is not a grey-value image" in refused(good, output)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_an_image_that_was_cut_short_is_refused(good, output, kept):
    file = good / "data" / "image2.tif"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is not a readable TIFF file" in refused(good, output)


@pytest.mark.parametrize("folder", ["data", "labels"])
def test_pixels_damaged_within_a_file_are_refused(good, output, folder):
    file = next((good / folder).glob("*2.tif"))
    tifffile.imwrite(file, tifffile.imread(file), compression="zlib")
    with file.open("rb+") as damaged, tifffile.TiffFile(file) as tif:
        damaged.seek(tif.pages[0].dataoffsets[0])
        damaged.write(bytes(10))
    assert f"{file.name} cannot be decoded" in refused(good, output)


def test_a_slice_of_another_size_is_refused(good, output):
    write_image(good, 3, shape=(40, 49))
    assert "image3.tif is 40 x 49 uint16, but image1.tif is 40 x 48 uint16" in refused(good, output)


def test_a_slice_of_another_type_is_refused(good, output):
    write_image(good, 2, value=0, dtype="uint8")
    assert "image2.tif is 40 x 48 uint8, but image1.tif is 40 x 48 uint16" in refused(good, output)


def test_grey_values_that_are_nan_are_refused_even_in_the_last_slice(good, output):
    for number in (1, 2, 3):
        write_image(good, number, dtype="float32")
    pixels = tifffile.imread(good / "data" / "image3.tif")
    pixels[-1, -1] = np.nan
    tifffile.imwrite(good / "data" / "image3.tif", pixels)
    assert "image3.tif holds NaN" in refused(good, output)


def test_grey_values_of_64_bits_are_refused(good, output):
    for number in (1, 2, 3):
        write_image(good, number, dtype="float64")
    assert "image1.tif holds float64 grey values" in refused(good, output)


def test_labels_of_one_class_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=(128,))
    assert f"All labels in {good / 'labels'} have the one value 128" in refused(good, output)


def test_more_than_256_label_values_are_refused_and_256_are_not(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=range(256), dtype="uint16")
    assert len(pack(good / "data", good / "labels", output, command="test").class_values) == 256
    output.unlink()
    write_label(good, 2, values=range(1, 257), dtype="uint16")
    assert "with label2.tif the labels have more than 256 different values" in refused(good, output)


def test_labels_that_are_no_whole_numbers_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, dtype="float32")
    message = refused(good, output)
    assert "labels are float32" in message
    assert "label1.tif" in message


def test_labels_of_another_size_than_the_images_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, shape=(48, 40))
    message = refused(good, output)
    assert "images are 40 x 48, labels 48 x 40 pixels" in message
    assert "label1.tif" in message


def test_a_missing_folder_is_refused(good, output):
    assert str(good / "nowhere" / "data") in refused(good / "nowhere", output)


def test_an_empty_folder_is_refused(good, output):
    for file in (good / "labels").iterdir():
        file.unlink()
    assert f"{good / 'labels'} holds no .tif or .tiff files" in refused(good, output)


def test_labels_without_images_are_a_question_of_usage(good):
    result = hpcseg("pack", "--labels", good / "labels")
    assert result.exit_code == 2
    assert "--images" in result.stderr


def test_an_output_folder_that_is_missing_is_made(good, tmp_path):
    output = tmp_path / "new" / "folder" / "packed.h5"
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    assert list(output.parent.iterdir()) == [output]


def test_an_output_folder_that_is_a_file_is_an_error_that_names_the_output(good, tmp_path):
    (tmp_path / "file").write_text("")
    result = hpcseg("pack", good, "-o", tmp_path / "file" / "packed.h5")
    assert result.exit_code == 1
    assert f"{tmp_path / 'file' / 'packed.h5'} cannot be written" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "good"]


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
    assert "Next: hpcseg grid --data" in result.stdout
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
    assert list(output.parent.iterdir()) == [output]

    write_image(good, 3, value=2000)
    assert hpcseg("pack", good, "-o", output, "--force").exit_code == 0
    assert store.read_info(output).grey_max.tolist() == [1049, 1049, 2049]


# A limit on the size of a file stands for a disk that is full from the start, after some slices, and at the end.
@pytest.mark.parametrize("limit", [0, 8_000, 1_100_000, 2_200_000])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(good, output, limit):
    for number in (1, 2, 3):  # 720 kB each, 2.16 MB in all, and labels and tables beside
        write_image(good, number, shape=(600, 600))
        write_label(good, number, shape=(600, 600), values=np.random.default_rng(number).integers(0, 250, 360_000))
    result = subprocess.run(
        [sys.executable, "-m", "hpcseg", "pack", str(good), "-o", str(output)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr == f"error: {output} cannot be written: File too large. Is there space and permission?\n"
    assert list(output.parent.iterdir()) == []


def test_info_of_a_damaged_file_names_it_and_ends_with_3(good, output):
    hpcseg("pack", good, "-o", output)
    with h5py.File(output, "r+") as file:
        file["slices"][1, 5, 5] += 1
    assert hpcseg("info", output).exit_code == 0
    result = hpcseg("info", output, "--verify")
    assert result.exit_code == 3
    assert str(output) in result.stderr
    assert "image2.tif" in result.stderr
