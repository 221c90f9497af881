"""Pixels near a label edge and interfaces, against masks that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from hpcseg.segment.edges import count_by_band, count_interfaces, edge_bands, near_edge

LABELS = torch.tensor(
    [
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0],
    ]
)
# 0: a step up, down, left or right leads to another label; 1: two steps do; 2: more are needed.
BANDS = [
    [2, 1, 0, 0, 1, 1],
    [2, 1, 0, 0, 0, 0],
    [2, 2, 1, 0, 0, 0],
    [1, 2, 2, 1, 1, 1],
    [0, 1, 2, 2, 2, 2],
    [0, 0, 1, 2, 2, 2],
]


def test_a_pixel_is_near_an_edge_where_so_many_steps_lead_to_another_label():
    assert edge_bands(LABELS).tolist() == BANDS


def test_two_steps_do_not_reach_across_a_corner_of_the_tile_or_into_the_next_tile():
    alone = torch.zeros(1, 4, 4, dtype=torch.uint8)
    beside = torch.cat([alone, alone + 1])
    assert edge_bands(beside).eq(2).all()
    assert not count_interfaces(beside.long(), 2).any()


@pytest.mark.parametrize("classes", [2, 5])
def test_bands_are_those_of_a_distance_in_steps_to_the_nearest_other_label(classes):
    labels = np.random.default_rng(0).integers(classes, size=(6, 8)).repeat(4, 0).repeat(3, 1)
    away = np.full(labels.shape, np.inf)
    for one in range(classes):
        inside = labels == one
        away[inside] = ndimage.distance_transform_cdt(inside, "taxicab")[inside]
    expected = np.searchsorted([1, 2], away)
    np.testing.assert_array_equal(edge_bands(torch.from_numpy(labels)).numpy(), expected)
    assert set(np.unique(expected)) >= {0, 1}


def test_a_confusion_matrix_of_each_band_adds_up_to_that_of_all_pixels():
    predicted = LABELS.clone()
    predicted[0, 2] = 1  # beside the edge
    predicted[0, 1] = 2  # two steps from it
    predicted[5, 5] = 1  # far away
    counts = count_by_band(LABELS, predicted, edge_bands(LABELS), 3)
    assert counts.tolist() == [
        [[6, 1, 0], [0, 4, 0], [0, 0, 1]],
        [[8, 0, 1], [0, 2, 0], [0, 0, 0]],
        [[12, 1, 0], [0, 0, 0], [0, 0, 0]],
    ]
    assert near_edge(counts.numpy()) == {
        1: [[6, 1, 0], [0, 4, 0], [0, 0, 1]],
        2: [[14, 1, 1], [0, 6, 0], [0, 0, 1]],
    }


def test_interfaces_are_pairs_of_neighbours_of_two_classes_whichever_comes_first():
    # Two pairs beside and three below the block of 1s; one above and one beside the single 2.
    assert count_interfaces(LABELS, 3).tolist() == [[0, 5, 2], [0, 0, 0], [0, 0, 0]]
    turned = 2 - LABELS
    assert count_interfaces(turned, 3).tolist() == [[0, 0, 2], [0, 0, 5], [0, 0, 0]]
