"""Neighbouring slices as channels: which they are, that no set sees another's, and what noise they have."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hpcseg.config import DataConfig, NoiseLevel, TrainConfig
from hpcseg.data import noise, store
from hpcseg.data.batches import TileSource, open_source
from hpcseg.data.exposure import exposed
from hpcseg.data.grey import GreyScale
from hpcseg.data.layout import lay_out
from hpcseg.data.noisy_tiles import noisy_set
from hpcseg.data.tile_sets import TileSet, transformed
from hpcseg.data.training_tiles import TrainingTiles
from hpcseg.errors import DatasetError
from hpcseg.slices.neighbours import neighbours

CPU = torch.device("cpu")
GREY = GreyScale(0.0, 65_535.0)
HOLES = (1, 2, 3, 5, 6, 10)


@pytest.mark.parametrize(
    ("number", "one", "two"),
    [
        (1, (1, 1, 2), (1, 1, 1, 2, 3)),
        (2, (1, 2, 3), (1, 1, 2, 3, 3)),
        (3, (2, 3, 3), (1, 2, 3, 3, 3)),
        (5, (5, 5, 6), (5, 5, 5, 6, 6)),
        (6, (5, 6, 6), (5, 5, 6, 6, 6)),
        (10, (10, 10, 10), (10, 10, 10, 10, 10)),
    ],
)
def test_at_an_end_and_at_a_hole_the_last_slice_stands_for_those_beyond(number, one, two):
    for context, expected in ((0, (number,)), (1, one), (2, two)):
        places = neighbours(HOLES, HOLES.index(number), context)
        assert tuple(HOLES[place] for place in places) == expected


def blocked(dataset, **settings) -> TileSource:
    return open_source(dataset, DataConfig(tiles="1x2", tile_size=64, split="blocked", **settings))


def inputs(source: TileSource, rows: np.ndarray) -> set[int]:
    """Numbers of all slices that the network sees with some tiles."""
    return set(np.unique(source.read(rows)[2][..., 0]).tolist())


@pytest.mark.parametrize(("context", "gap"), [(1, 1), (1, 2), (1, "auto"), (2, "auto")])
def test_slices_that_two_sets_see_are_farther_apart_than_the_gap(tiny_dataset, context, gap):
    for seed in range(8):
        source = blocked(tiny_dataset, context=context, gap_slices=gap, split_seed=seed)
        train, validation, test = (
            inputs(source, rows) for rows in (source.split.train, source.split.validation, source.split.test)
        )
        # "auto" is one slice here, a tenth of sixteen; but with so many neighbours there is no room for it.
        least = {(2, "auto"): 0}.get((context, gap), 1 if gap == "auto" else gap)
        for one, other in ((train, validation), (train, test), (validation, test)):
            assert min(abs(ours - theirs) for ours in one for theirs in other) > least
        assert source.split.gap_slices == least + 2 * context


def test_too_few_slices_for_the_neighbours_are_told_with_what_would_do(tiny_dataset):
    info = store.read_info(tiny_dataset)
    config = DataConfig(split="blocked", context=2, gap_slices=1, slices=13)
    with pytest.raises(
        DatasetError, match=r"takes 18 slices .* or data\.context, for which 4 of the 5 are, to less\.$"
    ):
        lay_out(info, config)
    lay_out(info, dataclasses.replace(config, context=1))
    few = dataclasses.replace(config, context=1, gap_slices=2)
    with pytest.raises(DatasetError, match=r"set data\.gap_slices to 1 or less, .* for which 2 of the 4 are"):
        lay_out(info, few)


def test_slices_none_of_which_has_a_neighbour_are_refused(tiny_dataset):
    info = store.read_info(tiny_dataset)
    apart = dataclasses.replace(info, numbers=10 * info.numbers)
    with pytest.raises(DatasetError, match=r"data\.context is 1, .* follow each other nowhere \(10, 20, 30\)"):
        lay_out(apart, DataConfig(split="blocked", context=1))


def test_channels_are_the_tiles_of_the_neighbours_and_labels_those_of_the_middle(tiny_dataset):
    source = blocked(tiny_dataset, context=1, gap_slices=1)
    # Of slice index 0 the first tile, and of 7 the second.
    counts, labels, keys = source.read(np.array([0, 15]))
    assert keys.tolist() == [[[1, 0, 0], [1, 0, 0], [2, 0, 0]], [[7, 0, 64], [8, 0, 64], [9, 0, 64]]]
    for place, indices in enumerate([(0, 0, 1), (6, 7, 8)]):
        left = 64 * place
        wanted = np.array([(index, 0, left) for index in indices])
        tiles, classes = store.read_tiles(tiny_dataset, wanted, 64)
        np.testing.assert_array_equal(counts[place], tiles)
        np.testing.assert_array_equal(labels[place], classes[1])
    image, label = source.read_channels(15)
    assert image.shape == (3, 128, 128)
    np.testing.assert_array_equal(image, [source.read_slice(index)[0] for index in (14, 15, 15)])
    np.testing.assert_array_equal(label, source.read_slice(15)[1])


def stack_and_keys(numbers=(4, 5, 6, 7)):
    """Tiles of slices 4 to 7, each by itself; and as the channels of 5 and 6."""
    rng = np.random.default_rng(3)
    tiles = rng.integers(20_000, 40_000, (len(numbers), 8, 8)).astype(np.uint16)
    keys = np.array([(number, 8, 16) for number in numbers])
    around = [[0, 1, 2], [1, 2, 3]]
    return tiles, keys, tiles[around], keys[around], around


@pytest.mark.parametrize("epoch", [None, 2])
@pytest.mark.parametrize("model", ["gaussian", "uniform", "offset", "blurred", "stripes", "gaussian+uniform"])
def test_a_neighbour_has_the_noise_in_training_that_it_has_by_itself_as_strong_as_the_middle(model, epoch):
    tiles, keys, channels, their_keys, around = stack_and_keys()
    config = TrainConfig(noise_fraction=1.0, noise_model=model, seed=5)
    alone, sigmas = noise.training_noise(tiles, keys, config, GREY, epoch=epoch)
    together, their_sigmas = noise.training_noise(channels, their_keys, config, GREY, epoch=epoch)
    np.testing.assert_array_equal(their_sigmas, sigmas[1:3])
    for place, places in enumerate(around):
        np.testing.assert_array_equal(together[place, 1], alone[places[1]])
        if "+" not in model:
            units = (together[place] - channels[place]) / their_sigmas[place]
            expected = (alone[places] - tiles[places]) / sigmas[places, None, None]
            # Sums of float32 about 40000 end in steps of 1 / 256, and the least sigma here is some hundred counts.
            np.testing.assert_allclose(units, expected, atol=1e-3)
    assert sigmas.min() > 100


def test_of_a_tile_without_noise_no_channel_has_any_and_of_one_with_noise_all():
    tiles = np.full((400, 3, 4, 4), 30_000, dtype=np.uint16)
    keys = np.array([[(number + away, 0, 0) for away in (-1, 0, 1)] for number in range(400)])
    config = TrainConfig(noise_fraction=0.5)
    noisy, sigmas = noise.training_noise(tiles, keys, config, GREY)
    mixed = noise.noisy_tests(tiles, keys, NoiseLevel(10_000, fraction=0.5), seed=0, grey=GREY)
    for found in (noisy, mixed):
        changed = (found != 30_000).any((2, 3))
        assert (changed.all(1) == changed.any(1)).all() and 150 < changed[:, 0].sum() < 250
    assert ((sigmas > 0) == (noisy != 30_000).any((1, 2, 3))).all()


@pytest.mark.parametrize("level", [NoiseLevel(3_000, "poisson"), NoiseLevel(3_000, "blurred")])
def test_a_slice_has_in_a_sweep_the_same_noise_wherever_it_is_seen(level):
    tiles, keys, channels, their_keys, around = stack_and_keys()
    unit = noise.test_noise(keys, size=8, seed=2)
    np.testing.assert_array_equal(noise.test_noise(their_keys, size=8, seed=2), unit[around])
    alone = noise.noisy_tests(tiles, keys, level, seed=2, grey=GREY)
    together = noise.noisy_tests(channels, their_keys, level, seed=2, grey=GREY)
    np.testing.assert_array_equal(together, alone[around])


def test_all_channels_of_a_tile_are_exposed_and_moved_alike():
    ramp = np.tile(np.linspace(10_000, 50_000, 16), (16, 1)).astype(np.uint16)
    keys = np.array([[(number + away, 0, 0) for away in (-1, 0, 1)] for number in range(20)])
    tiles = exposed(np.broadcast_to(ramp, (20, 3, 16, 16)), keys, GREY, seed=0, epoch=1)
    assert (tiles == tiles[:, :1]).all() and np.ptp(tiles[:, 0, 0, 0]) > 1_000
    np.testing.assert_array_equal(
        tiles[:, 1], exposed(np.broadcast_to(ramp, (20, 16, 16)), keys[:, 1], GREY, seed=0, epoch=1)
    )
    labels = torch.arange(16, dtype=torch.uint8).view(1, 4, 4).repeat(8, 1, 1)
    images = torch.stack([labels + 100.0 * channel for channel in range(3)], dim=1)
    moved = transformed(TileSet(images, labels), np.arange(8))
    for channel in range(3):
        assert torch.equal(moved.images[:, channel], moved.labels + 100.0 * channel)


@pytest.mark.parametrize("normalise", ["tile", "set"])
def test_tiles_are_normalised_by_all_their_channels_together(tiny_dataset, normalise):
    source = blocked(tiny_dataset, context=1, gap_slices=1, normalise=normalise)
    tests = noisy_set(source, source.split.test, levels=(), seed=0, device=CPU)
    images = tests.clean.images
    assert images.shape[1:] == (3, 64, 64)
    of = images if normalise == "set" else images.flatten(1)
    ends = (of.min(), of.max()) if normalise == "set" else (of.min(1).values, of.max(1).values)
    assert (ends[0] == 0).all() and (ends[1] == 1).all()
    assert (images.flatten(2).min(2).values > 0).any(), "not each channel by itself"


def test_training_tiles_of_a_cell_with_context_have_its_channels(tiny_dataset):
    source = blocked(tiny_dataset, context=2)
    tiles = TrainingTiles(source, source.split.train, TrainConfig(), CPU).of_epoch(0)
    counts, _, _ = source.read(source.split.train)
    np.testing.assert_array_equal(tiles.images.numpy(), counts.astype(np.float32) / np.float32(65_535))
