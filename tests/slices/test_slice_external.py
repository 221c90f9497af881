"""Files that a file names are read where they lie in its folder; elsewhere with --allow-external, and pipes never."""

from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg, write_image, write_label

from hpcseg.data.store import is_packed_file, read_info
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.predict.volume import asked_reading
from hpcseg.slices.opening import list_parts, open_source
from hpcseg.slices.source import Reading

VOLUME = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)
ALLOWED = Reading(allow_external=True)


def raw_file(path, place):
    (path.parent / place).write_bytes(VOLUME.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("data", VOLUME.shape, "u2", external=[(place, 0, VOLUME.nbytes)])


def link(path, place):
    with h5py.File(path.parent / place, "w") as file:
        file["data"] = VOLUME
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink(place, "/data")


def chain_of_links(path, place):
    """Through a file in the folder, and soft links in both."""
    with h5py.File(path.parent / place, "w") as file:
        file["data"] = VOLUME
    with h5py.File(path.with_name("middle.h5"), "w") as file:
        file["there"] = h5py.ExternalLink(place, "/data")
        file["soft"] = h5py.SoftLink("there")
    with h5py.File(path, "w") as file:
        file["first"] = h5py.ExternalLink("middle.h5", "/soft")
        file["data"] = h5py.SoftLink("/first")


def group_behind_a_link(path, place):
    link(path, place)
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink(place, "/")


def virtual(path, place, name=None):
    with h5py.File(path.parent / place, "w") as file:
        file["data"] = VOLUME
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[:] = h5py.VirtualSource(name or place, "data", VOLUME.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def virtual_of_a_link(path, place):
    with h5py.File(path.parent / place, "w") as file:
        file["data"] = VOLUME
    with h5py.File(path.with_name("middle.h5"), "w") as file:
        file["data"] = h5py.ExternalLink(place, "/data")
    virtual(path, "unused.h5", "middle.h5")


def virtual_of_a_raw_file(path, place):
    raw_file(path.with_name("middle.h5"), place)
    virtual(path, "unused.h5", "middle.h5")


def counted_virtual(path, place):
    """%b is counted up: 0.h5, which is in the folder, and 1.h5, a link to what is not."""
    numbered = path.with_name("numbered")
    numbered.mkdir()
    for number in (0, 1):
        with h5py.File(path.parent / place if number else numbered / "0.h5", "w") as file:
            file["data"] = VOLUME[2 * number : 2 * number + 2]
    (numbered / "1.h5").symlink_to(path.parent / place)
    space, block = h5py.h5s.create_simple(VOLUME.shape, (h5py.h5s.UNLIMITED, 6, 8)), h5py.h5s.create_simple((2, 6, 8))
    space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (2, 6, 8), (2, 6, 8))
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_virtual(space, b"numbered/%b.h5", b"data", block)
    with h5py.File(path, "w") as file:
        whole = h5py.h5s.create_simple(VOLUME.shape, (h5py.h5s.UNLIMITED, 6, 8))
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, whole, plan)


HDF5 = [
    raw_file, link, chain_of_links, group_behind_a_link, virtual, virtual_of_a_link, virtual_of_a_raw_file,
    counted_virtual,
]  # fmt: skip


@pytest.mark.parametrize("write", HDF5)
@pytest.mark.parametrize("place", ["beside", "below", "sibling", "absolute", "a link out of it"])
def test_files_elsewhere_need_the_option(tmp_path, write, place):
    scan, other = tmp_path / "scan", tmp_path / "detector"
    for folder in (scan / "raw", other):
        folder.mkdir(parents=True)
    where = {"beside": "x.dat", "below": "raw/x.dat", "sibling": "../detector/x.dat", "absolute": str(other / "x.dat")}
    if place == "a link out of it":
        (scan / "x.dat").symlink_to(other / "x.dat")
    write(scan / "a.h5", where.get(place, "x.dat"))
    path = scan / "a.h5"
    if place not in ("beside", "below"):
        with pytest.raises(
            DatasetError, match=rf"a\.h5 names {other}/x\.dat, which is neither in its folder nor below"
        ):
            open_source(path)
        with pytest.raises(DatasetError, match="also in a folder beside it, are read with --allow-external only"):
            open_source(path, Reading(dataset="data/data" if write is group_behind_a_link else "data"))
    assert bool(list_parts(path)) == (
        place in ("beside", "below") or "link" not in write.__name__ or "virtual" in write.__name__
    )
    assert list_parts(path, allow_external=True)
    source = open_source(path, ALLOWED)
    np.testing.assert_array_equal([source.read(index) for index in range(4)], VOLUME)


