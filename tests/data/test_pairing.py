"""Slices and labels that are no pairs: the message names the files, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_folder import hpcseg, refused, write_image

from hpcseg.data import store
from hpcseg.data.pairs import find_pairs
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source


def test_a_label_without_an_image_is_named_and_no_image_without_a_label_which_is_no_fault(good, output):
    (good / "labels" / "label2.tif").rename(good / "labels" / "label9.tif")
    said = refused(good, output)
    assert "good/data cannot be used: label label9.tif (number 9) has no image." in said


def test_more_labels_than_images_are_refused_and_asked_whether_they_are_swapped(good, output):
    (good / "data" / "image3.tif").unlink()
    said = refused(good, output)
    assert "there are 3 labels and 2 images; are they swapped?; label label3.tif (number 3) has no image" in said


def test_two_images_of_one_number_are_refused(good, output):
    write_image(good, "02")
    message = refused(good, output)
    assert "image2.tif" in message
    assert "image02.tif" in message


def test_an_image_without_a_number_is_refused(good, output):
    write_image(good, "mean")
    assert "imagemean.tif has no number" in refused(good, output)


def test_a_number_that_all_names_end_in_tells_no_slices_apart(good, output):
    for number in (1, 2, 3):
        (good / "data" / f"image{number}.tif").rename(good / "data" / f"rec_{number:04}_16bit_2x2.tif")
        (good / "labels" / f"label{number}.tif").rename(good / "labels" / f"rec_{number:04}_8bit.tif")
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 0, result.output
    assert store.read_info(output).numbers.tolist() == [1, 2, 3]


def test_a_missing_folder_is_refused(good, output):
    assert f"There is no folder {good / 'nowhere'}." in refused(good / "nowhere", output)


def test_files_that_nobody_sees_are_no_slices(good, output):
    expected = store.read_info(packed_as(good, output)).data_sha256
    for folder in ("data", "labels"):
        for file in list((good / folder).iterdir()):
            # As a Mac leaves them on a disk that is not its own.
            file.with_name(f"._{file.name}").write_bytes(b"\\0\\5\\26\\7\\0\\2\\0\\0Mac OS X        " + bytes(4000))
        (good / folder / ".image9.part.tif").write_bytes(b"II*\\0")
        (good / folder / "Thumbs.db").write_bytes(b"x")
    assert store.read_info(packed_as(good, output.with_name("again.h5"))).data_sha256 == expected


def packed_as(folder: Path, output: Path) -> Path:
    result = hpcseg("pack", folder, "-o", output)
    assert result.exit_code == 0, result.output
    return output


def test_a_folder_without_slices_of_that_name_is_refused_with_the_options_for_others(good, output):
    (good / "data").rename(good / "images")
    message = refused(good, output)
    assert f"There is no {good / 'data'}" in message and "--images SLICES --labels LABELS" in message


def test_an_empty_folder_is_refused(good, output):
    for file in (good / "labels").iterdir():
        file.unlink()
    assert f"{good / 'labels'} holds no .tif, .tiff or .png files" in refused(good, output)


def test_labels_without_images_are_a_question_of_usage(good):
    result = hpcseg("pack", "--labels", good / "labels")
    assert result.exit_code == 2
    assert "--images" in result.stderr


def test_a_stack_of_images_with_labels_for_some_says_how_its_slices_are_numbered(good, output):
    stack = good / "stack.tif"
    pixels = np.stack([np.full((40, 48), number, "uint16") for number in (1, 2, 3, 4)])
    tifffile.imwrite(stack, pixels, photometric="minisblack")
    (good / "labels" / "label1.tif").unlink()
    result = hpcseg("pack", "--images", stack, "--labels", good / "labels", "-o", output)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "2 of 4 slices have no label and are left out, such as stack.tif#1 (number 1)" in said
    assert "slices of stack.tif are numbered from 1; --first says another number" in said
    assert store.read_slices(output, 0, 2)[0][:, 0, 0].tolist() == [2, 3]


def test_pages_of_different_shapes_in_a_stack_are_refused(good, output):
    stack = good / "stack.tif"
    with tifffile.TiffWriter(stack) as writer:
        for height in (40, 41, 40):
            writer.write(np.zeros((height, 48), "uint16"))
    result = hpcseg("pack", "--images", stack, "--labels", good / "labels", "-o", output)
    assert result.exit_code == 3
    assert "stack.tif#2 is 41 x 48 pixels, but stack.tif#1 is 40 x 48" in result.stderr
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("source", ["a pipe", "a name that is too long", "a link to itself"])
def test_a_source_that_is_neither_folder_nor_file_is_refused(good, output, source):
    path = good / ("n" * 300 if source == "a name that is too long" else "images")
    if source == "a pipe":
        os.mkfifo(path)
    elif source == "a link to itself":
        path.symlink_to(path)
    result = hpcseg("pack", "--images", path, "--labels", good / "labels", "-o", output)
    assert result.exit_code == 3
    told = f"There is no folder or file of slices {path}"
    if source == "a pipe":
        told = f"{path} is no folder and no regular file, and is never read"
    assert result.stderr == f"error: {told}.\n"


def test_the_option_that_says_where_a_stack_begins_is_told_before_the_list_is_cut(good, output):
    for number in range(100, 120):
        write_image(good / "many", number)
    stack = np.stack([tifffile.imread(good / "labels" / "label1.tif")] * 20)
    tifffile.imwrite(good / "labels.tif", stack, photometric="minisblack", metadata=None)
    command = ("pack", "--images", good / "many" / "data", "--labels", good / "labels.tif", "-o", output)
    said = " ".join(hpcseg(*command).stderr.split())
    assert (
        "many/data cannot be used: the slices of labels.tif are numbered from 1; --first says another number;" in said
    )
    assert hpcseg(*command, "--first", 100).exit_code == 0


def test_a_file_that_may_not_be_read_is_told_so(good, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "a.h5")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError, match=r"image1\.tif cannot be opened \(.*Permission denied"):
        open_source(good / "data" / "image1.tif")


def test_a_name_that_is_no_utf_8_is_packed_with_its_bytes_as_escapes(good, output):
    for folder, name in (("data", "image2.tif"), ("labels", "label2.tif")):
        os.rename(good / folder / name, os.fsencode(good / folder) + b"/\xff2.tif")
    result = hpcseg("pack", good, "-o", output)
    assert result.exit_code == 0, result.output
    assert store.read_info(output).image_names == ("image1.tif", r"\udcff2.tif", "image3.tif")


def test_a_folder_that_is_no_utf_8_is_packed(good, output):
    folder = os.fsdecode(os.fsencode(good) + b"\xff")
    good.rename(folder)
    command = [sys.executable, "-m", "hpcseg", "pack", folder, "-o", output]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    assert r"\udcff" in store.read_info(output).command


numbers = st.lists(st.integers(0, 30), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(images=numbers, labels=numbers)
def test_slices_and_labels_are_pairs_or_every_odd_label_is_named(images, labels):
    """A number may come twice on a side, written with another number of zeros, or on one side alone.

    Slices without a label are left out, and each label without an image is named.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, of_side in (("data", images), ("labels", labels)):
            (folder / side).mkdir()
            for zeros, number in enumerate(of_side):
                tifffile.imwrite(folder / side / f"{side}-{number:0{zeros + 2}d}.tif", np.array([[number, 1]], "uint8"))

        try:
            pairs = find_pairs(folder / "data", folder / "labels")
        except DatasetError as error:
            if any(len(set(side)) < len(side) for side in (images, labels)):
                assert "both have the number" in str(error)
            else:
                odd = set(labels) - set(images)
                assert odd
                assert all(f"(number {number})" in str(error) for number in odd)
        else:
            assert set(labels) <= set(images)
            assert list(pairs.images.numbers) == list(pairs.labels.numbers) == sorted(labels)
            assert len(pairs.notes) == (len(labels) < len(images))
            assert all(pairs.images.read(index)[0, 0] == pairs.labels.read(index)[0, 0] for index in range(len(pairs)))


@pytest.mark.parametrize("written", ["annotation_{place:04d}_slice{number}", "slice{number}_{place:04d}"])
def test_a_number_that_counts_the_labels_of_some_slices_is_not_taken_for_the_slices(good, output, written):
    for number in range(4, 12):
        write_image(good, f"_{number:04d}")
    for number in (1, 2, 3):
        (good / "data" / f"image{number}.tif").rename(good / "data" / f"image_{number:04d}.tif")
    for place, number in enumerate((3, 7, 11), start=1):
        (good / "labels" / f"label{place}.tif").rename(
            good / "labels" / f"{written.format(place=place, number=number)}.tif"
        )
    said = hpcseg("pack", good, "-o", output)
    assert (
        said.exit_code == 3
        and "has 2 numbers that a slice has" in " ".join(said.stderr.split())
        and "--number" in said.stderr
    )
