"""What headers say of pixels is the same for all slices, and applied or named; descriptions never outvote headers."""

from __future__ import annotations

import json
import struct

import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from written import read_all

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.random.default_rng(2).integers(0, 200, (4, 9, 14), dtype=np.uint8)
INVERTED = (1, 3)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="14" SizeY="9" SizeZ="40" SizeC="1" SizeT="1"><Channel '
    'ID="Channel:0:0" SamplesPerPixel="1"/><TiffData/></Pixels></Image></OME>'
)


def write(folder, planes=VOLUME, each=lambda index: {}):
    folder.mkdir()
    for index, pixels in enumerate(planes):
        tifffile.imwrite(folder / f"s{index}.tif", pixels, **{"metadata": None, **each(index)})
    return folder


def turned_by_pillow(pixels, value):
    """As photographs are, whose EXIF has the Orientation of TIFF."""
    image = Image.fromarray(pixels)
    image.getexif()[274] = value
    return np.asarray(ImageOps.exif_transpose(image))


def orientation(value):
    return {"extratags": [(274, "H", 1, value, True)]}


def test_slices_of_which_some_have_0_as_white_are_refused_until_it_is_said_how_they_are_taken(tmp_path):
    stored = VOLUME.copy()
    stored[list(INVERTED)] = 255 - stored[list(INVERTED)]
    folder = write(
        tmp_path / "in", stored, lambda index: {"photometric": "miniswhite" if index in INVERTED else "minisblack"}
    )
    with pytest.raises(DatasetError, match=r"2 of 4 slices, such as s1.tif, .*PhotometricInterpretation.*--pixels"):
        open_source(folder)
    np.testing.assert_array_equal(read_all(open_source(folder, Reading(pixels="shown"))), VOLUME)
    np.testing.assert_array_equal(read_all(open_source(folder, Reading(pixels="stored"))), stored)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_slices_that_all_have_0_as_white_are_inverted_with_a_note(tmp_path, dtype):
    planes = VOLUME > 100 if dtype == "bool" else VOLUME.astype(dtype)
    stored = ~planes
    source = open_source(write(tmp_path / "in", stored, lambda index: {"photometric": "miniswhite"}))
    np.testing.assert_array_equal(read_all(source), planes)
    assert "4 of 4 slices are stored with 0 as white and were inverted" in source.notes[0]


@pytest.mark.parametrize("value", range(1, 9))
def test_slices_are_turned_as_their_orientation_says(tmp_path, value):
    folder = write(tmp_path / "in", each=lambda index: orientation(value))
    source = open_source(folder)
    shown = np.stack([turned_by_pillow(pixels, value) for pixels in VOLUME])
    np.testing.assert_array_equal(read_all(source), shown)
    assert source.shapes[0] == shown.shape[1:] and source.orientation == value
    assert any(f"Orientation {value}" in note for note in source.notes) == (value > 1)


def test_slices_and_labels_of_other_orientations_are_no_pairs_until_it_is_said_how_they_are_taken(tmp_path):
    images = write(tmp_path / "images", VOLUME[:, ::-1], lambda index: orientation(4))
    labels = write(tmp_path / "labels", VOLUME % 3)
    with pytest.raises(DatasetError, match=r"images lie in Orientation 4 and labels in 1.*--pixels shown or --pixels"):
        find_pairs(images, labels)
    pairs = find_pairs(images, labels, Reading(pixels="shown"))
    np.testing.assert_array_equal(read_all(pairs.images) % 3, read_all(pairs.labels))
    turned = write(tmp_path / "turned", VOLUME[:, ::-1] % 3, lambda index: orientation(4))
    pairs = find_pairs(images, turned)
    np.testing.assert_array_equal(read_all(pairs.images) % 3, read_all(pairs.labels))