def test_a_link_that_the_user_names_leads_to_the_folder_that_counts(tmp_path):
    (tmp_path / "scan").mkdir()
    raw_file(tmp_path / "scan" / "a.h5", "x.raw")
    (tmp_path / "mine").mkdir()
    with h5py.File(tmp_path / "scan" / "b.h5", "w") as file:
        file["data"] = VOLUME
        file["link"] = h5py.ExternalLink("a.h5", "/data")
    (tmp_path / "mine" / "b.h5").symlink_to(tmp_path / "scan" / "b.h5")
    np.testing.assert_array_equal(open_source(tmp_path / "mine" / "b.h5", Reading(dataset="link")).read(1), VOLUME[1])


def test_a_data_set_elsewhere_is_not_passed_over_for_another_in_the_file(tmp_path):
    """What a NeXus file calls its data, or its only volume, is refused, and no flat field is taken for it."""
    (tmp_path / "scan").mkdir()
    link(tmp_path / "scan" / "a.h5", "../x.h5")
    with h5py.File(tmp_path / "scan" / "a.h5", "a") as file:
        file["flat"] = VOLUME[0]
        file.attrs["default"] = "entry"
        file.create_group("entry").attrs["signal"] = "data"
        file["entry/data"] = h5py.ExternalLink("../x.h5", "/data")
    with pytest.raises(DatasetError, match="--allow-external"):
        open_source(tmp_path / "scan" / "a.h5")
    assert open_source(tmp_path / "scan" / "a.h5", ALLOWED).dataset == "entry/data"


def test_an_ome_tiff_that_was_moved_is_itself_wherever_it_was(tmp_path):
    two_files_of_ome(tmp_path, "b.ome.tif")
    text = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    start, end = text.index("<TiffData"), text.rindex("</TiffData>")
    whole = f'<TiffData IFD="0"><UUID FileName="/elsewhere/b.ome.tif">urn:uuid:a</UUID>{text[end:]}'
    text = (text[:start] + whole).replace('SizeZ="2"', 'SizeZ="1"')
    tifffile.imwrite(tmp_path / "moved.ome.tif", VOLUME[2], description=text, metadata=None)
    np.testing.assert_array_equal(open_source(tmp_path / "moved.ome.tif").read(0), VOLUME[2])


def two_files_of_ome(folder, name):
    """Two planes, of which the second is in another file, as its metadata say."""
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="6" SizeZ="2" '
        'SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>'
        '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>'
        f'<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:b</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / "a.ome.tif", VOLUME[0], description=text, metadata=None)
    if name != "pipe":
        tifffile.imwrite(
            folder / name, VOLUME[1], description=text.replace('UUID="urn:uuid:a"', 'UUID="urn:uuid:b"'), metadata=None
        )
    return folder / "a.ome.tif"


def test_another_file_of_an_ome_tiff_lies_in_its_folder_or_needs_the_option(tmp_path):
    for name, how in (("b.ome.tif", Reading()), ("../b.ome.tif", ALLOWED)):
        source = open_source(two_files_of_ome(tmp_path / "scan", name), how)
        np.testing.assert_array_equal([source.read(index) for index in (0, 1)], VOLUME[:2])
    with pytest.raises(DatasetError, match=rf"a\.ome\.tif names {tmp_path}/b\.ome\.tif.*--allow-external"):
        open_source(tmp_path / "scan" / "a.ome.tif")


def test_the_option_is_in_the_commands_and_in_what_a_record_has_asked_for(tmp_path):
    (tmp_path / "scan").mkdir()
    for number in range(3):
        write_image(tmp_path, number)
        write_label(tmp_path, number)
    images = np.stack([tifffile.imread(tmp_path / "data" / f"image{number}.tif") for number in range(3)])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = images
    with h5py.File(tmp_path / "scan" / "a.h5", "w") as file:
        file["data"] = h5py.ExternalLink("../x.h5", "/data")
    scan = tmp_path / "scan" / "a.h5"
    pack = ("pack", "--images", scan, "--labels", tmp_path / "labels", "--first", "0", "-o", tmp_path / "set.h5")
    for command in (("info", scan), pack):
        refused = hpcseg(*command)
        assert refused.exit_code == 3 and "--allow-external" in refused.stderr
        assert hpcseg(*command, "--allow-external").exit_code == 0
    assert read_info(tmp_path / "set.h5").shape == images.shape
    assert asked_reading(Reading()) is None
    assert Reading(**asked_reading(ALLOWED).as_dict()) == ALLOWED


def pipe_link(path, pipe):
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink(pipe, "/data")


def pipe_raw(path, pipe):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", VOLUME.shape, "u2", external=[(pipe, 0, VOLUME.nbytes)])


