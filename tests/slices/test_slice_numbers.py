"""The number of a slice is the one in the names that tells them apart; where several do, the user says which."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.numbers import number_names
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

NAMES = {
    "one number": (["a1.tif", "a2.tif", "a10.tif"], [1, 2, 10]),
    "a date behind it": (["p07_2021-12-31.tif", "p08_2021-12-31.tif", "p09_2021-12-31.tif"], [7, 8, 9]),
    "bits behind it": (["0010_16bit.tif", "0011_16bit.tif"], [10, 11]),
    "one that says nothing behind it": (["n001_881.tif", "n002_13.tif", "n003_402.tif"], [1, 2, 3]),
    "decimals": (["z_1.5.tif", "z_2.25.tif", "z_10.0.tif"], [150, 225, 1000]),
    "decimals and whole numbers": (["z_1.tif", "z_1.25.tif", "z_-1.5.tif"], [100, 125, -150]),
    "decimals of which some have one digit": (["z=0.05.tif", "z=0.1.tif", "z=0.15.tif"], [5, 10, 15]),
    "a point before a count": (["scan1.001.tif", "scan1.002.tif"], [1, 2]),
    "a point before a count beyond 10": (["scan1.0.tif", "scan1.9.tif", "scan1.11.tif"], [0, 9, 11]),
    "a point before a count beyond 100": (["scan1.00.tif", "scan1.99.tif", "scan1.101.tif"], [0, 99, 101]),
    "quarters": (["z_1.0.tif", "z_1.25.tif", "z_1.5.tif", "z_1.75.tif"], [100, 125, 150, 175]),
    "millimetres": (["z=0.05mm.tif", "z=0.10mm.tif", "z=0.15mm.tif"], [5, 10, 15]),
    "below zero": (["t_-02.tif", "t_-01.tif", "t_00.tif"], [-2, -1, 0]),
    "nothing but below zero": (["t_-02.tif", "t_-01.tif"], [-2, -1]),
    "hyphens": (["scan-1.tif", "scan-2.tif"], [1, 2]),
    "a minus behind a letter": (["z-2.tif", "z-01.tif", "z0.tif", "z1.tif"], [-2, -1, 0, 1]),
    "two suffixes": (["s4.ome.tif", "s5.ome.tif"], [4, 5]),
    "spaces and brackets": (["my scan (3) .tif", "my scan (4) .tif"], [3, 4]),
    "other digits": (["कट_१.tif", "कट_२.tif"], [1, 2]),
    "one file": (["rec_0007_8bit.tif"], [7]),
    "one file without zeros": (["rec_7_8bit.tif"], [8]),
    "written twice": (["0001_0001.tif", "0002_0002.tif"], [1, 2]),
}


@pytest.mark.parametrize(("names", "numbers"), NAMES.values(), ids=NAMES)
def test_the_number_is_what_tells_names_apart(names, numbers):
    faults = []
    assert number_names(names, faults)[0] == numbers and not faults


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["c1_01.tif", "c2_01.tif", "c1_02.tif", "c2_02.tif"],
            r"differ in 2 numbers \(1 and 01 in c1_01.tif\).*--number '_\(\\d\+\)'",
        ),
        (
            ["c1_2.tif", "c2_2.tif", "c1_1.tif", "c2_1.tif"],
            r"differ in 2 numbers \(1 and 2 in c1_2.tif\).*--number '_\(\\d\+\)'",
        ),
        (["mean.tif", "c1_01.tif", "c2_01.tif", "c1_02.tif"], "mean.tif has no number in its name"),
        (["a1.tif", "mean.tif"], "mean.tif has no number in its name"),
        (["a1.tif", f"a{10**18}.tif"], f"a{10**18}.tif has a number of more than 18 digits"),
    ],
)
def test_names_that_do_not_say_a_number_are_named(names, told):
    faults = []
    number_names(names, faults)
    assert re.search(told, "; ".join(faults))


@pytest.fixture
def folder(tmp_path):
    def make(names, values=None):
        place = tmp_path / f"f{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for index, name in enumerate(names):
            value = index if values is None else values[index]
            tifffile.imwrite(place / name, np.full((3, 4), value, np.uint8), metadata=None)
        return place

    return make


def test_a_pattern_says_which_number_is_meant_and_names_the_odd_ones(folder):
    names = [f"c{channel}_{slice_:02}.tif" for slice_ in (1, 2) for channel in (5, 9)]
    source = open_source(folder(names[::2]), Reading(number=r"_(\d+)"))
    assert source.numbers == (1, 2)
    with pytest.raises(DatasetError, match=r"c9_01.tif and c5_01.tif both have the number 1"):
        open_source(folder(names), Reading(number=r"_(\d+)"))
    with pytest.raises(DatasetError, match=r"c5_01.tif has no number in its name as --number 'x\(.d\)' says"):
        open_source(folder(names), Reading(number=r"x(\d)"))
    told_of = {
        "(": "no regular expression",
        r"_\d+": "must be in brackets",
        "(c)": "'c' in c5_01.tif, which is no whole",
    }
    for pattern, told in {**told_of, r"c(x)?": "finds nothing for its brackets in c5_01.tif"}.items():
        with pytest.raises(ConfigError, match=told):
            open_source(folder(names), Reading(number=pattern))


def test_which_of_several_numbers_was_taken_is_said(folder):
    source = open_source(folder(["s0001_8bit.tif", "s0002_8bit.tif"]))
    assert source.notes == ("the number of a slice is that of 0001 in s0001_8bit.tif; --number says otherwise.",)
    assert open_source(folder(["s0001.tif", "s0002.tif"])).notes == ()


def test_a_name_with_more_numbers_than_the_others_is_the_one_of_which_it_is_said(folder):
    source = open_source(folder(["slice1.tif", "slice2.tif", "slice7_v3.tif"]))
    assert source.numbers == (1, 2, 3)
    assert source.notes == ("the number of a slice is that of 3 in slice7_v3.tif; --number says otherwise.",)


def test_a_label_called_as_its_image_has_its_number():
    """Where few slices are labelled, several numbers may tell those apart."""
    known, faults = {"s001_39": 1, "s002_40": 2, "s004_42": 4}, []
    assert number_names(["s002_40.tif", "s004_42.tif"], faults, known=known)[0] == [2, 4] and not faults
    number_names(["s002_40.tif", "s004_42.tif"], faults)
    assert "differ in 2 numbers" in faults[0]


def test_what_systems_leave_in_folders_is_no_slice(folder):
    place = folder(["s1.tif", "s2.TIFF"])
    for name in ("._s1.tif", ".s3.tif", ".DS_Store", "Thumbs.db", "desktop.ini", "s4.tif.part"):
        (place / name).write_bytes(b"\0\5\x16\7")
    for name in ("@eaDir", "s5.tif"):
        (place / name).mkdir()
    assert open_source(place).names == ("s1.tif", "s2.TIFF")


def test_a_file_that_is_called_as_the_slices_are_and_is_no_tiff_is_named(folder):
    place = folder(["s1.tif", "s2.tif", "s4.tif"])
    for name in ("s2.txt", "s10.json", "scan.log"):
        (place / name).touch()
    assert "s10.json in " in " ".join(open_source(place).notes), "of a slice that is not there"
    (place / "s10.json").unlink()
    assert open_source(place).notes == (), "what lies beside a slice is about it"
    for name in ("s3.png", "s5.tif.part"):
        (place / name).touch()
    (note,) = open_source(place, Reading(needs_numbers=False)).notes
    assert note.startswith("s3.png, s5.tif.part in ") and "are no TIFFs" in note
    (place / "s3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        DatasetError, match=r"s3\.png is named as a slice of which there is no TIFF, and is a PNG; save it as"
    ):
        open_source(place, Reading(needs_numbers=False))
    (place / "s3.tif").write_bytes((place / "s2.tif").read_bytes())
    assert len(open_source(place)) == 4, "a picture beside its slice is about it"


@pytest.mark.parametrize(
    ("names", "lost", "about"),
    [
        (["scan1.001.tif", "scan1.002.tif"], "scan1.003.png", ["scan1.002.png", "scan1.log", "scan1.001.tif.txt"]),
        (["scan.s001.tif", "scan.s002.tif"], "scan.s003.png", ["scan.s002.png", "scan.txt"]),
        (["s1.ome.tif", "s2.ome.tif"], "s3.png", ["s2.png", "s2.ome.xml"]),
        (["s1.8bit.tif", "s2.8bit.tif"], "s3.8bit.png", ["s2.8bit.png", "s2.png"]),
    ],
)
def test_a_picture_whose_number_stands_behind_a_point_is_named_as_others_are(folder, names, lost, about):
    place = folder(names)
    for name in about:
        (place / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    assert len(open_source(place)) == 2, "what lies beside a slice is about it"
    (place / lost).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        DatasetError, match=rf"cannot be used: {re.escape(lost)} is named as a slice[^;]*; save it as TI"
    ):
        open_source(place)


def test_slices_to_segment_need_no_number_and_come_as_a_person_counts_them(folder):
    place = folder(["b.tif", "a10.tif", "a9.tif"])
    assert open_source(place, Reading(needs_numbers=False)).names == ("a9.tif", "a10.tif", "b.tif")
    halves = ["bottom_1.tif", "bottom_2.tif", "top_1.tif", "top_2.tif"]
    source = open_source(folder(halves), Reading(needs_numbers=False))
    assert list(source.names) == halves and not source.numbered
    assert source.notes[0].endswith("a number of each slice: they come in natural order, from bottom_1.tif on.")


def test_a_file_without_a_number_among_slices_that_have_some_is_named(folder):
    place = folder(["rec_1.tif", "rec_2.tif", "average.tif", "rec_3.tif"])
    (note,) = open_source(place, Reading(needs_numbers=False)).notes
    assert "(none in average.tif: move away what is no slice)" in note


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["z_0.75.tif", "z_1.0.tif", "z_1.25.tif", "z_1.5.tif"], (75, 100, 125, 150)),
        (["z_-2.tif", "z_-1.tif", "z_0.tif", "z_1.tif"], (-2, -1, 0, 1)),
        (["a.tif", "b.tif", "c1.tif", "d1.tif"], (1, 2, 3, 4)),
    ],
)
def test_slices_to_segment_come_in_the_order_and_with_the_numbers_with_which_they_are_packed(folder, names, numbers):
    place = folder(names)
    assert list(open_source(place, Reading(needs_numbers=False)).names) == names
    assert open_source(place, Reading(needs_numbers=False)).numbers == numbers
    if numbers[0] != 1:
        assert list(open_source(place).names) == names


def test_a_slice_that_is_alone_in_its_folder_is_the_first_whatever_it_is_called(folder):
    """As Fiji saves it; the file itself is the same."""
    images, labels = folder(["scan.tif"]), folder(["scan.tif"])
    for pairs in (find_pairs(images, labels), find_pairs(images / "scan.tif", labels)):
        assert pairs.images.numbers == (1,)
    assert open_source(images, Reading(needs_numbers=False)).form == "folder"


@pytest.mark.parametrize(
    ("images", "labels", "wanted"),
    [
        (["i_0.05", "i_0.1", "i_0.5", "i_1.0", "i_5.0"], ["l_0.5", "l_1.0"], ["i_0.5", "i_1.0"]),
        (["i_0.05", "i_0.1", "i_0.5", "i_1.0", "i_5.0"], ["l_0.5"], ["i_0.5"]),
        (["i_0.5", "i_1.0", "i_1.5", "i_15.0"], ["l_1.50"], ["i_1.5"]),
        (["i_01_2", "i_02_4", "i_03_6", "i_04_8"], ["l_02_4"], ["i_02_4"]),
        (["i_1_8bit", "i_8_8bit"], ["l_1_8bit"], ["i_1_8bit"]),
    ],
)
def test_a_label_that_is_called_otherwise_has_the_number_that_its_image_has(folder, images, labels, wanted):
    """Also where so few labels would not tell which number counts."""
    pairs = find_pairs(folder([f"{name}.tif" for name in images]), folder([f"{name}.tif" for name in labels]))
    assert [Path(name).stem for name in pairs.images.names] == wanted


def test_labels_of_slices_below_zero_are_of_those(folder):
    """They are called otherwise, so that their numbers are their own."""
    images = folder([f"image_{number}.tif" for number in (-2, -1, 0, 1, 2)])
    labels = folder([f"label_{number}.tif" for number in (-2, -1)], [0, 1])
    pairs = find_pairs(images, labels)
    assert pairs.images.numbers == pairs.labels.numbers == (-2, -1)
    assert [pairs.images.read(index)[0, 0] for index in (0, 1)] == [0, 1]
    images, labels = folder([f"z{number}.tif" for number in (-2, -1, 0, 1, 2)]), folder(["mask-1.tif"])
    pairs = find_pairs(images, labels)
    assert pairs.images.names == ("z-1.tif",)
    assert pairs.notes[0] == "the number of a slice is that of -1 in z-1.tif; --number says otherwise."


def test_the_home_of_the_user_is_understood(folder, monkeypatch):
    place = folder(["s1.tif"])
    monkeypatch.setenv("HOME", str(place.parent))
    assert len(open_source(Path("~") / place.name)) == 1


SLICES = {f"slice_{number:04}": number for number in range(1, 13)}
BARE = {str(number): number for number in range(1, 61)}
YEARS = {f"{number:04}": number for number in range(1, 3000)}
DAYS = {f"day{1 + (number > 6)}_{number:04}": number for number in range(1, 13)}


@pytest.mark.parametrize(
    ("labels", "known", "numbers"),
    [
        (["slice_0005_8bit"], SLICES, [5]),
        (["slice_0005_ann1", "slice_0008_ann2", "slice_0011_ann3"], SLICES, [5, 8, 11]),
        (["label_1_of_slice_0004", "label_2_of_slice_0008", "label_3_of_slice_0012"], SLICES, [4, 8, 12]),
        (["day1_0003_label", "day2_0009_label"], DAYS, [3, 9]),
        (["mask_0005_ann1", "mask_0008_ann2"], SLICES, [5, 8]),  # by how images write their numbers
        (["mask_0005_8bit"], SLICES, [5]),
        (["2021_lab5", "2021_lab7"], SLICES, [5, 7]),  # by which slices there are
        (["a10_x"], {"a1": 1, "a10": 10}, [10]),
        # What others count is no number of an image, however it is written.
        (["001_8bit", "002_8bit", "060_8bit"], BARE, [1, 2, 60]),
        (["class1_000", "class1_001", "class1_019"], BARE, [0, 1, 19]),
        (["1_512x512", "2_512x512"], BARE, [1, 2]),
        (["mask_1_of_20", "mask_2_of_20"], BARE, [1, 2]),
        (["2024-03-12_1", "2024-03-12_5"], YEARS, [1, 5]),
        (["scan1_1_mask", "scan1_2_mask"], {f"scan1_{number:03}": number for number in range(1, 20)}, [1, 2]),
        (["scan_01_11_mask"], {f"scan_01_{number:04}": number for number in range(1, 20)}, [11]),
        (["bin2_seg_000", "bin2_seg_001"], {f"bin2_{number:04}": number for number in range(20)}, [0, 1]),
        (["slice0001_8bit", "slice0002_8bit"], {f"slice{number}": number for number in range(1, 20)}, [1, 2]),
        (["0_fold1", "1_fold1", "2_fold2"], {str(number): number for number in range(5)}, [0, 1, 2]),
        (["slice_0005_1", "mask_0006_2"], SLICES, [5, 6]),
        # Of whose names the label's is a part.
        (["rec_0002", "rec_0006"], {f"rec_{2 * number:04}_{number:04}": number for number in range(1, 9)}, [1, 3]),
        (["s0002", "s0004"], {f"{number:04}_s{2 * number:04}": number for number in range(1, 9)}, [1, 2]),
        (["00004deg"], {f"proj_{number:04}_{2 * number:05}deg": number for number in range(1, 9)}, [2]),
        (["s1", "s2", "s5"], {f"s1_{number:04}": number for number in range(1, 9)}, [1, 2, 5]),
        (["sample2_7_mask"], {f"sample2_{number:04}": number for number in range(1, 13)}, [7]),
    ],
)
def test_a_label_has_the_number_of_the_image_that_its_name_is_of(labels, known, numbers):
    """Whatever else counts up in the names of labels."""
    faults = []
    assert number_names([f"{name}.tif" for name in labels], faults, known=known)[0] == numbers and not faults


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["anno1_0031", "anno2_0040", "anno4_0056"], r"has 2 numbers that a slice has \(1 and 0031\)"),
        (["031_v3", "040_v5", "050_v9"], r"has 2 numbers that a slice has"),
        (["seg_2024_5"], r"has \d numbers that a slice has \(2024 and 5\)"),
        (["class1_011"], r"has 2 numbers that a slice has \(1 and 011\)"),
        (["mask_5_v1", "mask_8_v2"], r"has 2 numbers that a slice has \(5 and 1\). Name labels as their images"),
        (["mask_5_v8"], r"mask_5_v8.tif has 2 numbers that a slice has \(5 and 8\).*--number"),
        (["slice_0005_vs_slice_0006"], r"has 2 numbers that a slice has \(0005 and 0006\)"),
    ],
)
def test_a_label_that_may_be_of_two_images_is_refused(labels, told):
    faults = []
    known = YEARS if "2024" in labels[0] else BARE if "mask" not in labels[0] and "slice" not in labels[0] else SLICES
    assert set(number_names([f"{name}.tif" for name in labels], faults, known=known)[0]) == {None}
    assert re.search(told, "; ".join(faults))


def test_a_number_that_all_images_have_behind_a_word_is_of_no_slice():
    known, faults = {f"sample2_{number:04}": number for number in range(1, 13)}, []
    assert number_names(["sample2_mask.tif"], faults, known=known)[0] == [None]
    assert faults == ["sample2_mask.tif has no number in its name to say which slice it is"]


def test_which_number_of_the_only_label_was_taken_is_said_where_images_are_numbered_otherwise():
    assert number_names(["mask_v3.tif"], [], known=SLICES) == ([3], "3 in mask_v3.tif")
    assert number_names(["label_0003.tif"], [], known=SLICES) == ([3], "")


def test_a_pattern_that_is_proposed_finds_the_number_that_it_stands_for():
    names = [f"2023-05-04_12-01-{number:02}_{number + 4:03}.tif" for number in range(1, 9)]
    faults = []
    number_names(names, faults)
    (pattern,) = re.findall(r"such as --number '(.*)'", faults[0])
    assert number_names(names, faults, pattern=pattern)[0] == list(range(5, 13))


def test_signs_of_both_kinds_are_understood():
    names, wanted = [f"z{number:+}.tif" for number in range(-3, 4)], list(range(-3, 4))
    for pattern in (None, r"z([+-]\d+)"):
        faults = []
        assert number_names(names, faults, pattern=pattern)[0] == wanted and not faults


@pytest.mark.parametrize(
    ("image", "labels", "numbers"),
    [
        ("rec16_{}", ["7_seg_v2", "9_seg_v1", "11_seg_v3"], None),
        ("bin2_{}", ["slice7_3classes"], None),
        ("rec_{:04d}_16bit", ["lab_8bit_5"], None),
        ("{}_bin2", ["roi1_7", "roi2_8"], None),
        ("rec_{}_16bit", ["rec_5_8bit"], [5]),  # alike before it
        ("scan_3_{}", ["label_3_5"], [5]),  # alike in the other number
    ],
)
def test_a_place_in_the_name_counts_only_where_names_are_alike_otherwise(image, labels, numbers):
    """Images and labels that hold as many numbers by chance say nothing of which is the slice's."""
    faults, known = [], {image.format(number): number for number in range(12)}
    found = number_names([f"{name}.tif" for name in labels], faults, known=known)[0]
    assert found == (numbers or [None] * len(labels)) and bool(faults) == (numbers is None)