def test_labels_with_a_colour_table_are_their_values_and_two_tables_are_refused(tmp_path):
    tables = np.random.default_rng(3).integers(0, 65536, (2, 3, 256), dtype=np.uint16)
    one = open_source(write(tmp_path / "one", each=lambda index: {"photometric": "palette", "colormap": tables[0]}))
    np.testing.assert_array_equal(read_all(one), VOLUME)
    assert "colour table" in one.notes[0]
    two = write(tmp_path / "two", each=lambda index: {"photometric": "palette", "colormap": tables[index // 3]})
    for pixels in (None, "shown"):  # no colour is a class
        with pytest.raises(DatasetError, match=r"1 of 4 slices, such as s3.tif, have another ColorMap.*: --pixels"):
            open_source(two, Reading(pixels=pixels))
    np.testing.assert_array_equal(read_all(open_source(two, Reading(pixels="stored"))), VOLUME)


def test_thumbnails_and_masks_among_the_pages_are_no_slices(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for pixels in VOLUME:
            tif.write(pixels, metadata=None)
            tif.write(pixels[::2, ::2], subfiletype=1, metadata=None)
            tif.write(pixels > 9, subfiletype=4, metadata=None)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME)


def flagged(path, flags):
    with tifffile.TiffWriter(path) as tif:
        for flag, pixels in zip(flags, VOLUME, strict=True):
            tif.write(pixels, metadata=None, subfiletype=flag)
    return path


def test_a_page_as_large_as_others_that_is_flagged_as_a_thumbnail_is_refused_until_it_is_said_what_it_is(tmp_path):
    path = flagged(tmp_path / "a.tif", (0, 0, 1, 0))
    with pytest.raises(DatasetError, match=r"1 of its pages are as large as others and flagged .*: --pixels stored"):
        open_source(path)
    np.testing.assert_array_equal(read_all(open_source(path, Reading(pixels="stored"))), VOLUME)


def test_a_preview_as_large_as_its_slice_behind_each_is_none(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for pixels in VOLUME:
            tif.write(pixels, metadata=None)
            tif.write(pixels[::-1], metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME)
    assert len(open_source(tmp_path / "a.tif", Reading(pixels="stored"))) == 8


@pytest.mark.parametrize("flag", [1, 3])
def test_pages_that_are_all_flagged_as_thumbnails_are_slices(tmp_path, flag):
    np.testing.assert_array_equal(read_all(open_source(flagged(tmp_path / "a.tif", (flag,) * 4))), VOLUME)


def test_pages_that_are_thumbnails_of_hidden_pictures_are_no_slices_until_it_is_said_so(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for pixels in VOLUME:
            tif.write(pixels[::2, ::2], metadata=None, subfiletype=1, subifds=1)
            tif.write(pixels, metadata=None)
    with pytest.raises(DatasetError, match=r"flagged as thumbnails .*in SubIFDs.*--pixels stored"):
        open_source(tmp_path / "a.tif")
    stored = open_source(tmp_path / "a.tif", Reading(pixels="stored"))
    np.testing.assert_array_equal(read_all(stored), VOLUME[:, ::2, ::2])


def test_a_thumbnail_of_each_slice_lies_between_those_that_are_flagged(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for index, pixels in enumerate(VOLUME):
            tif.write(pixels[::2, ::2], metadata=None, subfiletype=1)
            tif.write(pixels, metadata=None, subfiletype=index % 2)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif", Reading(pixels="stored"))), VOLUME)


def test_two_stacks_in_one_file_are_not_one_volume(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(VOLUME, photometric="minisblack")
        tif.write(VOLUME[::-1][:2], photometric="minisblack")
    with pytest.raises(DatasetError, match=r"it is 2 stacks, the first of 4 slices and the next of 2.*--pixels stored"):
        open_source(tmp_path / "a.tif")
    both = open_source(tmp_path / "a.tif", Reading(pixels="stored"))
    np.testing.assert_array_equal(read_all(both), np.concatenate([VOLUME, VOLUME[::-1][:2]]))


def test_slices_that_python_wrote_one_by_one_are_one_volume_also_with_thumbnails(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for pixels in VOLUME:
            tif.write(pixels, compression="zlib")
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME)
    with tifffile.TiffWriter(tmp_path / "b.tif") as tif:
        tif.write(VOLUME, photometric="minisblack")
        tif.write(VOLUME[:, ::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "b.tif")), VOLUME)


def test_slices_of_other_voxels_than_the_first_are_named(tmp_path):
    def resolution(first, unit):
        return lambda index: {"resolution": (2, 2) if index < first else (4, 4), "resolutionunit": unit}

    source = open_source(write(tmp_path / "in", each=resolution(2, 3)))
    assert source.voxel.width == 0.5
    assert "2 of 4 slices, such as s2.tif, say another size of a pixel" in source.notes[0]
    for name, first, unit in (("alike", 4, 3), ("no unit", 2, 2)):  # a resolution in inches says no size
        notes = open_source(write(tmp_path / name, each=resolution(first, unit))).notes
        assert not any("XResolution" in note for note in notes)


def test_slices_of_one_size_of_a_voxel_that_say_it_in_other_words_or_say_none_are_not_named(tmp_path):
    def micrometers(width, unit="um", **more):
        return {"imagej": True, "resolution": (1 / width, 1 / width), "metadata": {"unit": unit, **more}}

    ways = {
        "of another ratio": {"resolution": ((1538462, 1000000),) * 2, "resolutionunit": 3},
        "in micrometres": micrometers(6500),
        "in millimetres": micrometers(6.5, "mm"),
        "without one": {},
        "with another description": micrometers(6500, Info="of slice 1"),
    }
    for name, other in ways.items():
        first = {"resolution": ((20, 13), (20, 13)), "resolutionunit": 3}  # 0.65 cm
        source = open_source(write(tmp_path / name, each=lambda index, ways=(first, other): ways[index % 2]))
        assert source.voxel.unit == "cm" and source.voxel.width == pytest.approx(0.65)
        assert not any("another size" in note for note in source.notes), name
    said = (micrometers(0.65), micrometers(0.65, "mm"))
    source = open_source(write(tmp_path / "a thousand times larger", each=lambda index: said[index == 3]))
    assert "1 of 4 slices, such as s3.tif, say another size of a pixel" in "".join(source.notes)


DESCRIPTIONS = {
    "ImageJ's stack": "ImageJ=1.53t\nimages=40\nslices=40\n",
    "ImageJ's channels": "ImageJ=1.53t\nimages=3\nchannels=3\nmode=composite\n",
    "ImageJ's nonsense": "ImageJ=1.53t\nimages=many\nslices=\nspacing=abc\nunit=\\u00ZZ\n",
    "tifffile's shape": json.dumps({"shape": [40, 9, 14]}),
    "OME": OME,
    "half of OME": OME[:150],
}


@pytest.mark.parametrize("text", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_split_from_a_stack_are_slices_whatever_their_description_still_says(tmp_path, text, compression):
    def options(index):
        return {"description": text.encode(), "compression": compression, "photometric": "minisblack"}

    np.testing.assert_array_equal(read_all(open_source(write(tmp_path / "in", each=options))), VOLUME)


@pytest.mark.parametrize("behind", [0, 100, 5 * VOLUME[0].nbytes, 100 * VOLUME[0].nbytes])
def test_other_bytes_behind_such_a_page_are_no_slices(tmp_path, behind):
    def options(index):
        return {"description": DESCRIPTIONS["ImageJ's stack"].encode(), "photometric": "minisblack"}

    folder = write(tmp_path / "in", each=options)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes() + bytes(behind))
    np.testing.assert_array_equal(read_all(open_source(folder)), VOLUME)


@pytest.mark.parametrize("text", [DESCRIPTIONS["ImageJ's nonsense"], DESCRIPTIONS["half of OME"]])
def test_a_stack_whose_description_is_nonsense_is_its_pages(tmp_path, text):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for index, pixels in enumerate(VOLUME):
            tif.write(pixels, description=None if index else text.encode(), metadata=None, contiguous=False)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME)


def test_axes_that_contradict_the_pages_do_not_count(tmp_path):
    text = "ImageJ=1.54f\nimages=4\nslices=5\nframes=7\n"
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, photometric="minisblack", description=text, metadata=None)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME)


def test_one_page_that_says_it_is_of_many_is_taken_where_the_user_says_so(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], description=DESCRIPTIONS["ImageJ's channels"], metadata=None)
    with pytest.raises(DatasetError, match=r"one page header for 3 slices, and 252 bytes are missing.*--pixels stored"):
        open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif", Reading(pixels="stored"))), VOLUME[:1])


# 9 rows of 14 pixels in strips of 4, 4 and 1 rows: 56, 56 and 14 bytes.
@pytest.mark.parametrize("counts", [(56, 56, 56), (0, 0, 0), (9, 9, 9)], ids=["of a full strip", "zero", "too short"])
def test_byte_counts_that_lie_do_not_count_where_the_rows_say_how_long_strips_are(tmp_path, counts):
    folder = write(tmp_path / "in", each=lambda index: {"rowsperstrip": 4})
    for file in folder.iterdir():
        with tifffile.TiffFile(file, mode="r+") as tif:
            tif.pages.first.tags["StripByteCounts"].overwrite(counts)
    source = open_source(folder)
    np.testing.assert_array_equal(read_all(source), VOLUME)
    for name, pixels in zip(source.names, VOLUME, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), pixels)


@pytest.mark.parametrize("options", [{}, {"compression": "packbits"}, {"tile": (16, 16)}], ids=str)
def test_a_predictor_counts_with_no_compression_that_has_none(tmp_path, options):
    """As libtiff has it, and so Pillow."""
    options |= {"software": False, "byteorder": "<", "extratags": [(65000, 3, 1, 2)]}
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None, **options)
    as_predictor = struct.pack("<HHI", 65000, 3, 1), struct.pack("<HHI", 317, 3, 1)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes().replace(*as_predictor))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages.first.predictor == 2
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME[:1])


