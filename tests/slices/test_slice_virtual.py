"""Virtual data sets of sources of any selection, type and place: what HDF5 would fill in or change is missed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from written import read_all

from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

VOLUME = np.random.default_rng(4).integers(1, 60_000, (6, 10, 12), dtype=np.uint16)
UNLIMITED = h5py.h5s.UNLIMITED


def irregular(path, rows):
    """The upper half of some slices, and the lower half of all, from two data sets."""
    with h5py.File(path.with_name("parts.h5"), "w") as file:
        file["top"], file["bottom"] = VOLUME[rows][:, :5], VOLUME[:, 5:]
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[rows, :5] = h5py.VirtualSource("parts.h5", "top", shape=(len(rows), 5, 12))
    layout[:, 5:] = h5py.VirtualSource("parts.h5", "bottom", shape=(6, 5, 12))
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("data", layout)
    return path


def growing(path, parts):
    """The slices of several writers in turn, each of which may still write."""
    shape = (None, *VOLUME.shape[1:])
    layout = h5py.VirtualLayout(VOLUME.shape, "u2", maxshape=shape)
    for number, part in enumerate(parts):
        with h5py.File(path.with_name(f"w{number}.h5"), "w", libver="latest") as file:
            file.create_dataset("data", data=part, maxshape=shape, chunks=(1, 10, 12))
        source = h5py.VirtualSource(f"w{number}.h5", "data", shape=part.shape, maxshape=shape)
        layout[number : UNLIMITED : len(parts), :, :] = source[0:UNLIMITED, :, :]
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("data", layout)
    return path


def test_a_selection_that_is_no_block_fills_what_it_names_and_no_more(tmp_path):
    whole = irregular(tmp_path / "a.h5", [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(read_all(open_source(whole)), VOLUME)
    with pytest.raises(DatasetError, match="none of them has 60 of its pixels"):
        open_source(irregular(tmp_path / "a.h5", [0, 1, 2, 4, 5]))
    with pytest.raises(DatasetError, match="none of them has 180 of its pixels"):
        open_source(irregular(tmp_path / "a.h5", [1, 4, 5]))


@pytest.mark.parametrize("writers", [1, 2, 3])
def test_sources_without_an_end_are_read_as_far_as_they_go(tmp_path, writers):
    path = growing(tmp_path / "a.h5", [VOLUME[first::writers] for first in range(writers)])
    np.testing.assert_array_equal(read_all(open_source(path)), VOLUME)


def test_a_writer_that_is_a_slice_behind_ends_the_volume_and_one_that_stopped_is_missed(tmp_path):
    path = growing(tmp_path / "a.h5", [VOLUME[0::2], VOLUME[1::2][:2]])
    np.testing.assert_array_equal(read_all(open_source(path)), VOLUME[:5])
    with pytest.raises(DatasetError, match="none of them has 120 of its pixels"):
        open_source(growing(tmp_path / "a.h5", [VOLUME[0::2], VOLUME[1::2][:1]]))


def test_a_source_that_ends_within_a_block_fills_a_part_of_it(tmp_path):
    """Two writers take two slices each in turn."""
    rows, shape = np.arange(12), (12, *VOLUME.shape[1:])
    volume = np.concatenate([VOLUME, VOLUME])

    def write(frames):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        for number, count in enumerate(frames):
            part = volume[rows // 2 % 2 == number][:count]
            with h5py.File(tmp_path / f"w{number}.h5", "w", libver="latest") as file:
                file.create_dataset("data", data=part, maxshape=(None, 10, 12), chunks=(1, 10, 12))
            filled, taken = (h5py.h5s.create_simple(of, (UNLIMITED, 10, 12)) for of in (shape, part.shape))
            filled.select_hyperslab((2 * number, 0, 0), (UNLIMITED, 1, 1), (4, 1, 1), (2, 10, 12))
            taken.select_hyperslab((0, 0, 0), (UNLIMITED, 1, 1), (1, 1, 1), (1, 10, 12))
            plan.set_virtual(filled, f"w{number}.h5".encode(), b"data", taken)
        with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
            space = h5py.h5s.create_simple(shape, (UNLIMITED, 10, 12))
            h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, plan)
        return tmp_path / "a.h5"

    np.testing.assert_array_equal(read_all(open_source(write((6, 6)))), volume)
    with pytest.raises(DatasetError, match="none of them has 120 of its pixels"):
        open_source(write((5, 6)))


def test_sources_that_are_counted_up_in_a_file_are_read_to_the_last(tmp_path):
    with h5py.File(tmp_path / "blocks.h5", "w") as file:
        for number in range(3):
            file[f"block{number}"] = VOLUME[2 * number : 2 * number + 2]
    plan, block = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((2, 10, 12))
    space = h5py.h5s.create_simple((0, 10, 12), (UNLIMITED, 10, 12))
    space.select_hyperslab((0, 0, 0), (UNLIMITED, 1, 1), (2, 1, 1), (2, 10, 12))
    plan.set_virtual(space, b"blocks.h5", b"block%b", block)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, plan)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.h5")), VOLUME)
    with h5py.File(tmp_path / "blocks.h5", "a") as file:
        del file["block2"]
        file["block2"] = VOLUME[:1]
    with pytest.raises(DatasetError, match=r"blocks.h5 has \(1, 10, 12\) in block2, and \(2, 10, 12\) is needed"):
        open_source(tmp_path / "a.h5")


def test_a_file_of_those_that_are_counted_up_that_lacks_its_data_set_is_missed_and_ends_nothing(tmp_path):
    for number in range(3):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file["data" if number < 2 else "other"] = VOLUME[2 * number : 2 * number + 2]
    plan, block = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((2, 10, 12))
    space = h5py.h5s.create_simple((0, 10, 12), (UNLIMITED, 10, 12))
    space.select_hyperslab((0, 0, 0), (UNLIMITED, 1, 1), (2, 1, 1), (2, 10, 12))
    plan.set_virtual(space, b"part%b.h5", b"data", block)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, plan)
    with pytest.raises(DatasetError, match=r"part2.h5 \(data\) is not there"):
        open_source(tmp_path / "a.h5")


@pytest.mark.parametrize("shape", [(6, 10, 24), (6, 12, 10), (6, 120), (12, 10, 6), (6, 20, 12)])
def test_a_source_that_has_other_rows_since_is_refused(tmp_path, shape):
    """Of which HDF5 takes pixel after pixel, as many as it needs."""
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    layout[:] = h5py.VirtualSource("part.h5", "data", VOLUME.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = np.ones(shape, "u2")
    with pytest.raises(DatasetError, match=r"part.h5 has .* in data, and \(6, 10, 12\) is needed"):
        open_source(tmp_path / "a.h5")


def test_slices_behind_the_last_and_axes_of_length_1_are_no_other_rows(tmp_path):
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        file["many"], file["one"], file["rows"] = VOLUME[0::2], VOLUME[None, 1], VOLUME[[3, 5]][:, None]
    layout = h5py.VirtualLayout((5, 10, 12), "u2")
    layout[0::2] = h5py.VirtualSource("parts.h5", "many", (3, 10, 12))
    layout[1] = h5py.VirtualSource("parts.h5", "one", (10, 12))
    layout[3] = h5py.VirtualSource("parts.h5", "rows", (1, 10, 12))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.h5")), VOLUME[:5])


def whole_of(path, name, taken=slice(None), dtype="u2", frames=6):
    """A virtual data set of what is taken of one in another file."""
    source = h5py.VirtualSource(name, "data", (frames, *VOLUME.shape[1:]))
    layout = h5py.VirtualLayout((len(range(frames)[taken]), *VOLUME.shape[1:]), dtype)
    layout[:] = source if taken == slice(None) else source[taken]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    return path


def write(path, pixels=VOLUME, name="data"):
    with h5py.File(path, "w") as file:
        file[name] = pixels


@pytest.mark.parametrize(
    ("cut", "why"), [(slice(-100), "truncated file: eof = "), (slice(-1, 0), "file signature not")]
)
def test_a_source_that_is_there_and_cannot_be_opened_is_told_with_h5pys_reason(tmp_path, cut, why):
    path = whole_of(tmp_path / "a.h5", "p.h5")
    write(tmp_path / "p.h5")
    (tmp_path / "p.h5").write_bytes((tmp_path / "p.h5").read_bytes()[cut])
    with pytest.raises(DatasetError, match=rf"a\.h5 .*{tmp_path}/p\.h5 cannot be opened \(.*{why}"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "pixels", "what"), [("data/data", VOLUME, "a group"), ("data", "text", "no data set of numbers")]
)
def test_a_source_that_is_a_group_or_a_text_is_told(tmp_path, name, pixels, what):
    path = whole_of(tmp_path / "a.h5", "p.h5")
    write(tmp_path / "p.h5", pixels, name)
    with pytest.raises(DatasetError, match=rf"a\.h5 cannot be used: data in {tmp_path}/p\.h5 is {what}"):
        open_source(path)


def test_a_source_that_is_a_link_names_files_beside_it_and_then_where_that_leads(tmp_path, monkeypatch):
    for folder in ("real", "proc", "here"):
        (tmp_path / folder).mkdir()
    whole_of(tmp_path / "real/scan.h5", "p.h5")
    (tmp_path / "proc/scan.h5").symlink_to("../real/scan.h5")
    path, how = whole_of(tmp_path / "proc/a.h5", "scan.h5"), Reading(allow_external=True)
    with pytest.raises(DatasetError, match=rf"p\.h5 .* looked for in {tmp_path}/proc and {tmp_path}/real"):
        open_source(path, how)
    write(tmp_path / "real/p.h5")
    np.testing.assert_array_equal(read_all(open_source(path, how)), VOLUME)
    write(tmp_path / "here/p.h5", VOLUME + 1)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DatasetError, match=r"names .*real/p\.h5, and HDF5 would take p\.h5 of this folder"):
        open_source(path, how)
    write(tmp_path / "proc/p.h5", VOLUME + 2)
    np.testing.assert_array_equal(read_all(open_source(path, how)), VOLUME + 2)


def test_chunks_that_were_never_written_are_missed_in_what_is_taken(tmp_path):
    """Of a scan that was stopped in its fifth slice, which has the upper half."""
    with h5py.File(tmp_path / "p.h5", "w") as file:
        data = file.create_dataset("data", VOLUME.shape, "u2", chunks=(1, 5, 12))
        data[:4], data[4, :5] = VOLUME[:4], VOLUME[4, :5]
    path = tmp_path / "a.h5"
    for taken in (np.s_[:4], np.s_[1:4]):
        np.testing.assert_array_equal(read_all(open_source(whole_of(path, "p.h5", taken))), VOLUME[taken])
    np.testing.assert_array_equal(read_all(open_source(whole_of(path, "p.h5", frames=4))), VOLUME[:4])
    for taken, told in (
        (np.s_[:5], "10 .* 1 were never .* to slice 5"),
        (np.s_[3:], "6 .* 3 were never .* to slice 6"),
    ):
        with pytest.raises(DatasetError, match=rf"p\.h5: of the {told}"):
            open_source(whole_of(path, "p.h5", taken))
    layout = h5py.VirtualLayout((5, 10, 12), "u2")
    layout[:3] = h5py.VirtualSource("p.h5", "data", VOLUME.shape)[:3]
    layout[3:] = h5py.VirtualSource("p.h5", "data", VOLUME.shape)[3:5]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    with pytest.raises(DatasetError, match="of the 4 chunks of data that are taken 1 were"):
        open_source(path)


@pytest.mark.parametrize("dtype", ["u4", "i2", "f4"])
def test_sources_of_a_type_that_may_not_fit_are_refused(tmp_path, dtype):
    path = whole_of(tmp_path / "a.h5", "p.h5")
    write(tmp_path / "p.h5", VOLUME.astype(dtype))
    told = rf"p\.h5 has {np.dtype(dtype)} in data, .* data, which is uint16: take data of p\.h5 itself, or write data"
    with pytest.raises(DatasetError, match=told):
        open_source(path)


@pytest.mark.parametrize(("source", "dtype"), [(">u2", "<u2"), ("u1", "u2"), ("u2", "f4"), ("f8", "f4"), ("u4", "f4")])
def test_a_wider_type_and_another_byte_order_have_all_values_of_the_sources(tmp_path, source, dtype):
    pixels = (VOLUME % 256).astype(source)
    write(tmp_path / "p.h5", pixels)
    np.testing.assert_array_equal(read_all(open_source(whole_of(tmp_path / "a.h5", "p.h5", dtype=dtype))), pixels)
