"""The options of reading: what `info` tells of a source before it is packed, and what `pack` makes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from slice_folder import hpcseg

from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info

SLICES, SIZE = 6, 40


@pytest.fixture
def sample(tmp_path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Slices and labels, which also lie in sample/ of the current folder."""
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample", slices=SLICES, size=SIZE, seed=3)
    read = [
        np.stack([tifffile.imread(path) for path in sorted(Path("sample", kind).iterdir())])
        for kind in ("data", "labels")
    ]
    return read[0], read[1]


def packed_hash(*arguments: str) -> str:
    answer = hpcseg("pack", *arguments, "-o", "new.h5", "--force")
    assert answer.exit_code == 0, answer.output
    return read_info(Path("new.h5")).data_sha256


def test_raw_slices_and_labels_are_packed_as_the_same_tiffs_are(sample):
    expected = packed_hash("sample")
    grey, labels = sample
    Path("grey.raw").write_bytes(b"head" + grey.astype(">u2").tobytes())
    Path("labels.raw").write_bytes(b"head" + labels.astype("u1").tobytes())
    size = ("--shape", f"{SLICES},{SIZE},{SIZE}", "--dtype", "uint16", "--byteorder", "big", "--header", "4")
    assert packed_hash("--images", "grey.raw", "--labels", "labels.raw", *size, "--label-dtype", "uint8") == expected
    assert packed_hash("--images", "grey.raw", "--labels", "sample/labels", *size) == expected, "labels may be others"


def test_a_data_set_of_a_nexus_file_is_named_behind_two_colons(sample):
    expected = packed_hash("sample")
    with h5py.File("scan.nxs", "w") as file:
        file["entry/data/data"], file["entry/labels"] = sample
        file["entry/dark"] = sample[0] // 2
    assert packed_hash("--images", "scan.nxs::entry/data/data", "--labels", "scan.nxs::entry/labels") == expected


def test_info_lists_what_a_file_holds_before_one_of_it_is_chosen(sample):
    with h5py.File("scan.h5", "w") as file:
        file["one"], file["two"] = sample[0], sample[0][:, :20]
    answer = hpcseg("info", "scan.h5")
    assert answer.exit_code == 0, answer.output
    assert f"scan.h5::one  {SLICES} x {SIZE} x {SIZE} uint16" in answer.stdout and "scan.h5::two" in answer.stdout
    assert "Slices" not in answer.stdout and "Note: " in answer.stderr, "there is a choice"
    missed = hpcseg("info", "scan.h5::three")
    assert missed.exit_code == 2 and "error: scan.h5 has no data set three of slices" in missed.stderr
    chosen = hpcseg("info", "scan.h5::two")
    assert f"Slices      {SLICES} of 20 x {SIZE} pixels, uint16" in chosen.stdout
    told = json.loads(hpcseg("info", "scan.h5::two", "--json").stdout)
    assert (told["slices"], told["shapes"], told["dtypes"]) == (SLICES, [[20, SIZE]], ["uint16"])
    assert set(told["parts"]) == {"one", "two"}


def test_what_holds_no_numbers_is_no_slices(sample):
    texts = np.array([["a", "b"], ["c", "d"]], dtype=object)
    record = np.zeros((6, 40, 40), dtype=[("count", "u2")])
    with h5py.File("scan.h5", "w") as file:
        file["entry/data"] = sample[0]
        file.create_dataset("entry/names", data=texts, dtype=h5py.string_dtype())
        file["entry/records"], file["entry/waves"] = record, np.zeros((6, 20, 20), "c8")
        time = h5py.h5t.UNIX_D32LE  # a type that numpy has not
        h5py.h5d.create(file["entry"].id, b"times", time, h5py.h5s.create_simple((6, 40, 40)))
    answer = hpcseg("info", "scan.h5")
    assert answer.exit_code == 0 and f"Slices      {SLICES} of {SIZE} x {SIZE} pixels, uint16" in answer.stdout
    told = json.loads(hpcseg("info", "scan.h5", "--json").stdout)
    assert set(told["parts"]) == {"entry/data"}
    for name in ("names", "times"):
        refused = hpcseg("pack", "--images", f"scan.h5::entry/{name}", "--labels", "sample/labels", "-o", "none.h5")
        assert refused.exit_code == 3 and "Traceback" not in refused.output
        said = " ".join(refused.stderr.split())
        assert f"scan.h5::entry/{name} is (" in said and "is named as FILE::NAME: there is entry/data" in said