def test_one_strip_that_has_all_rows_is_all_there_whatever_is_said_of_its_rows(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        tif.pages.first.tags["RowsPerStrip"].overwrite(1)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME[:1])


@pytest.mark.parametrize(("at", "kind", "value"), [(4, "<I", 2), (4, "<I", 0), (2, "<H", 1)])
def test_a_width_that_is_no_number_is_refused_with_the_file_it_is_in(tmp_path, at, kind, value):
    for name in ("s1.tif", "s2.tif"):
        tifffile.imwrite(tmp_path / name, VOLUME[0], metadata=None, software=None, compression="zlib")
    content = bytearray((tmp_path / "s2.tif").read_bytes())
    (header,) = struct.unpack_from("<I", content, 4)
    (entry,) = (
        place
        for place in range(header + 2, header + 2 + 12 * struct.unpack_from("<H", content, header)[0], 12)
        if struct.unpack_from("<H", content, place)[0] == 256
    )
    struct.pack_into(kind, content, entry + at, value)
    (tmp_path / "s2.tif").write_bytes(content)
    with pytest.raises(DatasetError, match=r"s2.tif is not a readable TIFF file \(its size is"):
        open_source(tmp_path)


def packed_bits(pixels, bits):
    """Rows of samples of fewer than 8 or 16 bits, as TIFF has them."""
    each = (pixels[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(each.reshape(len(pixels), -1).astype(np.uint8), axis=1)


def write_bits(path, pixels, bits, *, white=False):
    """An image of any number of bits per sample, which tifffile does not write uncompressed."""
    rows = packed_bits(pixels, bits)
    tifffile.imwrite(path, rows, metadata=None, rowsperstrip=len(rows))
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag, value in (("ImageWidth", pixels.shape[1]), ("BitsPerSample", bits)):
            tif.pages.first.tags[tag].overwrite(value)
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(0 if white else 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_samples_of_few_bits_are_inverted_in_their_own_range(tmp_path, bits):
    pixels = VOLUME.astype(np.uint16)[:, :, :12] * 20 % 2**bits
    for name, white in (("plain", False), ("white", True)):
        (tmp_path / name).mkdir()
        for index, one in enumerate(pixels):
            write_bits(tmp_path / name / f"s{index}.tif", 2**bits - 1 - one if white else one, bits, white=white)
        np.testing.assert_array_equal(read_all(open_source(tmp_path / name)), pixels)


def test_slices_of_another_number_of_bits_are_refused_until_it_is_said_how_they_are_taken(tmp_path):
    """As of a camera of 12 bits, or masks of 1 bit whose white is 1 and those of 8 whose white is 255."""
    pixels = VOLUME.astype(np.uint16)[:, :, :12]
    folder = write(tmp_path / "in", pixels)
    write_bits(folder / "s2.tif", pixels[2], 12)
    for taken in (None, "shown"):
        with pytest.raises(DatasetError, match=r"such as s2.tif, have another BitsPerSample.*: --pixels"):
            open_source(folder, Reading(pixels=taken))
    np.testing.assert_array_equal(read_all(open_source(folder, Reading(pixels="stored"))), pixels)


def test_ome_metadata_that_count_fewer_pages_than_there_are_do_not_drop_the_others_in_silence(tmp_path):
    text = OME.replace('SizeZ="40"', 'SizeZ="3"').replace("<TiffData/>", '<TiffData PlaneCount="3"/>')
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for index, pixels in enumerate(VOLUME):
            tif.write(pixels, description=None if index else text.encode(), metadata=None, contiguous=False)
    with pytest.raises(DatasetError, match=r"has 4 pages, and its OME metadata count 3 of them.*::0, or all.*--pixels"):
        open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif", Reading(dataset="0"))), VOLUME[:3])
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif", Reading(pixels="stored"))), VOLUME)


@pytest.mark.parametrize(
    ("flags", "ends", "wanted"),
    [
        (None, None, np.int8),
        (0, None, np.uint8),
        (1, None, np.int8),
        (None, (0, 234), np.uint8),
        (1, (0, 234), np.int8),
    ],
)
def test_bytes_of_an_mrc_file_are_unsigned_where_its_header_says_so(tmp_path, flags, ends, wanted):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VOLUME.view(np.int8))
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    if flags is not None:
        struct.pack_into("<ii", content, 152, 1146047817, flags)  # imodStamp and imodFlags
    if ends is not None:
        struct.pack_into("<ff", content, 76, *ends)  # of the pixels
    (tmp_path / "a.mrc").write_bytes(content)
    source = open_source(tmp_path / "a.mrc")
    read = read_all(source)
    assert read.dtype == source.dtype == wanted
    np.testing.assert_array_equal(read, VOLUME.view(wanted))


def stack_of(path, volume, affine=None):
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine), path)
    return path


