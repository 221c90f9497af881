"""Parts that are not there are refused with what is missing, where libraries read fill values without a word."""

from __future__ import annotations

import struct

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.arange(6 * 10 * 12, dtype=np.uint16).reshape(6, 10, 12)


def virtual(path, frames=VOLUME[:3], name="data"):
    """Two files of three slices each, of which the second is as the test says."""
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    for part in (0, 1):
        layout[3 * part : 3 * part + 3] = h5py.VirtualSource(f"part{part}.h5", "data", (3, 10, 12))
        with h5py.File(path.with_name(f"part{part}.h5"), "w") as file:
            file["data" if part == 0 else name] = VOLUME[:3] if part == 0 else frames
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    return path


def no_virtual_file(path):
    virtual(path)
    path.with_name("part1.h5").unlink()


def no_virtual_dataset(path):
    virtual(path, name="other")


def short_virtual_file(path):
    virtual(path, frames=VOLUME[:2])


def unmapped(path):
    virtual(path)
    layout = h5py.VirtualLayout((7, 10, 12), "u2")
    layout[:3] = h5py.VirtualSource("part0.h5", "data", (3, 10, 12))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def unwritten_in_a_virtual_file(path):
    virtual(path)
    with h5py.File(path.with_name("part1.h5"), "w") as file:
        file.create_dataset("data", (3, 10, 12), "u2", chunks=(1, 10, 12))[:2] = VOLUME[:2]