def test_what_is_said_of_a_raw_file_goes_before_what_lies_beside_it(sample):
    expected = packed_hash("sample")
    Path("grey.vol").write_bytes(sample[0].astype("<u2").tobytes())
    sizes = f"NUM_X = {SIZE}\nNUM_Y = {SIZE}\nNUM_Z = {SLICES}\n"
    Path("grey.vol.info").write_text(f"{sizes}BYTEORDER = HIGHBYTEFIRST\n")
    command = ("--images", "grey.vol", "--labels", "sample/labels", "--dtype", "uint16")
    assert packed_hash(*command) != expected
    assert packed_hash(*command, "--byteorder", "little") == expected
    Path("grey.vol").write_bytes(sample[0].astype(">u2").tobytes())
    assert packed_hash(*command) == expected
    Path("grey.vol.info").write_text(f"{sizes}BYTEORDER = BIGENDIAN\n")
    refused = hpcseg("info", "grey.vol")
    assert refused.exit_code == 3 and "says BYTEORDER = BIGENDIAN. Say which it is: --byteorder" in refused.stderr
    Path("grey.vol.info").write_text("BYTEORDER = HIGHBYTEFIRST\n")
    assert packed_hash(*command, "--shape", f"{SLICES},{SIZE},{SIZE}") == expected


def test_info_tells_numbers_with_gaps_and_the_voxel(sample):
    for number in (3, 4):
        Path(f"sample/data/sample{number:04}.tiff").unlink()
    gaps = hpcseg("info", "sample/data")
    assert "Numbers     1 to 6, 2 between them not there" in gaps.stdout
    Path("sample/data/sample0005.tiff").rename("sample/data/other.tiff")
    unnumbered = hpcseg("info", "sample/data")
    assert unnumbered.exit_code == 0 and "this cannot be packed" in unnumbered.stderr
    store = zarr.open_array("scan.zarr", mode="w", shape=sample[0].shape, dtype="u2")
    store[:] = sample[0]
    assert "Voxel       of unknown size" in hpcseg("info", "scan.zarr").stdout


def test_the_size_of_a_voxel_goes_into_the_packed_file_and_not_into_its_hash(sample):
    expected = packed_hash("sample")
    assert "Voxel       of unknown size" in hpcseg("info", "new.h5").stdout
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite("grey.tif", sample[0], imagej=True, resolution=(4, 4), metadata=metadata)
    assert packed_hash("--images", "grey.tif", "--labels", "sample/labels") == expected
    assert "Voxel       2 x 0.25 x 0.25 um (depth, height, width)" in hpcseg("info", "new.h5").stdout


def test_which_number_of_a_name_is_the_slices_can_be_said(sample):
    expected = packed_hash("sample")
    for kind in ("data", "labels"):
        for number, path in enumerate(sorted(Path("sample", kind).iterdir()), start=1):
            path.rename(path.with_name(f"{kind}_{number:03}_{(7 * number) % 10}.tiff"))
    assert packed_hash("sample", "--number", r"_(\d+)_") == expected


def test_turned_slices_are_packed_as_they_are_shown_with_a_note_or_as_they_are_stored(sample):
    expected = packed_hash("sample")
    for kind, pixels in zip(("data", "labels"), sample, strict=True):
        for path, one in zip(sorted(Path("sample", kind).iterdir()), pixels, strict=True):
            tag = [(274, "H", 1, 3, True)]  # Orientation 3: turned by 180 degrees
            tifffile.imwrite(path, one[::-1, ::-1], photometric="minisblack", metadata=None, extratags=tag)
    answer = hpcseg("pack", "sample", "-o", "new.h5", "--force")
    assert "were turned as they are shown" in " ".join(answer.stderr.split())
    assert read_info(Path("new.h5")).data_sha256 == expected
    assert packed_hash("sample", "--pixels", "stored") != expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "grey.raw"], 2, "Say it: --shape SLICES,HEIGHT,WIDTH"),
        (["info", "grey.raw", "--shape", "6,40"], 2, '--shape is "6,40"'),
        (["info", "sample/data", "--verify"], 3, "is a folder, but a packed data set is a file"),
        (["info", "sample/data::one"], 2, "::"),
        (["info", "nowhere.h5::one"], 3, "There is no"),
        (["pack", "sample", "--number", "("], 2, "--number"),
    ],
)
def test_what_cannot_be_read_so_is_one_sentence(sample, arguments, code, message):
    Path("grey.raw").write_bytes(bytes(100))
    answer = hpcseg(*arguments)
    assert (answer.exit_code, answer.stderr.count("Traceback")) == (code, 0), answer.output
    assert message in answer.stderr