def pipe_virtual(path, pipe):
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[:] = h5py.VirtualSource(pipe, "data", VOLUME.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def pipe_nexus(path, pipe):
    with h5py.File(path, "w") as file:
        file["image"] = VOLUME
        file["entry"] = h5py.ExternalLink(pipe, "/entry")
        file.attrs["default"] = "entry"


OPENING = """
import sys
from pathlib import Path
from hpcseg.errors import HpcsegError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading
for name in sys.argv[1:]:
    for allow in (False, True):
        try:
            open_source(Path(name), Reading(allow_external=allow)).read(0)
            print(name, "was read", flush=True)
        except HpcsegError as error:
            print(error, flush=True)
"""


def test_a_pipe_or_a_device_is_never_opened(tmp_path):
    """In another process, which is ended if it waits for the writer that a pipe has not."""
    os.mkfifo(tmp_path / "pipe")
    names = []
    for write in (pipe_link, pipe_raw, pipe_virtual, pipe_nexus):
        for target in ("pipe", "/dev/zero"):
            names.append(f"{write.__name__}{len(names)}.h5")
            write(tmp_path / names[-1], target)
    two_files_of_ome(tmp_path, "pipe")
    for folder in ("tiffs", "devices"):
        (tmp_path / folder).mkdir()
    os.mkfifo(tmp_path / "tiffs" / "a1.tif")
    (tmp_path / "devices" / "a1.tif").symlink_to("/dev/zero")
    (tmp_path / "zero.h5").symlink_to("/dev/zero")
    zarr.create_array(tmp_path / "a.zarr", shape=(2, 8, 8), chunks=(1, 8, 8), dtype="u2")
    (tmp_path / "a.zarr" / "c" / "0" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "a.zarr" / "c" / "0" / "0" / "0")
    names += ["a.ome.tif", "tiffs", "devices", "zero.h5", "a.zarr", "pipe"]
    done = subprocess.run(
        [sys.executable, "-c", OPENING, *names], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(names)
    for line in lines:
        assert "no regular file" in line or "no folder or file" in line or "--allow-external" in line, line


def test_a_packed_file_has_its_pixels_itself(tmp_path):
    """Its parts are not looked for elsewhere, with no option."""
    for number in range(3):
        write_image(tmp_path, number)
        write_label(tmp_path, number)
    packed = tmp_path / "set.h5"
    assert hpcseg("pack", tmp_path, "-o", packed).exit_code == 0
    with h5py.File(packed, "a") as file:
        pixels = file["slices"][:]
        del file["slices"]
        (tmp_path / "x.raw").write_bytes(pixels.tobytes())
        file.create_dataset("slices", pixels.shape, pixels.dtype, external=[("x.raw", 0, pixels.nbytes)])
    with pytest.raises(DatasetError, match=r"set\.h5 .*slices is in another file"):
        read_info(packed)
    with h5py.File(packed, "a") as file:
        del file["slices"]
        file["slices"] = h5py.ExternalLink("x.h5", "/slices")
    with pytest.raises(DatasetError, match=r"set\.h5 .*slices is in another file"):
        read_info(packed)
    assert is_packed_file(packed)


def two_scans(folder, write):
    """Two folders with files of the same names, and a link to the first scan's; its pixels are `VOLUME`."""
    for name, frames in (("one", VOLUME), ("two", VOLUME + 1)):
        (folder / name).mkdir()
        write(folder / name / "a.h5", "x.dat")
        with h5py.File(folder / name / "a.h5") as file:
            whole = not file["data"].external
        if whole:
            with h5py.File(folder / name / "x.dat", "a") as file:
                file["data"][:] = frames
        else:
            (folder / name / "x.dat").write_bytes(frames.tobytes())
    (folder / "links").mkdir()
    (folder / "links" / "a.h5").symlink_to("../one/a.h5")
    return folder / "links" / "a.h5"


@pytest.mark.parametrize("write", [raw_file, virtual, link])
def test_the_folder_in_which_a_command_is_run_is_not_looked_in(tmp_path, monkeypatch, write):
    path = two_scans(tmp_path, write)
    monkeypatch.chdir(tmp_path / "two")
    source = open_source(path)
    np.testing.assert_array_equal([source.read(index) for index in range(4)], VOLUME)
    assert {file.parent for file in source.files} == {(tmp_path / "one").resolve()}


def test_attributes_are_of_the_data_set_whose_pixels_are_read(tmp_path, monkeypatch):
    path = two_scans(tmp_path, link)
    for name in ("one", "two"):
        with h5py.File(tmp_path / name / "x.dat", "a") as file:
            file["data"].attrs["sample"] = name
    monkeypatch.chdir(tmp_path / "two")
    assert open_source(path).attributes == {"sample": "one"}


@pytest.mark.parametrize("variable", ["HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX", "HDF5_EXT_PREFIX"])
def test_a_folder_that_hdf5_looks_in_first_is_refused(tmp_path, monkeypatch, variable):
    virtual(tmp_path / "a.h5", "x.dat")
    raw_file(tmp_path / "b.h5", "y.dat")
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    for name in ("a.h5", "b.h5"):
        with pytest.raises(ConfigError, match=rf"{variable} is set, by which HDF5 takes .*elsewhere. Unset it"):
            open_source(tmp_path / name)
    np.testing.assert_array_equal(open_source(tmp_path / "x.dat").read(1), VOLUME[1])