def overlapping(path):
    """As many pixels are mapped as there are, but two slices twice, and others never."""
    virtual(path)
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    for first in (0, 1):
        layout[first : first + 3] = h5py.VirtualSource("part0.h5", "data", (3, 10, 12))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def hole_in_a_virtual_file_of_a_virtual_file(path):
    overlapping(path.with_name("middle.h5"))
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[:] = h5py.VirtualSource("middle.h5", "data", VOLUME.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def no_file_with_a_percent_sign(path):
    """%% is one in names of virtual data sets, in which %b is counted up."""
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[:] = h5py.VirtualSource("100%%_dose.h5", "data", VOLUME.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def no_virtual_file_in_another_folder(path):
    path.with_name("scan").mkdir()
    no_virtual_file(path.with_name("scan") / "a.h5")
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink("scan/a.h5", "data")


def unwritten_corner(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", VOLUME.shape, "u2", chunks=(2, 5, 12))
        data[:4], data[4:, :5] = VOLUME[:4], VOLUME[4:, :5]


def unwritten_behind_a_channel(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (1, *VOLUME.shape), "u2", chunks=(1, 2, 5, 12))
        data[0, :4] = VOLUME[:4]


def never_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", VOLUME.shape, "u2")


def external(path):
    with h5py.File(path, "w") as file:
        parts = [("a.raw", 0, VOLUME.nbytes // 2), ("b.raw", 8, VOLUME.nbytes // 2)]
        file.create_dataset("data", VOLUME.shape, "u2", external=parts)
    path.with_name("a.raw").write_bytes(VOLUME[:3].tobytes())
    path.with_name("b.raw").write_bytes(bytes(8) + VOLUME[3:].tobytes()[:-5])


def external_without_end(path):
    external(path)
    with h5py.File(path, "w") as file:
        parts = [("a.raw", 0, VOLUME.nbytes // 2), ("b.raw", 8, h5py.h5f.UNLIMITED)]
        file.create_dataset("data", VOLUME.shape, "u2", external=parts)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (no_virtual_file, r"part1.h5 \(data\) is not there"),
        (no_virtual_dataset, r"part1.h5 \(data\) is not there"),
        (short_virtual_file, r"part1.h5 has \(2, 10, 12\) in data, and \(3, 10, 12\) is needed"),
        (unmapped, "none of them has 480 of its pixels"),
        (overlapping, "none of them has 240 of its pixels"),
        (hole_in_a_virtual_file_of_a_virtual_file, "middle.h5.*none of them has 240 of its pixels"),
        (no_file_with_a_percent_sign, r"100%_dose.h5 \(data\) is not there"),
        (no_virtual_file_in_another_folder, r"part1.h5 \(data\) is not there"),
        (
            unwritten_in_a_virtual_file,
            "part1.h5: of the 3 chunks of data 1 were never written, from slice 3 to slice 3",
        ),
        (unwritten_corner, "of the 6 chunks of data 1 were never written, from slice 5 to slice 6"),
        (unwritten_behind_a_channel, "of the 6 chunks of data 2 were never written, from slice 5 to slice 6"),
        (never_written, "data was never written"),
        (external, r"b.raw, where 5 bytes are missing"),
        (external_without_end, r"b.raw, where 5 bytes are missing"),
    ],
)
def test_parts_of_an_hdf5_file_that_are_not_there_are_named(tmp_path, write, told):
    write(tmp_path / "a.h5")
    with pytest.raises(DatasetError, match=rf"a.h5.*{told}"):
        open_source(tmp_path / "a.h5")


@pytest.mark.parametrize("moved", ["in another folder", "absolute paths", "a link to the file"])
def test_files_of_a_virtual_data_set_are_found_where_hdf5_finds_them(tmp_path, moved):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    virtual(old / "a.h5", frames=VOLUME[3:])
    if moved == "absolute paths":
        layout = h5py.VirtualLayout(VOLUME.shape, "u2")
        for part in (0, 1):
            layout[3 * part : 3 * part + 3] = h5py.VirtualSource(old / f"part{part}.h5", "data", (3, 10, 12))
        with h5py.File(old / "a.h5", "w") as file:
            file.create_virtual_dataset("data", layout)
    old.rename(new)
    if moved == "in another folder":
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data"] = h5py.ExternalLink("new/a.h5", "data")
    else:
        (tmp_path / "a.h5").symlink_to(new / "a.h5")
    source = open_source(new / "a.h5" if moved == "absolute paths" else tmp_path / "a.h5")
    np.testing.assert_array_equal([source.read(index) for index in range(len(source))], VOLUME)
    assert {path.name for path in source.files} == {"a.h5", "part0.h5", "part1.h5"}


def cut_chain(path):
    """The fourth of six pages is gone, and with it the rest of the list."""
    with tifffile.TiffWriter(path) as tif:
        for pixels in VOLUME:
            tif.write(pixels, metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[3].offset
    path.write_bytes(path.read_bytes()[:end])


def counted_by_imagej(path):
    description = "ImageJ=1.54f\nimages=9\nslices=9\n"
    tifffile.imwrite(path, VOLUME, photometric="minisblack", description=description, metadata=None)


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="12" SizeY="10" SizeZ="{slices}" SizeC="1" '
    'SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
)


def counted_by_ome(path):
    text = OME.format(slices=9, planes='<TiffData IFD="0" PlaneCount="6"/>')
    tifffile.imwrite(path, VOLUME, photometric="minisblack", description=text.encode(), metadata=None)


def counted_by_a_file_that_is_gone(path):
    """Of three slices each, as their OME metadata say."""
    planes = "".join(
        f'<TiffData FirstZ="{first}" PlaneCount="3"><UUID FileName="{name}">urn:uuid:{first}</UUID></TiffData>'
        for first, name in ((0, "a.tif"), (3, "b.tif"))
    )
    text = OME.format(slices=6, planes=planes).encode()
    tifffile.imwrite(path, VOLUME[:3], photometric="minisblack", description=text, metadata=None)


def one_header_cut(path):
    tifffile.imwrite(path, VOLUME, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (cut_chain, "its list of pages breaks off after 3"),
        (counted_by_imagej, "its description counts 9 slices, and it has 6"),
        (counted_by_ome, "its OME metadata count 9 planes, and 3 are missing"),
        (counted_by_a_file_that_is_gone, "its OME metadata count 6 planes, and 3 are missing"),
        (one_header_cut, "one page header for 6 slices, and 7 bytes are missing"),
    ],
)
def test_pages_that_a_tiff_counts_and_has_not_are_told(tmp_path, write, told):
    write(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=rf"a.tif is not a readable TIFF file.*{told}"):
        open_source(tmp_path / "a.tif")


def test_a_list_of_pages_that_goes_on_to_nowhere_behind_the_only_one_is_passed_over_where_the_user_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    for index in (1, 2):
        tifffile.imwrite(tmp_path / f"in/{index}.tif", VOLUME[index], metadata=None)
    content = bytearray((tmp_path / "in/2.tif").read_bytes())
    (header,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, header)
    struct.pack_into("<I", content, header + 2 + 12 * tags, 0x7FFFFFFF)
    (tmp_path / "in/2.tif").write_bytes(content)
    with pytest.raises(DatasetError, match=r"2.tif .*breaks off after 1. If that is all, .*: --pixels stored"):
        open_source(tmp_path / "in")
    stored = open_source(tmp_path / "in", Reading(pixels="stored"))
    np.testing.assert_array_equal([stored.read(index) for index in range(len(stored))], VOLUME[1:3])
    cut_chain(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match="its list of pages breaks off after 3"):
        open_source(tmp_path / "a.tif", Reading(pixels="stored"))


def test_a_part_of_a_volume_whose_metadata_are_in_another_file_is_refused_with_its_name(tmp_path):
    """As Bio-Formats writes them; which pages are which slices is said there."""
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<BinaryOnly MetadataFile="scan.companion.ome" UUID="urn:uuid:9"/></OME>'
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", VOLUME, photometric="minisblack", description=text, metadata=None)
    with pytest.raises(DatasetError, match=r"a.ome.tif cannot .* in scan.companion.ome. .*: --pixels stored"):
        open_source(tmp_path / "a.ome.tif")
    stored = open_source(tmp_path / "a.ome.tif", Reading(pixels="stored"))
    np.testing.assert_array_equal([stored.read(index) for index in range(len(stored))], VOLUME)


def test_pages_as_they_are_stored_are_taken_where_the_user_says_so(tmp_path):
    counted_by_imagej(tmp_path / "a.tif")
    source = open_source(tmp_path / "a.tif", Reading(pixels="stored"))
    np.testing.assert_array_equal([source.read(index) for index in range(len(source))], VOLUME)


def short_mrc(path):
    with mrcfile.new(path) as file:
        file.set_data(VOLUME)
    return 1024


def short_nifti(path):
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)
    return 352


def short_nifti_pair(path):
    nibabel.save(nibabel.Nifti1Pair(VOLUME, np.eye(4)), path)
    return 0


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:208] + bytes(8) + content[216:-3],
        lambda content: content[:208] + bytes(8) + content[216:] + b"more",
        lambda content: content[:12] + b"abcd" + content[16:],
    ],
)
def test_a_file_that_is_only_called_mrc_is_refused(tmp_path, change):
    path = tmp_path / "a.mrc"
    short_mrc(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"a\.mrc is no MRC file that can be read"):
        open_source(path)


