"""A share of the labels of each training slice: how many are left, which, and who sees them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.batches import LABEL_EDGE, keep_share, open_source
from hpcseg.data.classes import IGNORED
from hpcseg.data.noisy_tiles import noisy_set
from hpcseg.data.training_tiles import TrainingTiles, validation_set
from hpcseg.errors import DatasetError

CPU = torch.device("cpu")
NUMBERS, SHAPE = np.array([7, 9]), (100, 130)


def kept(share, tiles=((0, 0, 0), (0, 36, 66), (1, 0, 0)), seed=0, size=64):
    """(K, S, S) bool, the pixels of some tiles that keep their labels."""
    tiles = np.array(tiles)
    labels = np.zeros((len(tiles), size, size), dtype=np.uint8)
    return keep_share(labels, tiles, numbers=NUMBERS, shape=SHAPE, share=share, seed=seed) != IGNORED


def whole(share, **more):
    """The same of a slice of 96 x 96 pixels, of which all are in the tile."""
    return kept(share, tiles=[(0, 0, 0)], size=96, **more)[0]


def test_those_of_a_smaller_share_are_among_those_of_a_larger_one():
    shares = [kept(share) for share in (0.05, 0.2, 0.7, 1.0)]
    for smaller, larger in itertools.pairwise(shares):
        assert (smaller <= larger).all() and smaller.sum() < larger.sum()
    assert shares[-1].all()


def test_the_share_of_pixels_is_that_of_the_setting():
    tiles = [(0, y, x) for y in (0, 32) for x in (0, 32)]
    labels = np.zeros((1, 512, 512), dtype=np.uint8)
    left = keep_share(labels, np.array([(0, 0, 0)]), numbers=NUMBERS, shape=(512, 512), share=0.1, seed=0)
    assert np.mean(left != IGNORED) == pytest.approx(0.1, abs=0.001)
    assert kept(0.0001, tiles=tiles).any(), "one square at least"


def test_squares_are_drawn_on_the_slice_so_that_tiles_that_overlap_agree():
    tiles = kept(0.3, tiles=[(0, 0, 0), (0, 5, 9)])
    np.testing.assert_array_equal(tiles[0][5:, 9:], tiles[1][: 64 - 5, : 64 - 9])
    squares = whole(0.3).reshape(96 // LABEL_EDGE, LABEL_EDGE, 96 // LABEL_EDGE, LABEL_EDGE)
    assert (squares.all((1, 3)) == squares.any((1, 3))).all()


def test_another_seed_and_another_slice_draw_others():
    assert (whole(0.3) != whole(0.3, seed=1)).any()
    of_slices = kept(0.3, tiles=[(0, 0, 0), (1, 0, 0)])
    assert (of_slices[0] != of_slices[1]).any()


def test_what_is_labelled_stays_as_it_is_and_what_is_not_stays_without(tiny_dataset):
    config = DataConfig(tiles="2x2", tile_size=64, label_share=0.25)
    source = open_source(tiny_dataset, config)
    rows = source.split.train
    counts, labels, keys = source.read(rows)
    others = source.read(rows, to_learn=True)
    np.testing.assert_array_equal(others[0], counts)
    np.testing.assert_array_equal(others[2], keys)
    left = others[1] != IGNORED
    np.testing.assert_array_equal(others[1][left], labels[left])
    assert np.mean(left) == pytest.approx(0.25, abs=0.03)


def test_training_and_its_filter_see_the_share_and_the_two_other_sets_all(tiny_dataset):
    config = DataConfig(tiles="2x2", tile_size=64, label_share=0.25)
    source, whole = (open_source(tiny_dataset, one) for one in (config, dataclasses.replace(config, label_share=1.0)))
    rows, train = source.split.train, TrainConfig()
    tiles = TrainingTiles(source, rows, train, CPU)
    assert tiles.pixels == np.count_nonzero(source.read(rows, to_learn=True)[1] != IGNORED)
    assert len(tiles) <= len(rows) and (tiles.labelled > 0).all()
    learnt = noisy_set(source, rows[:4], levels=[], seed=0, device=CPU, to_learn=True).clean.labels
    assert (learnt == IGNORED).any()
    for one in (source, whole):
        assert validation_set(one, one.split.validation, train, CPU).labels.max() < IGNORED
        assert noisy_set(one, one.split.test, levels=[], seed=0, device=CPU).clean.labels.max() < IGNORED
    assert source.split.sha256() == whole.split.sha256()


def test_noise_of_each_epoch_is_of_the_tiles_that_are_left(tiny_dataset):
    source = open_source(tiny_dataset, DataConfig(tiles="8x8", tile_size=16, label_share=0.02))
    train = TrainConfig(noise_each_epoch=True, noise_fraction=1.0, noise_sigma_max=5000.0)
    tiles = TrainingTiles(source, source.split.train, train, CPU)
    assert 0 < len(tiles) < len(source.split.train)
    assert len(tiles.of_epoch(1).images) == len(tiles.of_epoch(1).labels) == len(tiles)


def test_a_set_without_a_labelled_pixel_is_refused(tiny_dataset):
    # Of 64 squares of 16 pixels one is kept on each of 11 slices, and the only tile is another.
    source = open_source(tiny_dataset, DataConfig(tiles="1x1", tile_size=8, label_share=1e-6))
    with pytest.raises(DatasetError, match=r"labelled pixel\. Of a data\.label_share of 1e-06 none is left: take"):
        TrainingTiles(source, source.split.train[:3], TrainConfig(), CPU)
