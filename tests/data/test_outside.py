"""Pixels without a grey value (NaN): packed as no class, whatever their label; and types that are converted."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.data import store
from hpcseg.data.classes import IGNORED
from hpcseg.data.pack import pack
from hpcseg.errors import DatasetError

HEIGHT, WIDTH = 40, 48
Y, X = np.mgrid[:HEIGHT, :WIDTH]
CIRCLE = (Y - 19.5) ** 2 + (X - 23.5) ** 2 < 18**2
"""Inside of it are grey values."""


def write(folder, *, labels_outside=7, dtype="float32", slices=12):
    """Slices with a dark and a bright half, NaN outside of a circle, where labels have a value of their own."""
    rng = np.random.default_rng(0)
    for kind in ("data", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(slices):
        bright = number + 20 < X
        grey = np.where(bright, 3.0, 1.0) + rng.normal(0, 0.1, bright.shape)
        label = np.where(bright, 2, 1)
        tifffile.imwrite(folder / "data" / f"{number}.tif", np.where(CIRCLE, grey, np.nan).astype(dtype))
        tifffile.imwrite(folder / "labels" / f"{number}.tif", np.where(CIRCLE, label, labels_outside).astype("uint8"))
    return folder


def packed(folder, file):
    return pack(folder / "data", folder / "labels", file, command="test")


def test_what_has_no_grey_value_has_no_class_and_its_label_is_none(tmp_path):
    info = packed(write(tmp_path / "a"), tmp_path / "a.h5")
    assert info.class_values == (1, 2), "7 is outside alone"
    assert info.ignored_pixels.tolist() == [np.count_nonzero(~CIRCLE)] * 12
    assert (info.class_counts.sum(1) == np.count_nonzero(CIRCLE)).all()
    images, labels = store.read_slices(tmp_path / "a.h5", 0, 2)
    np.testing.assert_array_equal(labels == IGNORED, [~CIRCLE] * 2)
    np.testing.assert_array_equal(np.isnan(images), [~CIRCLE] * 2)
    store.verify(tmp_path / "a.h5", lambda *_: None)


def test_labels_outside_decide_nothing(tmp_path):
    one, other = (
        packed(write(tmp_path / str(value), labels_outside=value), tmp_path / f"{value}.h5") for value in (7, 1)
    )
    assert one.data_sha256 == other.data_sha256
    assert "there already" in hpcseg("pack", tmp_path / "1", "-o", tmp_path / "7.h5").stderr


def test_the_span_and_the_distance_of_alike_slices_are_of_what_is_inside(tmp_path):
    info = packed(write(tmp_path / "a"), tmp_path / "a.h5")
    assert 0.5 < info.grey.quantiles[0] < 1 and 3 < info.grey.quantiles[1] < 3.5
    assert (info.grey_min > 0).all() and (info.grey_max < 4).all()
    assert info.alike_slices == 12, "the bright half moves by a pixel a slice, which leaves all of them alike"


def test_it_is_said_how_much_is_outside(tmp_path):
    said = " ".join(hpcseg("pack", write(tmp_path / "a"), "-o", tmp_path / "a.h5").stderr.split())
    share = np.count_nonzero(~CIRCLE) / CIRCLE.size
    assert f"{share:.1%} of all pixels, in 12 of 12 slices, have no class, since they have no grey value" in said


def test_a_model_meets_its_zero_where_there_is_no_grey_value(tmp_path):
    grey = packed(write(tmp_path / "a"), tmp_path / "a.h5").grey
    values = np.array([[np.nan, grey.low, grey.high]], dtype=np.float32)
    assert grey.normalised(grey.limited(values)).tolist() == [[0.0, 0.0, 1.0]]


def test_a_slice_of_nothing_but_nan_is_refused(tmp_path):
    folder = write(tmp_path / "a")
    tifffile.imwrite(folder / "data" / "3.tif", np.full((HEIGHT, WIDTH), np.nan, dtype=np.float32))
    with pytest.raises(DatasetError, match=r"3\.tif holds nothing but NaN"):
        packed(folder, tmp_path / "a.h5")


def test_a_file_without_such_pixels_is_one_that_an_earlier_hpcseg_reads(good, output):
    pack(good / "data", good / "labels", output, command="test")
    with h5py.File(output) as file:
        assert file.attrs["schema_version"] == 3


def test_a_file_with_such_pixels_is_not(tmp_path):
    packed(write(tmp_path / "a"), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["schema_version"] == 4


def test_a_class_that_is_damaged_is_found(tmp_path):
    packed(write(tmp_path / "a"), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["labels"][5, 0, 0] = 200
    with pytest.raises(DatasetError, match=r"label 5\.tif is not the one"):
        store.verify(tmp_path / "a.h5", lambda *_: None)


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_types_that_are_converted_give_their_values_and_it_is_said(tmp_path, dtype):
    folder, rng = tmp_path / "a", np.random.default_rng(1)
    values = np.linspace(-1000, 3000, 40 * 48).reshape(40, 48)
    for kind in ("data", "labels"):
        (folder / kind).mkdir(parents=True)
    stored = [rng.permuted(values).astype(dtype) for _ in range(3)]
    for number, pixels in enumerate(stored):
        tifffile.imwrite(folder / "data" / f"{number}.tif", pixels)
        tifffile.imwrite(folder / "labels" / f"{number}.tif", np.uint8(pixels > 0))
    said = hpcseg("pack", folder, "-o", tmp_path / "a.h5")
    how = {"int16": "every value exactly", "float64": "rounded to 7 digits"}[dtype]
    assert f"the slices are {dtype} and were packed as float32, {how}" in said.stderr
    images, _ = store.read_slices(tmp_path / "a.h5", 0, 3)
    # Of float32 24 binary digits are kept.
    np.testing.assert_allclose(images, np.array(stored), rtol=2**-24 if dtype == "float64" else 0)
    assert "there already" in hpcseg("pack", folder, "-o", tmp_path / "a.h5").stderr


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    folder = write(tmp_path / "a", dtype="float64")
    pixels = tifffile.imread(folder / "data" / "2.tif")
    pixels[20, 20] = 1e300
    tifffile.imwrite(folder / "data" / "2.tif", pixels)
    with pytest.raises(DatasetError, match=r"2\.tif holds infinite values"):
        packed(folder, tmp_path / "a.h5")
