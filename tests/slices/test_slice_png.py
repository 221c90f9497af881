"""Slices and labels as PNGs: the pixels that were saved, those of a colour table, and no damaged or coloured file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.predict.layers import open_target
from hpcseg.predict.target import Layer
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, as_labels

MARK = b"\x89PNG\r\n\x1a\n"
SHAPE = (6, 9)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def written(bits: int, rows: list[bytes], width: int, kind: int = 0, table: bytes = b"") -> bytes:
    """A PNG as its specification has it, of rows that are packed already."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    palette = chunk(b"PLTE", table) if table else b""
    return MARK + chunk(b"IHDR", header) + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def grey(number: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, np.iinfo(dtype).max, SHAPE, dtype, endpoint=True)


def save(folder: Path, numbers: range = range(1, 4), dtype: type = np.uint16, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(grey(number, dtype)).save(folder / f"s{number:03}{suffix}", format="PNG")
    return folder


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_grey_values_are_those_that_were_saved(tmp_path, dtype, suffix):
    source = open_source(save(tmp_path / "images", dtype=dtype, suffix=suffix))
    assert source.form == "folder" and source.numbers == (1, 2, 3) and not source.notes
    for index in range(3):
        pixels = source.read(index)
        assert pixels.dtype == dtype and pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, grey(index + 1, dtype))


def test_one_file_is_a_slice(tmp_path):
    source = open_source(save(tmp_path / "images") / "s002.png", Reading(needs_numbers=False))
    assert len(source) == 1
    np.testing.assert_array_equal(source.read(0), grey(2))


def test_few_bits_are_shares_of_white_and_numbers_of_a_table_are_classes(tmp_path):
    of_grey, of_table = tmp_path / "grey", tmp_path / "table"
    for folder in (of_grey, of_table):
        folder.mkdir()
    (of_grey / "s1.png").write_bytes(written(1, [b"\xa0"], 3))
    (of_grey / "s2.png").write_bytes(written(2, [b"\x6c"], 3))
    (of_grey / "s3.png").write_bytes(written(4, [b"\x3f\x10"], 3))
    (of_grey / "s4.png").write_bytes(written(8, [b"\x00\x80\xff"], 3))
    source = open_source(of_grey)
    found = [source.read(index).tolist() for index in range(4)]
    assert found == [[[255, 0, 255]], [[85, 170, 255]], [[51, 255, 17]], [[0, 128, 255]]]

    table = bytes((255, 255, 255, 200, 0, 0, 0, 0, 200, 9, 9, 9))
    for number, (bits, row) in enumerate(((2, b"\x6c"), (4, b"\x12\x30"), (8, b"\1\2\3")), 1):
        (of_table / f"s{number}.png").write_bytes(written(bits, [row], 3, kind=3, table=table))
    labels = as_labels(open_source(of_table, Reading(are_labels=True)))
    assert [labels.read(index).tolist() for index in range(3)] == [[[1, 2, 3]]] * 3
    assert "the slices have a colour table, which is passed over" in " ".join(labels.notes)
    (of_table / "s3.png").write_bytes(written(8, [b"\1\2\3"], 3, kind=3, table=table[::-1]))
    with pytest.raises(DatasetError, match=r"have another ColorMap .*Say how they are to be taken: --pixels stored"):
        open_source(of_table)
    assert open_source(of_table, Reading(pixels="stored")).read(2).tolist() == [[1, 2, 3]]


def test_labels_of_some_slices_are_paired_with_tiffs(tmp_path):
    (images := tmp_path / "images").mkdir()
    for number in (1, 2, 3):
        tifffile.imwrite(images / f"scan_{number:04}_16bit.tif", grey(number))
    labels = save(tmp_path / "labels", range(2, 4), np.uint8)
    pairs = find_pairs(images, labels, Reading())
    assert pairs.images.numbers == (2, 3) and pairs.labels.names == ("s002.png", "s003.png")
    np.testing.assert_array_equal(pairs.labels.read(1), grey(3, np.uint8))


