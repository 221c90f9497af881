"""Labels whose header says that 0 is white: classes are what whoever wrote them has, or it has to be said."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from slice_folder import hpcseg, refused, write_image

from hpcseg.data import store
from hpcseg.data.pairs import find_pairs
from hpcseg.errors import DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading

MASK = np.arange(40 * 48).reshape(40, 48) < 480
"""A quarter is true."""


def write_labels(folder, pixels, **options):
    (folder / "labels").mkdir(parents=True)
    for number in (1, 2, 3):
        write_image(folder, number)
        tifffile.imwrite(folder / "labels" / f"label{number}.tif", pixels, **options)
    return folder


def of_another(folder, pixels):
    """As a scanner or a program that names itself writes them."""
    return write_labels(folder, pixels, photometric="miniswhite", software="Scanner", metadata=None)


def shares(output, *options):
    folder = output.parent.parent / "in"
    packed = hpcseg("pack", folder, "-o", output, *options)
    assert packed.exit_code == 0, packed.output
    info = store.read_info(output)
    counts = info.class_counts.sum(0) / info.class_counts.sum()
    return dict(zip(info.class_values, counts.tolist(), strict=True)), packed.stderr


@pytest.mark.parametrize("imagej", [False, True])
def test_true_is_1_and_255_is_255_in_masks_that_tifffile_or_imagej_wrote_with_0_as_white(tmp_path, output, imagej):
    # tifffile gives a mask of one bit 0 as white, and ImageJ what it shows by an inverting colour table.
    pixels = MASK.astype(np.uint8) * 255 if imagej else MASK
    # What tifffile itself reads is what was given to it.
    options = {"photometric": "miniswhite", "description": "ImageJ=1.54f\n", "software": False} if imagej else {}
    folder = write_labels(tmp_path / "in", pixels, **options)
    with tifffile.TiffFile(folder / "labels" / "label1.tif") as tif:
        written = tif.pages.first
        assert written.photometric == 0 and (written.asarray() == pixels).all()
        assert written.is_imagej == imagej

    found, said = shares(output)
    assert found == {0: 0.75, 255 if imagej else 1: 0.25}
    assert "labels: 3 of 3 slices are stored with 0 as white, and are taken by their stored values" in said


def test_masks_of_tifffile_are_inverted_where_that_is_said(tmp_path, output):
    write_labels(tmp_path / "in", MASK)
    found, said = shares(output, "--pixels", "shown", "--force")
    assert found == {0: 0.25, 1: 0.75} and "labels: 3 of 3 slices are stored with 0 as white and were inverted" in said
    found, said = shares(output, "--pixels", "stored", "--force")
    assert found == {0: 0.75, 1: 0.25} and "as white" not in said


@pytest.mark.parametrize("pixels", [MASK, MASK * np.uint8(255)], ids=["bool", "uint8"])
def test_labels_of_other_programs_with_0_as_white_are_refused_until_it_is_said_how_they_are_taken(
    tmp_path, output, pixels
):
    folder = of_another(tmp_path / "in", pixels)
    # Two programs differ on what they hold.
    label = folder / "labels" / "label1.tif"
    np.testing.assert_array_equal(tifffile.imread(label) > 0, ~(np.asarray(Image.open(label)) > 0))

    said = refused(folder, output)
    assert "3 of 3 labels, such as label1.tif, are stored with 0 as white" in said
    assert "--pixels stored or --pixels shown" in said
    top = int(pixels.max())
    assert shares(output, "--pixels", "stored", "--force")[0] == {0: 0.75, top: 0.25}
    assert shares(output, "--pixels", "shown", "--force")[0] == {0: 0.25, top: 0.75}


def test_ignored_values_and_classes_are_those_that_are_taken(tmp_path, output):
    values = np.array([0, 2, 4, 250], np.uint8)[np.arange(40 * 48).reshape(40, 48) % 4]
    write_labels(tmp_path / "in", values, photometric="miniswhite")
    named = ("--classes", "0=pore,2=grain,4=binder", "--ignore", "250", "--force")
    found, _ = shares(output, *named)
    assert found == pytest.approx({0: 1 / 3, 2: 1 / 3, 4: 1 / 3})
    assert store.read_info(output).class_names == ("pore", "grain", "binder")
    # Shown they are 255, 253, 251 and 5.
    found, _ = shares(
        output, "--pixels", "shown", "--classes", "255=pore,253=grain,251=binder", "--ignore=5", "--force"
    )
    assert found == pytest.approx({251: 1 / 3, 253: 1 / 3, 255: 1 / 3})


def test_images_of_0_as_white_are_inverted_and_their_labels_not(tmp_path):
    """As Fiji saves both under an inverting colour table."""
    folder = write_labels(tmp_path / "in", MASK.astype(np.uint8), photometric="miniswhite")
    for number in (1, 2, 3):
        tifffile.imwrite(folder / "data" / f"image{number}.tif", MASK * np.uint16(7), photometric="miniswhite")
    pairs = find_pairs(folder / "data", folder / "labels")
    image, label = pairs.read(0)
    np.testing.assert_array_equal(image, 65535 - MASK * np.uint16(7))
    np.testing.assert_array_equal(label, MASK)


def test_a_stack_is_known_by_its_first_page_which_alone_says_who_wrote_it(tmp_path):
    volume = np.stack([MASK, ~MASK])
    tifffile.imwrite(tmp_path / "images.tif", volume * np.uint8(9))
    tifffile.imwrite(tmp_path / "labels.tif", volume)
    with tifffile.TiffFile(tmp_path / "labels.tif") as tif:
        assert [page.aspage().software for page in tif.pages] == ["tifffile.py", ""]
    pairs = find_pairs(tmp_path / "images.tif", tmp_path / "labels.tif")
    np.testing.assert_array_equal([pairs.labels.read(index) for index in range(2)], volume)


def test_labels_of_which_some_have_0_as_white_are_refused_whoever_wrote_them(tmp_path):
    folder = write_labels(tmp_path / "in", MASK.astype(np.uint8), photometric="miniswhite")
    tifffile.imwrite(folder / "labels" / "label2.tif", MASK.astype(np.uint8))
    with pytest.raises(DatasetError, match=r"1 of 3 slices, such as label2.tif, have another Photometric.*--pixels"):
        find_pairs(folder / "data", folder / "labels")
    pairs = find_pairs(folder / "data", folder / "labels", Reading(pixels="stored"))
    np.testing.assert_array_equal([pairs.labels.read(index) for index in range(3)], [MASK] * 3)


def test_as_slices_they_are_inverted_as_before(tmp_path):
    folder = write_labels(tmp_path / "in", MASK)
    source = open_source(folder / "labels")
    np.testing.assert_array_equal(source.read(0), ~MASK)
    assert "were inverted" in source.notes[0] and "as labels they are taken so" in source.notes[0]
