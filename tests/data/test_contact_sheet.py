"""The contact sheet that `hpcseg pack` writes beside the packed file."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg import sheet
from hpcseg.data.store import read_slices


@pytest.fixture
def drawn(monkeypatch):
    """What the sheets that are drawn show: their slices, the names of the classes and the heading."""
    found, draw = [], sheet.draw
    monkeypatch.setattr(sheet, "draw", lambda *given: (found.append(given), draw(*given))[1])
    return found


def test_it_shows_a_dozen_slices_each_with_the_label_that_was_packed_with_it(tiny_folder, tmp_path, drawn):
    said = hpcseg("pack", tiny_folder, "-o", tmp_path / "tiny.h5")
    assert f"{tmp_path / 'tiny-sheet.png'}: do slices and labels belong together?" in said.stdout
    assert matplotlib.image.imread(tmp_path / "tiny-sheet.png").std() > 0
    ((seen, classes, heading),) = drawn
    # Of the 16 slices 12, the first and the last among them.
    numbers = [int(one.title.split()[1].rstrip(":")) for one in seen]
    assert len(set(numbers)) == 12 and (numbers[0], numbers[-1]) == (1, 16)
    assert set(np.diff(numbers)) == {1, 2}, "evenly spread"
    values = np.array([0, 128, 255])
    for number, one in zip(numbers, seen, strict=True):
        image, label = f"sample{number:04d}.tiff", f"sample{number:04d}.tif"
        assert one.title == f"slice {number}: {image} | {label}"
        np.testing.assert_array_equal(one.grey, tifffile.imread(tiny_folder / "data" / image))
        np.testing.assert_array_equal(values[one.classes], tifffile.imread(tiny_folder / "labels" / label))
    assert [name.split(":")[0] for name in classes] == ["0", "128", "255"] and heading.startswith("tiny.h5: 12 of 16")


def test_a_pairing_that_is_wrong_is_seen(tiny_folder, tmp_path, drawn):
    """Labels that are one slice too far, as where one program counts from 0 and the other from 1."""
    for name in ("data", "labels"):
        (tmp_path / name).mkdir()
        for number in range(1, 16):
            source = f"sample{number + (name == 'labels'):04d}.tif"
            pixels = tifffile.imread(tiny_folder / name / (source + ("f" if name == "data" else "")))
            tifffile.imwrite(tmp_path / name / f"{number}.tif", pixels)
    assert hpcseg("pack", tmp_path, "-o", tmp_path / "off.h5").exit_code == 0
    ((seen, _, _),) = drawn
    wanted = np.searchsorted([0, 128, 255], tifffile.imread(tiny_folder / "labels" / "sample0002.tif"))
    np.testing.assert_array_equal(seen[0].classes, wanted)
    np.testing.assert_array_equal(seen[0].grey, tifffile.imread(tiny_folder / "data" / "sample0001.tiff"))


def test_packing_again_draws_only_a_sheet_that_is_missing(tiny_folder, tmp_path, drawn):
    command = ("pack", tiny_folder, "-o", tmp_path / "tiny.h5")
    for _ in range(2):
        assert hpcseg(*command).exit_code == 0
    assert len(drawn) == 1
    (tmp_path / "tiny-sheet.png").unlink()
    assert hpcseg(*command).exit_code == 0
    assert (tmp_path / "tiny-sheet.png").exists()


def test_without_a_sheet_the_packed_file_is_as_good(tiny_folder, tmp_path):
    (tmp_path / "tiny-sheet.png").mkdir()
    said = hpcseg("pack", tiny_folder, "-o", tmp_path / "tiny.h5")
    assert said.exit_code == 0 and "there is no contact sheet" in said.stderr
    assert hpcseg("info", tmp_path / "tiny.h5", "--verify").exit_code == 0


def test_thinned_slices_have_every_so_manieth_row_and_column(tiny_dataset, tiny_folder):
    (image,), (classes,) = read_slices(tiny_dataset, 4, 5, 3)
    np.testing.assert_array_equal(image, tifffile.imread(tiny_folder / "data" / "sample0005.tiff")[::3, ::3])
    label = tifffile.imread(tiny_folder / "labels" / "sample0005.tif")[::3, ::3]
    np.testing.assert_array_equal(np.array([0, 128, 255])[classes], label)