def test_a_type_may_say_its_byte_order_and_not_another_than_the_option(sample):
    expected = packed_hash("sample")
    Path("grey.raw").write_bytes(sample[0].astype(">u2").tobytes())
    size = ("--shape", f"{SLICES},{SIZE},{SIZE}", "--dtype", ">u2")
    assert packed_hash("--images", "grey.raw", "--labels", "sample/labels", *size) == expected
    answer = hpcseg("info", "grey.raw", *size, "--byteorder", "little")
    assert answer.exit_code == 2 and "--dtype >u2 says big and --byteorder little" in answer.stderr


def test_raw_labels_may_have_another_byte_order_than_raw_slices_and_no_header(sample):
    grey, labels = sample
    np.save("grey.npy", grey)
    np.save("labels.npy", labels.astype("u2"))
    expected = packed_hash("--images", "grey.npy", "--labels", "labels.npy")
    Path("grey.raw").write_bytes(b"head" + grey.astype(">u2").tobytes())
    Path("labels.raw").write_bytes(labels.astype("<u2").tobytes())
    raw = ("--shape", f"{SLICES},{SIZE},{SIZE}", "--dtype", "uint16", "--byteorder", "big", "--header", "4")
    both = ("--images", "grey.raw", "--labels", "labels.raw", *raw)
    assert packed_hash(*both, "--label-dtype", "<u2") == expected
    answer = hpcseg("pack", *both, "--label-dtype", "uint16", "-o", "wrong.h5")
    told = "wrong byte order: --label-dtype says"
    assert answer.exit_code == 0 and told in " ".join(answer.stderr.split())
    np.save("large.npy", labels.astype("i8") << 40)
    answer = hpcseg("pack", "--images", "grey.npy", "--labels", "large.npy", "-o", "large.h5")
    assert answer.exit_code == 0 and told not in " ".join(answer.stderr.split())
    Path("labels.raw").write_bytes(b"head" + labels.astype("<u2").tobytes())
    assert packed_hash(*both, "--label-dtype", "<u2") == expected
    answer = hpcseg("info", "labels.raw", *raw[:-1], "0")
    assert answer.exit_code == 3, "of a file that is read by itself what is said of its header is certain"


def test_raw_labels_have_the_shape_of_slices_with_a_header(sample):
    expected = packed_hash("sample")
    grey, labels = sample
    Path("labels.raw").write_bytes(labels.astype("u1").tobytes())
    tifffile.imwrite("grey.tif", grey, photometric="minisblack", metadata=None)
    given = ("--labels", "labels.raw", "--label-dtype", "uint8")
    shape = ("--shape", f"{SLICES},{SIZE},{SIZE}")
    assert (
        packed_hash("--images", "grey.tif", *given) == packed_hash("--images", "grey.tif", *given, *shape) == expected
    )
    Path("grey.vol").write_bytes(grey.astype("<u2").tobytes())
    info = f"NUM_X = {SIZE}\nNUM_Y = {SIZE}\nNUM_Z = {SLICES}\n"
    Path("grey.vol.info").write_text(info)
    assert packed_hash("--images", "grey.vol", "--dtype", "uint16", *given) == expected
    # What is said of a raw file is of the one that there is.
    Path("labels.raw").write_bytes(b"head" + labels.astype("u1").tobytes())
    np.save("grey.npy", grey)
    for images in ("grey.tif", "grey.npy", "sample/data"):
        assert packed_hash("--images", images, *given, "--header", "4") == expected
    np.save("labels.npy", labels)
    Path("grey.raw").write_bytes(b"head" + grey.astype(">u2").tobytes())
    raw = ("--dtype", "uint16", "--byteorder", "big", "--header", "4")
    assert packed_hash("--images", "grey.raw", "--labels", "labels.npy", *shape, *raw) == expected
    answer = hpcseg("pack", "--images", "grey.tif", "--labels", "labels.raw", "-o", "o.h5")
    assert answer.exit_code == 2 and "of labels --label-dtype uint8" in " ".join(answer.stderr.split())


