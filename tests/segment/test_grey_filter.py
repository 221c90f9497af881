"""The filter without a network: its thresholds against trying all, and what it does where grey values say little."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpcseg.segment.grey_filter import BLURS, GreyFilter, best_edges, blurred, fit_filters, order_by_grey


@pytest.mark.parametrize(("classes", "bins"), [(2, 9), (3, 7), (4, 5)])
def test_thresholds_are_as_good_as_the_best_of_all(classes, bins):
    rng = np.random.default_rng(0)
    for pixels in rng.integers(0, 6, size=(40, classes, bins)):
        edges, right = best_edges(pixels)

        def of(cuts, pixels=pixels):
            ends = [0, *cuts, bins]
            return sum(int(pixels[k, ends[k] : ends[k + 1]].sum()) for k in range(classes))

        assert edges == sorted(edges) and of(edges) == right
        assert right == max(map(of, itertools.combinations_with_replacement(range(bins + 1), classes - 1)))


def test_a_threshold_stands_in_the_middle_of_grey_values_that_nobody_has():
    pixels = np.zeros((2, 10), dtype=np.int64)
    pixels[0, 1], pixels[1, 8] = 5, 5
    edges, right = best_edges(pixels)
    # The first bin of the brighter class may be 2 to 8.
    assert (edges, right) == ([5], 10)


def phases(levels: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six tiles of 32 x 32 pixels in blocks of 8 with one grey value for each class."""
    labels = np.kron(np.random.default_rng(seed).integers(len(levels), size=(6, 4, 4)), np.ones((1, 8, 8), np.int64))
    return np.array(levels, dtype=np.float32)[labels], labels.astype(np.uint8)


def noisy(images: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    return images + np.random.default_rng(seed).normal(0, sigma, images.shape).astype(np.float32)


def fit_filter(images: np.ndarray, labels: np.ndarray, order: tuple[int, ...]) -> tuple[GreyFilter, float]:
    """Of one level."""
    (found,) = fit_filters(lambda blur: [blurred(images, blur)], labels, order)
    return found


def classes_of(chosen: GreyFilter, images: np.ndarray) -> np.ndarray:
    return chosen.classes(blurred(images, chosen.blur))


@pytest.mark.parametrize("levels", [[0.2, 0.8], [0.8, 0.2], [0.5, -0.3, 0.9], [0.9, 0.6, 0.3, 0.0]])
def test_classes_whose_grey_values_differ_are_told_apart_whatever_their_order(levels):
    images, labels = phases(levels)
    order = order_by_grey(images, labels, len(levels))
    assert order == tuple(np.argsort(levels))
    chosen, accuracy = fit_filter(images, labels, order)
    assert (accuracy, chosen.blur) == (1.0, 0.0)
    other, truth = phases(levels, seed=5)
    np.testing.assert_array_equal(classes_of(chosen, noisy(other, 0.01)), truth)


def test_each_level_has_its_own_filter():
    images, labels = phases([0.2, 0.8])
    both = [images, noisy(images, 0.5)]
    found = fit_filters(lambda blur: [blurred(one, blur) for one in both], labels, (0, 1))
    assert found == [fit_filter(one, labels, (0, 1)) for one in both]
    assert found[0][0].blur == 0 < found[1][0].blur


def test_a_grey_value_that_is_a_threshold_is_of_the_brighter_class():
    # 0.1 lies between two numbers of float32, whose nearest one is above it.
    chosen, above = GreyFilter(0.0, (0.1, np.inf), (2, 0, 1)), np.float32(0.1)
    below = np.nextafter(above, np.float32(0))
    assert float(below) < 0.1 < float(above)
    np.testing.assert_array_equal(chosen.classes(np.array([[[below, above, 9]]], dtype=np.float32)), [[[2, 0, 0]]])
    first = GreyFilter(0.0, (float(below), 0.5), (2, 0, 1))
    np.testing.assert_array_equal(first.classes(np.array([[[below]]])), [[[0]]])


def test_noise_makes_it_choose_a_blur_which_helps_on_other_tiles():
    images, labels = phases([0.2, 0.8])
    order = (0, 1)
    sharp, _ = fit_filter(images, labels, order)
    chosen, accuracy = fit_filter(noisy(images, 0.5), labels, order)
    assert chosen.blur > 0
    other, truth = phases([0.2, 0.8], seed=5)
    found, without = ((classes_of(one, noisy(other, 0.5, seed=2)) == truth).mean() for one in (chosen, sharp))
    # A threshold in the middle is right where noise is below 0.6 deviations: 0.726 of all pixels.
    assert without == pytest.approx(0.726, abs=0.02) and found > 0.85
    # 6144 pixels in blocks of 64: what holds on some tiles holds on others to a few hundredths.
    assert found == pytest.approx(accuracy, abs=0.05)


def test_where_grey_says_nothing_it_is_no_worse_than_the_commonest_class():
    _, labels = phases([0.0, 0.0, 0.0])
    images = np.random.default_rng(3).random(labels.shape, dtype=np.float32)
    _, accuracy = fit_filter(images, labels, order_by_grey(images, labels, 3))
    assert accuracy >= np.bincount(labels.ravel()).max() / labels.size


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_one_class_and_one_grey_value_are_no_error(value):
    images, labels = np.full((2, 16, 16), value, dtype=np.float32), np.ones((2, 16, 16), dtype=np.uint8)
    order = order_by_grey(images, labels, 3)
    assert order == (1, 0, 2)
    chosen, accuracy = fit_filter(images, labels, order)
    assert accuracy == 1.0 and chosen.blur == BLURS[0]
    assert (classes_of(chosen, images) == 1).all()


def test_a_hot_pixel_does_not_make_the_thresholds_coarse():
    images, labels = phases([0.2, 0.201])
    images[0, 0, 0] = 1e6
    _, accuracy = fit_filter(images, labels, (0, 1))
    assert accuracy >= 1 - 1 / labels.size