def interlaced_as_saved() -> bytes:
    """Two by two pixels, interlaced: in the passes 1, 6 and 7 (PNG specification, 8.2)."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    return MARK + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\1\0\2\0\3\4")) + chunk(b"IEND", b"")


def test_what_the_format_allows_is_read(tmp_path):
    (tmp_path / "s1.png").write_bytes(interlaced_as_saved())
    assert open_source(tmp_path / "s1.png").read(0).tolist() == [[1, 2], [3, 4]]
    plain = written(8, [b"\1\2", b"\3\4"], 2)
    (tmp_path / "s2.png").write_bytes(plain + b"what some programs leave behind the end")
    assert open_source(tmp_path / "s2.png").read(0).tolist() == [[1, 2], [3, 4]]
    transparent = plain.replace(chunk(b"IEND", b""), b"")[:33] + chunk(b"tRNS", b"\0\2") + plain[33:]
    (tmp_path / "s3.png").write_bytes(transparent)
    assert open_source(tmp_path / "s3.png").read(0).tolist() == [[1, 2], [3, 4]]


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (written(8, [b"\1\2\3"], 3)[:-5], "it was cut short"),
        (written(8, [b"\1\2\3"], 3)[:40], "it was cut short"),
        (MARK, "it was cut short"),
        (b"", "it does not begin as one"),
        (b"\xff\xd8\xff\xe0 JFIF", "it is a JPEG; save it as TIFF"),
        (MARK + chunk(b"IEND", b""), "its header is damaged"),
        (written(8, [b""], 0), "its header is damaged"),
        (written(8, [b"\1\2\3"], 3, kind=5), "its header is damaged"),
        (written(8, [b"\1\2\3"], 1, kind=2), "is not a grey-value image: its shape is (1, 1, 3)"),
        (written(8, [b"\1\2"], 1, kind=4), "is not a grey-value image: its shape is (1, 1, 2)"),
    ],
)
def test_what_is_no_slice_is_refused_by_name(tmp_path, content, told):
    save(tmp_path / "images", dtype=np.uint8)
    (tmp_path / "images" / "s002.png").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_source(tmp_path / "images")
    assert "s002.png" in str(caught.value) and told in str(caught.value)


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(grey(number, np.uint8)) for number in (1, 2)]
    frames[0].save(tmp_path / "s1.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DatasetError, match=r"s1\.png is not a readable PNG file \(it is animated"):
        open_source(tmp_path / "s1.png")


def test_no_changed_byte_of_the_pixels_goes_unseen(tmp_path):
    content = written(16, [grey(1).astype(">u2")[row].tobytes() for row in range(6)], 9)
    first = content.index(b"IDAT") + 4
    for at in range(first, content.index(b"IEND") - 8):
        (tmp_path / "s1.png").write_bytes(changed(content, at))
        with pytest.raises(DatasetError, match=r"the pixels of s1\.png#1 cannot be decoded"):
            open_source(tmp_path / "s1.png").read(0)


def test_rows_that_are_missing_are_refused_also_where_all_sums_are_right(tmp_path):
    few, all_rows = (struct.pack(">IIBBBBB", 3, rows, 8, 0, 0, 0, 0) for rows in (2, 3))
    content = written(8, [b"\1\2\3"] * 2, 3).replace(chunk(b"IHDR", few), chunk(b"IHDR", all_rows))
    (tmp_path / "s1.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"the pixels of s1\.png#1 cannot be decoded"):
        open_source(tmp_path / "s1.png").read(0)


def test_a_few_bytes_that_claim_all_memory_are_refused_before_it_is_taken(tmp_path):
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 0, 0, 0, 0)
    bomb = MARK + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (tmp_path / "s1.png").write_bytes(bomb)
    with pytest.raises(DatasetError, match=r"No compression does that"):
        open_source(tmp_path / "s1.png")


def test_a_large_picture_is_no_warning(tmp_path):
    # Pillow takes more than 2**30 // 12 pixels for an attack.
    row = zlib.compressobj(1)
    pixels = b"".join([*(row.compress(bytes(10_001)) for _ in range(9_000)), row.flush()])
    header = struct.pack(">IIBBBBB", 10_000, 9_000, 8, 0, 0, 0, 0)
    (tmp_path / "s1.png").write_bytes(MARK + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    assert not open_source(tmp_path / "s1.png").read(0).any()


def test_tiffs_are_the_slices_of_a_folder_that_has_both(tmp_path):
    folder = save(tmp_path / "images", range(1, 2))
    tifffile.imwrite(folder / "s001.tif", grey(7))
    tifffile.imwrite(folder / "s002.tif", grey(8))
    assert open_source(folder).names == ("s001.tif", "s002.tif")
    (folder / "s001.tif").unlink()
    with pytest.raises(DatasetError, match=r"s001\.png is named as a slice of which there is no TIFF, and is a PNG"):
        open_source(folder)


def test_another_picture_among_pngs_is_named(tmp_path):
    folder = save(tmp_path / "images")
    (folder / "s004.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DatasetError, match=r"s004\.jpg is named as a slice of which there is no PNG, and is a JPEG"):
        open_source(folder)


def test_labels_of_pngs_are_tiffs_of_their_names(tmp_path):
    volume = open_source(save(tmp_path / "images", range(1, 3)), Reading(needs_numbers=False))
    target = open_target(tmp_path / "out", volume, layers := [Layer("labels", np.dtype("u1"), "")])
    target.prepare()
    for index in range(2):
        target.write(index, {"labels": grey(index, np.uint8)})
    target.finish()
    target.close()
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == ["s001.tif", "s002.tif"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "labels" / "s002.tif"), grey(1, np.uint8))

    save(tmp_path / "images", range(2, 3), suffix=".PNG")
    names = Reading(needs_numbers=False)
    (tmp_path / "images" / "a.png").write_bytes((tmp_path / "images" / "s001.png").read_bytes())
    with pytest.raises(ConfigError, match=r"differ in their suffix only, and labels are TIFFs"):
        open_target(tmp_path / "out", open_source(tmp_path / "images", names), layers)