def test_a_line_of_pixels_is_no_slice(tmp_path):
    nibabel.save(nibabel.Nifti1Image(VOLUME[0, 0], np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DatasetError, match=r"a.nii is \(14,\) uint8, and slices"):
        open_source(tmp_path / "a.nii")


def test_labels_whose_headers_say_that_they_lie_elsewhere_are_told_of(tmp_path):
    labels, moved = (VOLUME > 100).astype(np.uint8), np.diag([2.0, 2.0, 3.0, 1.0])
    moved[:3, 3] = 0, 0.9, 6
    images = stack_of(tmp_path / "i.nii", VOLUME)
    told = find_pairs(images, stack_of(tmp_path / "l.nii", labels, moved)).notes
    assert any("labels begin 2.0 x 0.45 x 0.0 voxels (depth, height, width) from the images" in note for note in told)
    moved[2, 3] = 1.4
    assert not find_pairs(images, stack_of(tmp_path / "l.nii", labels, moved)).notes
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VOLUME.astype(np.uint16))
        file.header.mapc, file.header.maps = 3, 1
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack", metadata=None)
    (note,) = find_pairs(tmp_path / "a.mrc", tmp_path / "l.tif").notes
    assert "axes of the images point to ZYX, which is passed over, and none says so of the labels" in note
    assert not find_pairs(tmp_path / "a.mrc", tmp_path / "l.tif", Reading(pixels="stored")).notes


