"""Small files that claim, or unpack to, more than there is memory or time for are refused at once, in one sentence."""

from __future__ import annotations

import gzip
import itertools
import math
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices import hdf5_links, sizes
from hpcseg.slices.opening import list_parts, open_source
from hpcseg.slices.source import Reading, as_grey_values

EDGE = 2**20  # of a slice of a TiB


def chunked(path, shape, chunks, *, content=bytes(100)):
    """A data set of bytes, each of whose chunks is there and as large as a few bytes are."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", shape, "u1", chunks=chunks, compression="gzip")
        for index in np.ndindex(*(-(-length // part) for length, part in zip(shape, chunks, strict=True))):
            data.id.write_direct_chunk(tuple(np.multiply(index, chunks)), zlib.compress(content))
    return path


def tiff(path, pages, tags=None):
    """Pages of 8 x 8 bytes, all of them the same 64 bytes, with tags in place of theirs; None: without."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = {tag: value for tag, value in {**usual, **(tags or {})}.items() if value is not None}
    lists = []
    for page in range(pages):
        start = 8 + 64 + page * (6 + 12 * len(entries))
        behind = start + 6 + 12 * len(entries) if page + 1 < pages else 0
        packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
        lists.append(struct.pack("<H", len(entries)) + packed + struct.pack("<I", behind))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + 64) + bytes(64) + b"".join(lists))
    return path


def ome(path, text):
    """An OME-TIFF of one page whose metadata say what the test says."""
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" {text}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, np.ones((8, 8), "u1"), description=xml, metadata=None)
    return path


def nifti(path):
    header = nibabel.Nifti2Header()
    header.set_data_shape((2, 2, 2**40))
    path.write_bytes(gzip.compress(header.binaryblock + bytes(64)))


