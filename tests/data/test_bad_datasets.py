"""Packed files that cannot be used, through the verbs that read them: one sentence, and exit code 3."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from slice_folder import hpcseg


@pytest.fixture
def packed(good, output):
    assert hpcseg("pack", good, "-o", output).exit_code == 0
    return output


@pytest.fixture
def refused(tmp_path):
    """What every verb that reads a packed file says of one, which must be the same, and the reason alone."""
    (tmp_path / "job.toml").write_text("")

    def read(file):
        results = [
            hpcseg("info", file, "--verify"),
            hpcseg("info", file, "--verify", "--json"),
            hpcseg("grid", "--local", "--dry-run", "--job", tmp_path / "job.toml", "--data", file),
        ]
        assert [result.exit_code for result in results] == [3, 3, 3]
        assert {result.stdout for result in results} == {""}
        (told,) = {result.stderr for result in results}
        assert told.startswith("error: ")
        assert str(file) in told
        assert len(told.splitlines()) == 1
        return told

    return read


def test_info_of_a_damaged_file_names_it_and_ends_with_3(packed):
    with h5py.File(packed, "r+") as file:
        file["slices"][1, 5, 5] += 1
    assert hpcseg("info", packed).exit_code == 0
    result = hpcseg("info", packed, "--verify")
    assert result.exit_code == 3
    assert str(packed) in result.stderr
    assert "image2.tif" in result.stderr


@pytest.mark.parametrize("kept", [0, 100, 8_000, -1])
def test_a_file_that_was_cut_short_is_refused(packed, refused, kept):
    packed.write_bytes(packed.read_bytes()[:kept])
    assert "is damaged: it is no HDF5 file, or was cut short" in refused(packed)
    told = hpcseg("info", packed)  # takes it for a source of slices
    assert (told.exit_code, told.stdout) == (3, "") and str(packed) in told.stderr


def test_a_file_of_a_newer_schema_is_refused(packed, refused):
    with h5py.File(packed, "r+") as file:
        file.attrs["schema_version"] = 5
    told = refused(packed)
    assert "packed.h5 has schema version 5, but " in told
    assert "reads up to 4. Update hpcseg, or pack the slices again" in told


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link to itself", "nothing", "a name that is too long"])
def test_what_is_no_file_is_refused(tmp_path, refused, kind):
    path = tmp_path / ("n" * 300 if kind == "a name that is too long" else "data.h5")
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to itself":
        path.symlink_to(path)
    told = refused(path)
    if kind == "a folder":
        assert "is a folder, but a packed data set is a file" in told
    else:
        assert "There is no packed data set" in told and "Make one with `hpcseg pack" in told


# As a program that copies or edits HDF5 files might leave them; three slices of three classes.
ATTRIBUTES = {
    "format": [[1, 2], ["hpcseg-dataset", "twice"], b"\xff"],
    "schema_version": ["one", [1, 2], 0, 1.0, np.nan],
    "full_scale": ["large", [1.0, 2.0], 0.0, np.nan, 255.0],
    "class_values": ["many", 3, np.zeros(0, "i8"), [0, 128], [0, 128, 254], list(range(300))],
    "class_names": [3, ["pore"], "pore"],
    "label_dtype": ["", "nonsense", 7, "float32"],
    "alike_slices": ["far", 0, -1, 4, 2.0, [1, 2], np.nan],
    "data_sha256": ["0" * 64],
}
DATASETS = {
    "slices": [
        h5py.SoftLink("/slices"),
        np.zeros((3, 40), "u2"),
        np.zeros((2, 40, 48), "u2"),
        np.zeros((0, 40, 48), "u2"),
        None,
    ],
    "labels": [np.zeros((3, 20, 24), "u1"), np.zeros((3, 40, 48), "f4"), np.full((3, 40, 48), -1, "i2"), None],
    "table": [3, None],
    "table/numbers": [[1, 2], [[1, 2, 3]], [], [1, 2, 4], [1.0, 2.0, 3.0], ["1", "2", "3"], None],
    "table/class_counts": [np.ones(3), np.zeros((3, 3), "i8"), np.ones((2, 3)), np.full((3, 3), "a", dtype="S1")],
    "table/grey_min": [["a", "b", "c"], [0.0], []],
    "table/image_names": [[1, 2, 3], ["a"], "a", np.array([b"\xff", b"b", b"c"]), None],
    "table/border_pixels": [[1, 2], ["a", "b", "c"]],
    "table/label_sha256": [["a", "b", "c"], ["a"]],
}


def cases(values):
    return [
        pytest.param(name, value, id=f"{name}-{n}") for name, some in values.items() for n, value in enumerate(some)
    ]


@pytest.mark.parametrize(("name", "value"), cases(ATTRIBUTES))
def test_an_attribute_that_does_not_belong_to_the_rest_is_refused(packed, refused, name, value):
    with h5py.File(packed, "r+") as file:
        file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
    told = refused(packed)
    assert "is damaged" in told or (name == "format" and "was not written by hpcseg" in told)


@pytest.mark.parametrize(("name", "value"), cases(DATASETS))
def test_a_part_of_another_kind_size_or_type_is_refused(packed, refused, name, value):
    with h5py.File(packed, "r+") as file:
        del file[name]
        if value is None:
            file.create_group(name)
        else:
            file[name] = value
    assert "is damaged" in refused(packed)


def test_slices_without_end_are_refused_in_a_moment(packed, refused):
    with h5py.File(packed, "r+") as file:
        for name, dtype in (("slices", "u2"), ("labels", "u1")):
            del file[name]
            file.create_dataset(name, (10**9, 10**5, 10**5), dtype=dtype, chunks=(1, 128, 128))
    assert "is damaged" in refused(packed)


def test_pack_does_not_take_a_damaged_file_for_the_same_data(good, packed):
    with h5py.File(packed, "r+") as file:
        file.attrs["full_scale"] = 0.0
    result = hpcseg("pack", good, "-o", packed)
    assert result.exit_code == 2
    assert "does not hold these slices" in result.stderr