def test_slices_that_are_numbered_otherwise_than_a_stack_of_labels_are_told_of_the_option_that_mends_it(sample):
    Path("in").mkdir()
    for index, pixels in enumerate(sample[0]):
        tifffile.imwrite(f"in/s{index:04}.tif", pixels, metadata=None)
    tifffile.imwrite("labels.tif", sample[1], photometric="minisblack", metadata=None)
    answer = hpcseg("pack", "--images", "in", "--labels", "labels.tif", "-o", "o.h5")
    assert answer.exit_code != 0 and "labels.tif are numbered from 1; --first says" in " ".join(answer.stderr.split())
    assert hpcseg("pack", "--images", "in", "--labels", "labels.tif", "-o", "o.h5", "--first", "0").exit_code == 0


def test_a_home_that_the_shell_has_left_is_the_users(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hpcseg("pack", "~/sample", "--output=~/new.h5").exit_code == 0
    assert read_info(tmp_path / "new.h5").shape[0] == SLICES
    assert "numbers 1 to" in hpcseg("info", "~/new.h5").stdout
    assert not Path("~").exists()


def test_what_is_not_there_is_missed_as_what_its_name_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.tif")
    for name, told in (
        ("a.tif", "There is no folder or file of slices a.tif"),
        ("a.h5", "There is no packed data set a.h5"),
        ("pipe.tif", "pipe.tif is no folder and no regular file"),
    ):
        answer = hpcseg("info", name)
        assert answer.exit_code != 0 and told in " ".join(answer.stderr.split())


def test_a_voxel_that_is_known_since_and_a_value_that_no_label_has_are_said(sample):
    hpcseg("pack", "sample", "-o", "new.h5")
    for path in Path("sample/data").iterdir():
        tifffile.imwrite(path, tifffile.imread(path), metadata=None, resolution=(1000, 1000), resolutionunit=3)
    said = " ".join(hpcseg("pack", "sample", "-o", "new.h5").stderr.split())
    assert "voxels are 0.001 x 0.001 x 0.001 cm" in said and "of unknown size in new.h5; --force" in said
    said = " ".join(hpcseg("pack", "sample", "-o", "other.h5", "--ignore", "99").stderr.split())
    assert "no pixel of these slices is labelled 99, which --ignore names" in said


def test_a_page_of_json_is_no_edf_and_does_not_hide_what_else_is_there(tmp_path):
    (tmp_path / "acquisition.json").write_text('{\n "energy": "20 keV"\n}\n')
    (tmp_path / "s1.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    assert "s1.jpg is a JPEG; save it as TIFF" in hpcseg("info", tmp_path).stderr
    (tmp_path / "a.edf").write_bytes(b"{\nHeaderID = EH:000001:000000:000000 ;\nDim_1 = 4 ;\n".ljust(1024) + bytes(32))
    assert "it is a file of the ESRF's format EDF; `silx convert`" in hpcseg("info", tmp_path / "a.edf").stderr


def test_info_says_of_a_mask_that_it_can_be_packed_as_labels_and_of_complex_numbers_that_they_cannot(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.eye(9, dtype=bool)[None])
    np.save(tmp_path / "complex.npy", np.ones((2, 4, 5), np.complex64))
    assert "as labels they can be packed" in " ".join(hpcseg("info", tmp_path / "mask.tif").stderr.split())
    answer = hpcseg("info", tmp_path / "complex.npy")
    assert "as labels" not in answer.stdout + answer.stderr


def test_info_says_of_slices_of_several_types_that_they_cannot_be_used(tmp_path):
    for number, dtype in ((1, np.uint8), (2, np.uint16)):
        tifffile.imwrite(tmp_path / f"s{number}.tif", np.ones((4, 5), dtype))
    answer = hpcseg("info", tmp_path)
    assert answer.exit_code == 0 and "as slices these can be neither packed nor segmented" in answer.stderr
    assert "s2.tif is uint16, but s1.tif is uint8" in " ".join(answer.stderr.split())