SIZES = 'SizeC="1" SizeT="1"'
TOO_MANY = {
    "chunks.h5": lambda path: chunked(path, (2**34, 2, 2), (2**29, 2, 2)),
    "holes.h5": lambda path: h5py.File(path, "w").create_dataset("data", (2**34, 4, 4), "u1", chunks=(1, 4, 4)).file,
    "a.zarr": lambda path: zarr.create_array(path, shape=(2**40, 4, 4), chunks=(1, 4, 4), dtype="u1"),
    "imagej.tif": lambda path: tifffile.imwrite(
        path, np.ones((8, 8), "u1"), description=f"ImageJ=1.11a\nimages={10**9}\nslices={10**9}", metadata=None
    ),
    "planes.ome.tif": lambda path: ome(path, f'SizeZ="{10**9}" {SIZES}><TiffData IFD="0" PlaneCount="1"/>'),
    "count.ome.tif": lambda path: ome(path, f'SizeZ="1" {SIZES}><TiffData IFD="0" PlaneCount=" {10**9}"/>'),
    "first.ome.tif": lambda path: ome(path, f'SizeZ="1" {SIZES}><TiffData IFD="{10**9}"/>'),
    "a.nii.gz": nifti,
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_a_source_of_too_many_slices_is_refused_before_it_has_names(tmp_path, name):
    file = TOO_MANY[name](tmp_path / name)
    if isinstance(file, h5py.File):
        file.close()
    tracemalloc.start()
    with pytest.raises(DatasetError, match=rf"{name}.* claims \d+ slices, and at most 1000000 are read"):
        open_source(tmp_path / name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 * 2**20


def test_a_million_slices_are_not_too_many(tmp_path):
    how = Reading(shape=(sizes.MOST_SLICES, 1, 1), dtype="uint8")
    (tmp_path / "a.raw").write_bytes(bytes(sizes.MOST_SLICES))
    assert len(open_source(tmp_path / "a.raw", how)) == 1_000_000
    with (tmp_path / "a.raw").open("ab") as file:
        file.write(b"0")
    with pytest.raises(DatasetError, match=r"a\.raw claims 1000001 slices"):
        open_source(tmp_path / "a.raw", replace(how, shape=(sizes.MOST_SLICES + 1, 1, 1)))


def sparse_raw(path):
    with path.open("wb") as file:
        file.truncate(EDGE**2)
    return open_source(path, Reading(shape=(1, EDGE, EDGE), dtype="uint8"))


def wide_zarr(path):
    zarr.create_array(path, shape=(2, EDGE, EDGE), chunks=(1, EDGE // 8, EDGE // 8), dtype="u1")
    return open_source(path)


def wide_zarr_chunk(path):
    zarr.create_array(path, shape=(2, 8, 8), chunks=(EDGE, 2**10, 2**10), dtype="u1")
    return open_source(path)


def wide_tile(path):
    """8 x 8 pixels in one tile of a TiB."""
    strips = {273, 278, 279}
    return open_source(tiff(path, 1, {**dict.fromkeys(strips), 259: 8, 322: EDGE, 323: EDGE, 324: 8, 325: 64}))


@pytest.mark.parametrize(
    ("name", "opened"),
    [("a.raw", sparse_raw), ("a.zarr", wide_zarr), ("b.zarr", wide_zarr_chunk), ("tile.tif", wide_tile)],
)
def test_a_slice_for_which_there_is_no_memory_is_refused_unread(tmp_path, name, opened):
    source = as_grey_values(opened(tmp_path / name))
    with pytest.raises(DatasetError, match=rf"{name} claims 1024 GiB of pixels to decode at once.*GiB of memory are"):
        source.read(0)


def test_a_chunk_that_is_decoded_as_a_whole_needs_the_room_for_it(tmp_path, monkeypatch):
    """Slices of 64 bytes in a chunk of 64 KiB."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=np.ones((1024, 8, 8), "u1"), chunks=True, compression="gzip")
        file.create_dataset("one", data=np.ones((1024, 8, 8), "u1"), chunks=(1, 8, 8))
        chunk = math.prod(file["data"].chunks)
    whole, single = (open_source(tmp_path / "a.h5", Reading(dataset=name)) for name in ("data", "one"))
    monkeypatch.setattr(sizes, "free_host_bytes", lambda: 2 * chunk - 1)
    assert single.read(7).all()
    with pytest.raises(DatasetError, match="to decode at once"):
        whole.read(7)
    monkeypatch.setattr(sizes, "free_host_bytes", lambda: 2 * chunk)
    assert whole.read(7).all()


def test_what_no_compression_makes_of_so_few_bytes_is_refused(tmp_path):
    chunked(tmp_path / "a.h5", (4, 2**17, 2**17), (1, 2**15, 2**15))
    with pytest.raises(DatasetError, match=r"a\.h5 has \d+ bytes and claims 68719476736 of pixels"):
        open_source(tmp_path / "a.h5")


def test_labels_of_one_value_are_no_bomb(tmp_path):
    """Deflate makes a thousandth of them, and Zarr leaves them out altogether."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "labels",
            data=np.ones((64, 1000, 1000), "u1"),
            chunks=(64, 1000, 1000),
            compression="gzip",
            compression_opts=9,
        )
    assert 64e6 / os.path.getsize(tmp_path / "a.h5") > 900
    assert open_source(tmp_path / "a.h5").read(63).all()
    zarr.create_array(tmp_path / "a.zarr", shape=(1000, 2000, 2000), chunks=(1, 2000, 2000), dtype="u1", fill_value=1)
    source = open_source(tmp_path / "a.zarr")
    assert source.read(999).all() and "1000 of 1000 chunks are not stored" in source.notes[0]


def test_pages_that_share_their_pixels_are_refused_at_the_second(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.tif.*its page 2 has the pixels of another page"):
        open_source(tiff(tmp_path / "a.tif", 3))
    assert open_source(tiff(tmp_path / "a.tif", 1)).read(0).shape == (8, 8)


def test_unwritten_chunks_are_found_without_a_table_of_all(tmp_path):
    """2^40 chunks, of which one is there."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", (10**6, 2**10, 2**10), "u1", chunks=(1, 1, 1))
        data[0, 0, 0] = 1
    with pytest.raises(DatasetError, match="were never written, from slice 1 to slice 1000000"):
        open_source(tmp_path / "a.h5")


CAPPED = """
import resource, sys
import hpcseg.slices.opening
from hpcseg.cli.app import main
taken = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**27,) * 2)
sys.argv = ["hpcseg", *sys.argv[1:]]
main()
"""


def test_a_command_without_memory_ends_with_a_sentence(tmp_path):
    """With 128 MiB for a slice of 1 GiB, and for the names of a million slices as JSON."""
    for name, size in (("wide.raw", 2**30), ("many.raw", 10**6)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    wide = ("--images", "wide.raw", "--labels", "wide.raw", "--shape", "1,1024,1048576", "--label-dtype", "uint8")
    many = ("many.raw", "--shape", "1000000,1,1")
    for command in (("pack", *wide, "-o", "set.h5"), ("info", *many, "--json")):
        done = subprocess.run(
            [sys.executable, "-c", CAPPED, *command, "--dtype", "uint8"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode in (1, 3) and done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) == 1


def small(path):
    """A small volume in each format."""
    volume = np.arange(5 * 8 * 9, dtype="u2").reshape(5, 8, 9)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=volume, chunks=(1, 8, 9), compression="gzip")
    elif path.suffix == ".mrc":
        mrcfile.write(path, volume)
    elif path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), path)
    else:
        form = {"ome": "ome" in path.name, "imagej": "imagej" in path.name}
        tifffile.imwrite(path, volume, photometric="minisblack", metadata={"axes": "ZYX"}, **form)
    assert len(open_source(path)) == 5


@pytest.mark.usefixtures("bounded")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "imagej.tif", "a.h5", "a.mrc", "a.nii", "a.nii.gz"])
def test_a_spoiled_header_is_read_or_refused(tmp_path, name):
    """300 files with some bytes of their first 2 KiB changed: nothing but slices, or an error of ours."""
    small(tmp_path / name)
    content, random, refused = (tmp_path / name).read_bytes(), np.random.default_rng(20), 0
    for _ in range(300):
        spoiled = bytearray(content)
        for place in random.integers(0, min(len(spoiled), 2048), random.integers(1, 5)):
            spoiled[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
        (tmp_path / name).write_bytes(spoiled)
        try:
            source = open_source(tmp_path / name)
            for index in {0, len(source) - 1}:
                source.read(index)
        except (DatasetError, ConfigError) as error:
            assert len(str(error)) < 4_000
            refused += 1
    assert refused > 5


def test_what_a_damaged_file_holds_is_listed_or_refused(tmp_path):
    small(tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    zarr.create_array(tmp_path / "a.zarr", shape=(2, 8, 8), chunks=(1, 8, 8), dtype="u2")
    (tmp_path / "a.zarr" / "zarr.json").write_bytes(b"\xff")
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    for name in ("a.h5", "a.zarr"):
        with pytest.raises(DatasetError, match=rf"What .*{name} holds cannot be listed"):
            list_parts(tmp_path / name)


def test_names_without_end_are_not_counted_to_the_end(tmp_path, monkeypatch):
    """Ten names in each of eleven groups for the next of them, and links that lead on a thousand times each."""
    monkeypatch.setattr(hdf5_links, "_MOST_NAMES", 1000)
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        groups = [file.create_group(f"g{number}") for number in range(12)]
        groups[11]["data"] = np.ones((2, 8, 8), "u1")
        for group, below in itertools.pairwise(groups):
            for number in range(10):
                group[f"n{number}"] = below
    with pytest.raises(DatasetError, match=r"groups\.h5 has more than 1000 names. Name a data set, as FILE::DATASET"):
        open_source(tmp_path / "groups.h5")
    assert open_source(tmp_path / "groups.h5", Reading(dataset="g11/data")).read(0).all()
    with h5py.File(tmp_path / "links.h5", "w") as file:
        for number in range(10):
            file[f"s{number}"] = h5py.SoftLink("/".join([f"s{number + 1}"] * 1000))
        file["s10"] = h5py.SoftLink("/")
    with pytest.raises(DatasetError, match=r"links\.h5: s\d is a link to .*no s10 there") as told:
        open_source(tmp_path / "links.h5")
    assert len(str(told.value)) < 1_000


def test_virtual_data_sets_of_each_other_are_looked_at_once(tmp_path):
    """Ten levels of ten, each of which is put together of all of the next level."""
    for level in range(9, -1, -1):
        with h5py.File(tmp_path / f"l{level}.h5", "w") as file:
            for number in range(10):
                if level == 9:
                    file[f"d{number}"] = np.ones((10, 8, 8), "u1")
                    continue
                layout = h5py.VirtualLayout((10, 8, 8), "u1")
                for part in range(10):
                    layout[part] = h5py.VirtualSource(f"l{level + 1}.h5", f"d{part}", (10, 8, 8))[part]
                file.create_virtual_dataset(f"d{number}", layout)
    assert len(open_source(tmp_path / "l0.h5", Reading(dataset="d0"))) == 10
