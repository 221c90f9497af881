"""What labels of neighbouring slices say of how right a model can be: known errors are found, and only errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tifffile

import hpcseg.api as hs
from hpcseg.data.store import read_info
from hpcseg.segment.label_limit import label_limit

SLICES, EDGE = 40, 120


def packed(folder, labels, *, shift=0, first=0, step=1, sigma=300.0, unlabelled=None):
    """A packed file of two phases with noise that has (N, H, W) labels, 0 and 1, and pictures of the first of them.

    Args:
        folder: for its files.
        labels: of each slice.
        shift: pixels by which the picture moves with every fourth slice, and its labels with it.
        first: number of the first slice.
        step: between the numbers.
        sigma: of the noise, in counts.
        unlabelled: value of pixels of no class.
    """
    rng = np.random.default_rng(0)
    truth = np.zeros((EDGE, EDGE), dtype=np.uint8)
    truth[:, EDGE // 2 :] = 1
    for number in range(len(labels)):
        moved = np.roll(truth, shift * (number // 4), 1)
        grey = 20_000 + 20_000 * moved.astype(float) + rng.normal(0, sigma, truth.shape)
        for name, pixels in (("data", grey.round().astype(np.uint16)), ("labels", labels[number])):
            (folder / name).mkdir(exist_ok=True)
            tifffile.imwrite(folder / name / f"s{first + step * number:04}.tif", pixels, photometric="minisblack")
    ignore = () if unlabelled is None else (unlabelled,)
    hs.pack(folder, folder / "packed.h5", ignore=ignore, on_note=[].append)
    return read_info(folder / "packed.h5")


def labels_with(errors, shift=0):
    """Labels of the two phases of which a share of the pixels beside the edge are of the other one, by lot."""
    rng = np.random.default_rng(1)
    labels = np.zeros((SLICES, EDGE, EDGE), dtype=np.uint8)
    labels[..., EDGE // 2 :] = 1
    beside = labels[..., EDGE // 2 - 1 : EDGE // 2 + 1]
    beside ^= rng.random(beside.shape) < errors
    return np.stack([np.roll(one, shift * (number // 4), 1) for number, one in enumerate(labels)])


@pytest.mark.parametrize("errors", [0.0, 0.05, 0.2])
def test_errors_of_labels_that_come_by_lot_are_found(tmp_path, errors):
    found = label_limit(packed(tmp_path, labels_with(errors)))
    # Of two labels one is wrong 2 p (1 - p) of the time; half of that is out of reach, of 2 columns of 120.
    expected = errors * (1 - errors) * 2 / EDGE
    assert found is not None and found.pairs == SLICES - 1
    assert 1 - found.right == pytest.approx(expected, rel=0.1)
    assert found.disagree[-1] == pytest.approx(0, abs=1e-4) if errors < 0.1 else found.disagree[0] > found.disagree[-1]


def test_labels_that_follow_a_picture_which_moves_are_no_errors(tmp_path):
    found = label_limit(packed(tmp_path, labels_with(0.0, shift=2), shift=2))
    assert found is not None and found.right == pytest.approx(1, abs=1e-5)
    # The square root of twice the noise's variance, which half of the pixels have less of.
    assert found.unchanged_below == pytest.approx(300 * np.sqrt(2), rel=0.1)


def test_pixels_without_a_label_count_in_nothing(tmp_path):
    labels = labels_with(0.05)
    # Half of each slice; where a label ends is no edge.
    labels[:, : EDGE // 2] = 255
    found = label_limit(packed(tmp_path, labels, unlabelled=255))
    assert found is not None and 1 - found.right == pytest.approx(0.05 * 0.95 * 2 / EDGE, rel=0.15)


def test_where_labels_cannot_tell_nothing_is_said(tmp_path):
    for number, (labels, step) in enumerate(
        [(labels_with(0.05)[:4], 1), (labels_with(0.05), 5), (np.zeros((6, EDGE, EDGE), np.uint8), 1)]
    ):
        # Four slices have too few pixels at an edge, others are no neighbours, and one class has no edge.
        (tmp_path / str(number)).mkdir()
        if number == 2:
            labels[0, :4] = 1
        assert label_limit(packed(tmp_path / str(number), labels, step=step)) is None, number


def test_slices_that_are_not_alike_are_no_neighbours(tmp_path):
    info = packed(tmp_path, labels_with(0.05))
    assert label_limit(dataclasses.replace(info, alike_slices=1)) is None