def test_images_and_labels_of_nifti_point_to_the_same_sides_or_are_refused(tmp_path):
    labels = (VOLUME > 100).astype(np.uint8)
    images = stack_of(tmp_path / "i.nii", VOLUME)
    assert find_pairs(images, stack_of(tmp_path / "l.nii", labels)).labels.read(0).tolist() == labels[0].tolist()
    mirrored = stack_of(tmp_path / "m.nii", labels[..., ::-1], np.diag([-2.0, 2.0, 3.0, 1.0]))
    exchanged = np.diag([2.0, 2.0, 3.0, 1.0])[[1, 0, 2, 3]]
    for path, points_to in ((mirrored, "LAS"), (stack_of(tmp_path / "e.nii", labels, exchanged), "ARS")):
        told = f"axes of the images point to RAS and those of the labels to {points_to}.*--pixels stored"
        with pytest.raises(DatasetError, match=told):
            find_pairs(images, path)
        find_pairs(images, path, Reading(pixels="stored"))
    silent = nibabel.Nifti1Image(np.ascontiguousarray(labels.transpose(2, 1, 0)), None)
    nibabel.save(silent, tmp_path / "s.nii")
    nonsense = bytearray((tmp_path / "s.nii").read_bytes())
    struct.pack_into("<h", nonsense, 254, 1)  # sform_code
    struct.pack_into("<f", nonsense, 280, np.nan)  # the first of srow_x
    (tmp_path / "n.nii").write_bytes(nonsense)
    for path in (tmp_path / "s.nii", tmp_path / "n.nii"):
        assert find_pairs(images, path).labels.read(0).tolist() == labels[0].tolist(), "nobody says where they point to"
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack", metadata=None)
    assert len(find_pairs(images, tmp_path / "l.tif")) == len(VOLUME)
    turned = write(tmp_path / "turned", labels[:, ::-1, ::-1], lambda index: orientation(3))
    with pytest.raises(DatasetError, match="images lie in Orientation 1 and labels in 3"):
        find_pairs(images, turned, Reading(first=0))


