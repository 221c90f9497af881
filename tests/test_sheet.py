"""The picture of slices with their classes over them: its colours, its bounds, and names that are hard to write."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from hpcseg import sheet
from hpcseg.sheet import Seen


def picture(*given) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.rint(255 * matplotlib.image.imread(io.BytesIO(sheet.draw(*given)))[:, :, :3]).astype(np.uint8)


def pixels_of(image: np.ndarray, colour: tuple[float, float, float]) -> int:
    """How many pixels have a colour, to a level of 255 that rounding twice may take."""
    return int((np.abs(image.astype(float) - colour) <= 1.5).all(axis=-1).sum())


def test_a_class_lies_over_its_pixels_as_a_transparent_colour_and_what_is_none_lets_the_slice_be_seen():
    grey = np.zeros((300, 300), dtype=np.uint16)
    grey[:, 150:] = 1000
    classes = np.zeros((300, 300), dtype=np.int64)
    classes[100:200] = 1
    classes[200:] = 255
    image = picture([Seen("slice 1", grey, classes)], ["0: 33 %", "128: 33 %"], "data")
    # 45 % of Okabe and Ito's blue (0, 114, 178) and vermilion (213, 94, 0) over black and over white.
    over_black, over_white = [(0, 51, 80), (96, 42, 0)], [(140, 192, 220), (236, 183, 140)]
    found = [pixels_of(image, colour) for colour in (*over_black, *over_white)]
    # The one slice is drawn 640 pixels wide, so each of the six fields has 320 x 213; its border is blurred.
    assert found == [pytest.approx(320 * 213, rel=0.05)] * 4, "both classes, over both halves"
    plain_black = 320 * (640 + 213)  # of the slice, and where its third field has no class
    assert pixels_of(image, (0, 0, 0)) == pytest.approx(plain_black, rel=0.05)


def test_uncertainty_is_dark_where_it_is_0_and_bright_where_it_is_1():
    grey, classes = np.arange(10_000).reshape(100, 100), np.zeros((100, 100), dtype=np.int64)
    seen = [Seen("slice 1", grey, classes, np.full((100, 100), value)) for value in (0.0, 1.0)]
    # The ends of matplotlib's magma.
    image = picture(seen, ["0"], "scan")
    assert pixels_of(image, (0, 0, 4)) == pytest.approx(pixels_of(image, (252, 253, 191)), rel=0.01)
    assert pixels_of(image, (252, 253, 191)) > 10_000


@pytest.mark.parametrize("shape", [(640, 640), (5, 640), (640, 5), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_it_is_bounded_whatever_the_slices_are(shape, count):
    grey = np.random.default_rng(0).normal(size=shape)
    seen = [Seen(f"slice {n}", grey, np.zeros(shape, dtype=np.uint8), np.zeros(shape)) for n in range(count)]
    height, width = picture(seen, ["0", "1"], "scan").shape[:2]
    assert 600 < width <= 2000 and height <= 2500


def test_of_a_large_slice_no_more_is_taken_than_is_shown():
    for height, width in [(501, 501), (641, 100), (10_000, 20_000), (1, 100_000)]:
        step = sheet.step(height, width)
        assert len(range(0, max(height, width), step)) <= 640 < max(height, width) / max(1, step - 1) or step == 1


@pytest.mark.parametrize("name", ["$x_1$ and $", "[red].tif", "a\udcffb.tif", "層.tif", "long" * 200, "two\nlines"])
def test_any_file_name_can_be_a_title(name):
    grey = np.zeros((50, 50))
    assert picture([Seen(name, grey, np.zeros((50, 50), dtype=np.uint8))], [name], name).size


def test_more_classes_than_colours_and_values_that_are_not_finite_are_drawn():
    grey = np.full((64, 64), np.nan)
    classes = np.arange(4096).reshape(64, 64) % 256
    image = picture([Seen("slice 1", grey, classes)], [str(value) for value in range(256)], "many")
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
