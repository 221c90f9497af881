"""Slices come out of any TIFF layout as they went in, in the order of their numbers; faulty sources are refused."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import as_grey_values

COMPRESSIONS = (None, "packbits", "lzw", "zlib", "jpegxl")
FORMATS = [
    (dtype, byteorder, compression)
    for dtype, byteorder, compression in itertools.product(("uint8", "uint16", "float32"), "<>", COMPRESSIONS)
    if (byteorder, compression) != (">", "jpegxl")  # for which there is no encoder
]
HEIGHT, WIDTH = 37, 50  # neither a multiple of 16, so that the last strip is a short one


def slices(count: int, dtype: str) -> np.ndarray:
    """Random grey values with flat runs, over the whole range of the dtype."""
    rng = np.random.default_rng(1)
    values = rng.random((count, HEIGHT, WIDTH)) * (1 if dtype == "float32" else np.iinfo(dtype).max)
    values[:, :, 20:35] = values[:, :1, :1]
    return values.astype(dtype)


def write_folder(folder: Path, stack: np.ndarray, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(stack):
        tifffile.imwrite(folder / f"slice{index + 1:03d}.tif", pixels, **options)
    return folder


def read_all(source: Path) -> np.ndarray:
    opened = open_source(source)
    return np.stack([opened.read(index) for index in range(len(opened))])


def one_slice(folder: Path, name: str, value: int = 7) -> None:
    tifffile.imwrite(folder / name, np.full((4, 5), value, dtype=np.uint16))


@pytest.mark.parametrize(("dtype", "byteorder", "compression"), FORMATS)
def test_a_folder_reads_back_what_was_written(tmp_path, dtype, byteorder, compression):
    stack = slices(2, dtype)
    write_folder(tmp_path, stack, byteorder=byteorder, compression=compression, rowsperstrip=16)

    read = read_all(tmp_path)

    np.testing.assert_array_equal(read, stack)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(("dtype", "byteorder", "compression"), FORMATS)
def test_a_stack_reads_back_its_pages_numbered_from_1(tmp_path, dtype, byteorder, compression, bigtiff):
    stack = slices(3, dtype)
    file = tmp_path / "stack.tif"
    options = {"byteorder": byteorder, "compression": compression, "bigtiff": bigtiff}
    tifffile.imwrite(file, stack, photometric="minisblack", **options)

    assert open_source(file).numbers == (1, 2, 3)
    assert open_source(file).names == ("stack.tif#1", "stack.tif#2", "stack.tif#3")
    np.testing.assert_array_equal(read_all(file), stack)


def test_a_tiled_tiff_reads_back_what_was_written(tmp_path):
    stack = slices(2, "uint16")
    write_folder(tmp_path, stack, tile=(16, 32), compression="zlib")
    np.testing.assert_array_equal(read_all(tmp_path), stack)


def test_a_folder_with_one_multi_page_file_is_a_stack(tmp_path):
    stack = slices(3, "uint8")
    tifffile.imwrite(tmp_path / "labels_2024.tif", stack, photometric="minisblack")
    np.testing.assert_array_equal(read_all(tmp_path), stack)


def test_a_link_to_a_slice_is_one_and_a_link_to_nowhere_is_refused(tmp_path):
    one_slice(tmp_path, "a1.tif")
    (tmp_path / "a2.tif").symlink_to("a1.tif")
    assert open_source(tmp_path).numbers == (1, 2)
    (tmp_path / "a3.tif").symlink_to("gone.tif")
    with pytest.raises(DatasetError, match=r"a3.tif is not a readable TIFF file \(.*No such file"):
        open_source(tmp_path)


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")  # tests may run as root, whom no file mode stops

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatasetError, match=r"cannot be listed: Permission denied"):
        open_source(tmp_path)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    numbers=st.lists(st.integers(0, 99_999), min_size=1, max_size=6, unique=True),
    image_prefix=st.sampled_from(["", "SOCprist", "v2_scan 7-", "ü\n'\"\\"]),
    label_prefix=st.sampled_from(["slice__", "3d_", "x.1."]),
    image_zeros=st.integers(0, 8),
    label_zeros=st.integers(0, 8),
)
def test_every_image_meets_the_label_of_its_own_number(numbers, image_prefix, label_prefix, image_zeros, label_zeros):
    with tempfile.TemporaryDirectory() as folder:
        images, labels = Path(folder, "images"), Path(folder, "labels")
        images.mkdir()
        labels.mkdir()
        for number in numbers:
            pixels = np.full((2, 2), number, dtype=np.float32)
            tifffile.imwrite(images / f"{image_prefix}{number:0{image_zeros}d}.tiff", pixels)
            tifffile.imwrite(labels / f"{label_prefix}{number:0{label_zeros}d}.tif", pixels)

        pairs = find_pairs(images, labels)

        assert [pairs.images.read(index)[0, 0] for index in range(len(pairs))] == sorted(numbers)
        assert [pairs.labels.read(index)[0, 0] for index in range(len(pairs))] == sorted(numbers)


def test_all_faults_of_a_folder_come_in_one_message(tmp_path):
    one_slice(tmp_path, "a1.tif")
    one_slice(tmp_path, "b1.tif")
    one_slice(tmp_path, "nameless.tif")
    (tmp_path / "a2.tif").write_bytes(b"")
    tifffile.imwrite(tmp_path / "a4.tif", np.zeros((2, 4, 5), dtype=np.uint16), photometric="minisblack")

    with pytest.raises(DatasetError) as error:
        open_source(tmp_path)

    message = str(error.value)
    for text in (
        "b1.tif and a1.tif both have the number 1",
        "nameless.tif has no number",
        f"{tmp_path / 'a2.tif'} is not a readable TIFF file",
        "a4.tif has 2 pages",
    ):
        assert text in message


def test_of_many_faults_ten_are_told_and_the_rest_counted(tmp_path):
    for index in range(14):
        one_slice(tmp_path, f"{chr(ord('a') + index)}.tif")
    with pytest.raises(DatasetError, match=r"has no number.*; and 4 more"):
        open_source(tmp_path)


def test_a_number_beyond_64_bits_is_refused(tmp_path):
    one_slice(tmp_path, "scan20240131235959123456.tif")
    with pytest.raises(DatasetError, match=r"scan20240131235959123456.tif has a number of more than 18 digits"):
        open_source(tmp_path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("missing", [1, 300])
def test_a_file_that_was_cut_short_is_refused_at_the_first_look(tmp_path, compression, missing):
    file = write_folder(tmp_path, slices(1, "uint16"), compression=compression) / "slice001.tif"
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(DatasetError, match=rf"slice001.tif .*cut short: {missing} bytes are missing"):
        open_source(tmp_path)


def test_a_file_with_a_strip_left_out_is_refused(tmp_path):
    # A sparse TIFF: offset and byte count of a strip are 0. tifffile reads zeros there.
    file = write_folder(tmp_path, slices(1, "uint16"), rowsperstrip=16) / "slice001.tif"
    with tifffile.TiffFile(file, mode="r+") as tif:
        for tag in ("StripOffsets", "StripByteCounts"):
            values = list(tif.pages[0].tags[tag].value)
            tif.pages[0].tags[tag].overwrite([*values[:-1], 0])
    with pytest.raises(DatasetError, match=r"slice001.tif .*strips are missing"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("StripOffsets", {"rowsperstrip": 16, "compression": "zlib"}),
        ("StripOffsets", {"rowsperstrip": 16}),
        ("TileOffsets", {"tile": (16, 16)}),
    ],
)
def test_a_part_that_is_nowhere_is_refused_though_it_has_a_length(tmp_path, tag, options):
    file = write_folder(tmp_path, slices(1, "uint16"), **options) / "slice001.tif"
    with tifffile.TiffFile(file, mode="r+") as tif:
        values = list(tif.pages[0].tags[tag].value)
        tif.pages[0].tags[tag].overwrite([values[0], 0, *values[2:]])
    with pytest.raises(DatasetError, match=r"slice001.tif .*strips are missing"):
        open_source(tmp_path)


@pytest.mark.parametrize("imagej", [False, True])
def test_a_stack_with_one_header_for_many_slices_is_read_whole_or_refused(tmp_path, imagej):
    stack, file = slices(3, "uint16"), tmp_path / "stack.tif"
    tifffile.imwrite(file, stack, truncate=True, imagej=imagej, photometric="minisblack")
    np.testing.assert_array_equal(read_all(file), stack)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r"stack.tif .*one page header for 3 slices, and 10 bytes are missing"):
        open_source(file)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e40])
def test_grey_values_that_are_infinite_are_refused_with_the_files_name(tmp_path, value):
    stack = slices(1, "float32").astype("float32" if np.isinf(value) else "float64")
    stack[0, 5, 6] = value
    source = as_grey_values(open_source(write_folder(tmp_path, stack)))
    with pytest.raises(DatasetError, match=r"slice001.tif holds infinite values, or such beyond float32"):
        source.read(0)


@pytest.mark.parametrize("dtype", ["uint32", "int32", "bool"])
def test_grey_values_of_other_types_are_refused(tmp_path, dtype):
    source = open_source(write_folder(tmp_path, np.ones((1, 4, 5), dtype=dtype)))
    with pytest.raises(DatasetError, match=rf"{tmp_path} holds {dtype} grey values"):
        as_grey_values(source)


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_colour_slices_are_refused(tmp_path, photometric):
    shape, planar = ((4, 5, 3), "contig") if photometric == "rgb" else ((3, 4, 5), "separate")
    for number in (1, 4, 5):
        colours = tmp_path / f"a{number}.tif"
        tifffile.imwrite(colours, np.zeros(shape, "u1"), photometric=photometric, planarconfig=planar)
    for number in (2, 3):
        tifffile.imwrite(tmp_path / f"a{number}.tif", np.zeros((4, 5), "u1"))
    # The colour slice is at fault, not those that differ from it.
    way = "Fiji's Image > Type > 8-bit" if photometric == "rgb" else "save each as a page"
    with pytest.raises(
        DatasetError, match=rf"used: a1.tif \(and 2 more\) is not a grey-value image: its shape is [^;]*{way}[^;]*$"
    ):
        open_source(tmp_path)


def test_a_missing_and_an_empty_source_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match=r"There is no folder or file of slices .*nowhere"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no slice")
    with pytest.raises(DatasetError, match=r"holds no .tif, .tiff or .png files"):
        open_source(tmp_path)
    (tmp_path / "attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(DatasetError, match=r"of an N5 store; save that as OME-Zarr"):
        open_source(tmp_path)