def test_pages_that_a_description_counts_and_the_chain_has_not_are_missed(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.tile(VOLUME, (3, 1, 1)), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        offset = tif.pages[6].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (tags,) = struct.unpack_from("<H", content, offset)
    struct.pack_into("<I", content, offset + 2 + 12 * tags, 0)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DatasetError, match="its description counts 12 slices, and it has 7"):
        open_source(tmp_path / "a.tif")
    assert len(open_source(tmp_path / "a.tif", Reading(pixels="stored"))) == 7


@pytest.mark.parametrize("shape", [[4, 18, 28], [4, 9, 14, 3], [4, 12, 14], [9, 14, 3]])
@pytest.mark.parametrize("pages", [1, 4])
def test_a_shape_of_other_pages_than_these_counts_none(tmp_path, shape, pages):
    """As where they were resized, cut or made grey since."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for index, pixels in enumerate(VOLUME[:pages]):
            text = None if index else json.dumps({"shape": shape})
            tif.write(pixels, description=text, metadata=None, contiguous=False, photometric="minisblack")
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.tif")), VOLUME[:pages])


@pytest.mark.parametrize("described", [{"imagej": True, "metadata": {"axes": "ZYX"}}, {}])
def test_a_stack_with_one_page_header_is_no_slice_of_a_folder(tmp_path, described):
    (tmp_path / "in").mkdir()
    for part in (1, 2):
        tifffile.imwrite(tmp_path / f"in/part{part}.tif", VOLUME, truncate=True, photometric="minisblack", **described)
    with pytest.raises(DatasetError, match=r"part1.tif has 4 pages; a folder holds one slice per file"):
        open_source(tmp_path / "in")


def test_the_metadata_of_an_ome_tiff_beside_its_files_are_no_slice(tmp_path):
    folder = write(tmp_path / "in")
    (folder / "scan.companion.ome").write_text(OME)
    np.testing.assert_array_equal(read_all(open_source(folder)), VOLUME)


@pytest.mark.parametrize("compression", ["packbits", "lerc"])
def test_a_predictor_that_tifffile_alone_reads_counts_where_tifffile_wrote_it(tmp_path, compression):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:  # whose first page alone says who did
        for pixels in VOLUME:
            tif.write(pixels, compression=compression, predictor=True)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.notes == ()