def test_half_of_a_nifti_volume_of_two_files_is_refused(tmp_path):
    short_nifti_pair(tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(DatasetError, match=r"a\.hdr is no NIfTI file .* a\.hdr and a\.img"):
        open_source(tmp_path / "a.hdr")


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.mrc", short_mrc), ("a.img", short_nifti_pair), ("a.nii", short_nifti), ("a.raw", lambda path: 0)],
)
def test_a_file_that_was_cut_short_is_refused(tmp_path, name, write):
    path, how = tmp_path / name, Reading()
    if name == "a.raw":
        how = Reading(shape=VOLUME.shape, dtype="uint16")
        path.write_bytes(VOLUME.tobytes())
    header = write(path)
    path.write_bytes(path.read_bytes()[: header + VOLUME.nbytes - 3])
    with pytest.raises(DatasetError, match=name):
        open_source(path, how)


def test_chunks_of_a_zarr_store_that_are_not_there_are_told_of(tmp_path):
    """They are its fill value by its definition, as writers leave out chunks of nothing else."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=VOLUME.shape, chunks=(1, 10, 12), dtype="u2")
    array[:4] = VOLUME[:4] + 1
    source = open_source(tmp_path / "a.zarr")
    assert "2 of 6 chunks are not stored and are read as 0" in " ".join(source.notes)
    array[:] = VOLUME + 1
    assert open_source(tmp_path / "a.zarr").notes == ()


@pytest.mark.parametrize("shape", [(6, 10, 12), (5, 9, 11)])
def test_chunks_that_a_shard_of_a_zarr_store_has_not_are_told_of(tmp_path, shape):
    volume = VOLUME[: shape[0], : shape[1], : shape[2]] + 1
    array = zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(1, 5, 4), shards=(4, 10, 12), dtype="u2")
    array[:] = volume
    assert open_source(tmp_path / "a.zarr").notes == ()
    array[2, :5, 4:8] = 0
    array[4:] = 0
    lost = 1 + 6 * (shape[0] - 4)
    source = open_source(tmp_path / "a.zarr")
    assert f"{lost} of {6 * shape[0]} chunks are not stored and are read as 0" in " ".join(source.notes)


def test_a_raw_file_of_another_length_than_its_shape_is_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(VOLUME.tobytes() + b"x")
    with pytest.raises(DatasetError, match=r"a.raw has 1441 bytes, but 6 x 10 x 12 uint16 behind 0 bytes are 1440"):
        open_source(tmp_path / "a.raw", Reading(shape=VOLUME.shape, dtype="uint16"))
    with pytest.raises(ConfigError, match=r"a.raw has no header that says its size. Say it: --shape"):
        open_source(tmp_path / "a.raw")


MASK = (np.indices((64, 80)).sum(0) // 9 % 2).astype(bool)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "jpeg", "jpeg2000", "jpeg_lossy"])
def test_a_strip_whose_end_is_not_there_is_refused_where_its_decoder_fills_it(tmp_path, compression):
    path, picture = tmp_path / "a.tif", np.uint8(200) * MASK if "jpeg" in compression else MASK
    if compression in ("jpeg2000", "jpeg_lossy"):
        tifffile.imwrite(path, picture, compression=compression, rowsperstrip=64, metadata=None)
    elif 4 in tifffile.TIFF.DECOMPRESSORS or "jpeg" in compression:
        Image.fromarray(picture).save(path, compression=compression)
    else:
        pytest.skip("This tifffile is too old to read these.")
    source = open_source(path)
    assert np.abs(source.read(0).astype(int) - picture).max() < (60 if "jpeg" in compression else 1)
    with tifffile.TiffFile(path) as tif:
        (offset,), (size,) = tif.pages.first.dataoffsets, tif.pages.first.databytecounts
    content = bytearray(path.read_bytes())
    content[offset + size // 2 : offset + size] = bytes(size - size // 2)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a.tif#1 cannot be decoded \(a strip was cut short\)"):
        open_source(path).read(0)


@pytest.mark.parametrize("packed", [None, "zstd"])
def test_pixels_that_lerc_has_no_value_of_are_refused_and_are_no_zeros(tmp_path, packed):
    path, picture = tmp_path / "a.tif", MASK.astype(np.float32)
    how = {"compression": "lerc", "compressionargs": {"compression": packed}, "metadata": None}
    tifffile.imwrite(path, picture, **how)
    np.testing.assert_array_equal(open_source(path).read(0), picture)
    picture[:9] = np.nan
    tifffile.imwrite(path, picture, **how)
    with pytest.raises(DatasetError, match="LERC has pixels without a value"):
        open_source(path).read(0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_strip_of_jpeg_xr_that_is_counted_too_short_is_refused(tmp_path, dtype):
    path, picture = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 200, (64, 80)).astype(dtype)
    tifffile.imwrite(path, picture, compression="jpegxr", compressionargs={"level": 1.0}, rowsperstrip=32)
    np.testing.assert_array_equal(open_source(path).read(0), tifffile.imread(path))
    with tifffile.TiffFile(path, mode="r+") as tif:
        first, last = tif.pages.first.databytecounts
        end = sum((tif.pages.first.dataoffsets[1], last))
        tif.pages.first.tags["StripByteCounts"].overwrite((first, last - 40))
    with pytest.raises(DatasetError, match=r"a.tif#1 cannot be decoded \(a strip was cut short\)"):
        open_source(path).read(0)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["StripByteCounts"].overwrite((first, last))
    np.testing.assert_array_equal(open_source(path).read(0), tifffile.imread(path))
    with path.open("r+b") as file:  # there is room for all of it, and the end was never written
        file.seek(end - last // 2)
        file.write(bytes(last // 2))
    with pytest.raises(DatasetError, match=r"a.tif#1 cannot be decoded \(a strip was cut short\)"):
        open_source(path).read(0)


def test_a_picture_of_nothing_in_jpeg_xr_is_all_there(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 80), np.uint16), compression="jpegxr", metadata=None)
    assert not open_source(tmp_path / "a.tif").read(0).any()
