"""Slices and labels that cannot be packed, one by one: the message names the file, and nothing is left behind."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import tifffile
from slice_folder import refused, write_image, write_label

from hpcseg.data.pack import pack
from hpcseg.errors import DatasetError


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
    assert "image3.tif is 40 x 49 pixels, but image1.tif is 40 x 48." in refused(good, output)


def test_a_slice_of_another_type_is_refused(good, output):
    write_image(good, 2, value=0, dtype="uint8")
    assert "image2.tif is uint8, but image1.tif is uint16" in refused(good, output)


def test_grey_values_that_are_infinite_are_refused_even_in_the_last_slice(good, output):
    for number in (1, 2, 3):
        write_image(good, number, dtype="float32")
    pixels = tifffile.imread(good / "data" / "image3.tif")
    pixels[-1, -1] = np.inf
    tifffile.imwrite(good / "data" / "image3.tif", pixels)
    assert "image3.tif holds infinite values" in refused(good, output)


def test_labels_of_one_class_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=(128,))
    assert f"All labels in {good / 'labels'} have the one value 128" in refused(good, output)


def test_more_than_255_label_values_are_refused_and_255_are_not(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=range(255), dtype="uint16")
    assert len(pack(good / "data", good / "labels", output, command="test").class_values) == 255
    output.unlink()
    write_label(good, 2, values=range(1, 256), dtype="uint16")
    assert "with label2.tif the labels have more than 255 different values" in refused(good, output)


def test_labels_of_whole_numbers_are_taken_though_they_were_saved_as_floats(good, output):
    for number in (1, 2, 3):
        write_label(good, number, dtype="float32")
    info = pack(good / "data", good / "labels", output, command="test")
    assert (list(info.class_values), info.label_dtype) == ([0, 128, 255], "int32")


def test_labels_of_another_size_than_the_images_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, shape=(48, 40))
    message = refused(good, output)
    assert "images are 40 x 48, labels 48 x 40 pixels" in message
    assert "label1.tif" in message


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("a pipe", "it is no regular file"),  # whose writer would never come
        ("a device", "it is no regular file"),
        ("a link to nowhere", "No such file"),
        ("a link to itself", "Too many levels of symbolic links"),
        ("another format", "it is a PNG"),
        ("a packed one", "it is a gzip file; unpack it"),
        ("a header alone", "it has no pages"),
        ("one of MATLAB", "it is a MAT-file of before version 7.3; `save(NAME, '-v7.3')` makes an HDF5 file of it"),
    ],
)
def test_what_is_no_tiff_file_is_refused_by_name(good, output, kind, told):
    file = good / "data" / "image2.tif"
    file.unlink()
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "another format":
        file.write_bytes(b"\x89PNG\r\n")
    elif kind == "a packed one":
        file.write_bytes(gzip.compress(b"II*\0"))
    elif kind == "one of MATLAB":
        scipy.io.savemat(file, {"volume": np.zeros((3, 4, 5))}, appendmat=False)
    elif kind == "a header alone":
        file.write_bytes(b"II*\0\0\0\0\0")
    else:
        file.symlink_to({"a device": "/dev/zero", "a link to nowhere": "gone.tif", "a link to itself": file.name}[kind])
    message = refused(good, output)
    assert f"{file} is not a readable TIFF file" in message
    assert told in message


def test_a_list_of_pages_that_is_a_ring_is_refused(good, output):
    file = good / "data" / "image2.tif"
    content = bytearray(file.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * tags, first)
    file.write_bytes(content)
    assert "its list of pages is a ring" in refused(good, output)


def overwrite(file, tag, value):
    with tifffile.TiffFile(file, mode="r+") as tif:
        tif.pages[0].tags[tag].overwrite(value, dtype="I")


# tifffile leaves rows without a strip at 0 and says so in its log alone.
@pytest.mark.parametrize("compression", [None, "packbits", "zlib"])
@pytest.mark.parametrize(("tag", "value"), [("ImageLength", 4_000_000_000), ("ImageLength", 80)])
def test_a_header_that_promises_more_than_there_is_is_refused(good, output, compression, tag, value):
    for file in [*(good / "data").iterdir(), *(good / "labels").iterdir()]:
        tifffile.imwrite(file, tifffile.imread(file), compression=compression)
        overwrite(file, tag, value)
    assert "image1.tif is not a readable TIFF file (strips are missing)" in refused(good, output)


def test_a_damaged_file_is_told_of_once_and_not_by_the_log_of_tifffile_too(good, output):
    overwrite(good / "data" / "image1.tif", "ImageLength", 80)
    command = [sys.executable, "-m", "hpcseg", "pack", good, "-o", output]  # pytest takes the log for itself
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 3
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_dimensions_that_fit_no_memory_are_refused_and_take_none(good, output):
    for file in [*(good / "data").iterdir(), *(good / "labels").iterdir()]:
        for tag in ("ImageLength", "ImageWidth", "RowsPerStrip"):
            overwrite(file, tag, 1_000_000)
    assert ".tif is not a readable TIFF file (it was cut short: " in refused(good, output)
    # Each promises a terabyte. What may be reserved and never written to is no memory.
    peak = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    command = [sys.executable, "-c", f"from hpcseg.cli.app import main\ntry: main()\nfinally: {peak}", "pack", good]
    result = subprocess.run([*command, "-o", output], capture_output=True, text=True, timeout=60)
    assert result.returncode == 3 and result.stderr.count("\n") == 1, result.stderr
    _, kib, unit = result.stdout.split()
    assert unit == "kB" and 0 < int(kib) < 2**20


def test_slices_without_pixels_are_refused(good, output):
    for file in (good / "data").iterdir():
        overwrite(file, "ImageLength", 0)
    assert "image1.tif is not a readable TIFF file (it has no pixels)" in refused(good, output)


def test_an_unknown_compression_is_refused(good, output):
    with tifffile.TiffFile(good / "data" / "image2.tif", mode="r+") as tif:
        tif.pages[0].tags["Compression"].overwrite(12345)
    assert "image2.tif cannot be decoded (12345 is not a known COMPRESSION)" in refused(good, output)


@pytest.mark.parametrize("values", [(0.5, 1), (np.nan, 1), (np.inf, 1), (3e9, 1)])
def test_labels_that_are_fractions_or_no_numbers_are_refused(good, output, values):
    for number in (1, 2, 3):
        write_label(good, number, values=values, dtype="float32")
    # Half of 40 x 48 pixels.
    told = f"label1.tif has 960 pixels of no whole number below {2**31 - 1}, such as {values[0]:g}, but a class is one"
    assert told in refused(good, output)


def test_label_values_beyond_64_bits_are_refused(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=(1, 2**63), dtype="uint64")
    assert f"have the value {2**63}" in refused(good, output)


def test_a_label_that_changes_while_it_is_packed_is_refused(good, output):
    for number in range(4, 41):  # of which the last is not among those looked at first
        write_image(good, number)
        write_label(good, number)

    fresh = iter((77, 78))

    def change(done, _):
        if done == 1:  # of the first pass, and of the one after the new value was found
            write_label(good, 40, values=(0, next(fresh)))

    with pytest.raises(DatasetError, match=r"label40.tif was changed while it was packed"):
        pack(good / "data", good / "labels", output, command="test", on_slice=change)
    assert list(output.parent.iterdir()) == []


def test_a_colour_image_is_refused(good, output):
    tifffile.imwrite(good / "data" / "image2.tif", np.zeros((40, 48, 3), "uint8"), photometric="rgb")
    assert "image2.tif is not a grey-value image" in refused(good, output)


def test_whole_numbers_of_32_bits_are_refused(good, output):
    for number in (1, 2, 3):
        write_image(good, number, dtype="uint32")
    assert f"{good / 'data'} holds uint32 grey values" in refused(good, output)
