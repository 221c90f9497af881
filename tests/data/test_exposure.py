"""Exposures: another scan of the same sample, a tile's own in each epoch, before the noise and never in validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcseg.config import DataConfig, TrainConfig
from hpcseg.data.batches import open_source
from hpcseg.data.exposure import exposed
from hpcseg.data.grey import GreyScale
from hpcseg.data.training_tiles import TrainingTiles, validation_set

GREY = GreyScale(0.0, 65_535.0, quantiles=(20_000.0, 40_000.0))
KEYS = np.array([(number, 0, 0) for number in range(1, 201)])


def ramps() -> np.ndarray:
    """(200, 32, 32) counts: the same ramp through the span, from left to right."""
    row = np.linspace(18_000, 42_000, 32).astype(np.uint16)
    return np.broadcast_to(row, (200, 32, 32)).copy()


def test_every_tile_is_exposed_in_its_own_way_and_keeps_the_order_of_its_grey_values():
    tiles = exposed(ramps(), KEYS, GREY, seed=0, epoch=0)
    assert tiles.dtype == np.float32 and len({tile.tobytes() for tile in tiles}) == 200
    assert (np.diff(tiles, axis=2) > 0).all()
    middle, slope = (
        tiles[:, 16, 16] / 20_000,
        (tiles[:, 16, 24] - tiles[:, 16, 8]) / (ramps()[0, 0, 24] - ramps()[0, 0, 8]),
    )
    # Offset of at most a tenth of the span, and gamma of 0.7 to 1.42 at its middle.
    assert 1.5 - 0.35 < middle.min() < 1.42 and 1.58 < middle.max() < 1.5 + 0.35
    assert 0.5 < slope.min() < 0.85 and 1.15 < slope.max() < 1.7


def test_half_of_the_tiles_are_less_sharp():
    edge = np.full((200, 32, 32), 25_000, dtype=np.uint16)
    edge[..., 16:] = 35_000
    steps = np.diff(exposed(edge, KEYS, GREY, seed=0, epoch=0), axis=2)
    sharp = (np.abs(steps) > 1).sum(2).max(1) == 1
    # Binomial: 100 of 200 with an error of 7; a Gaussian of nearly no width blurs nothing.
    assert 75 < sharp.sum() < 140


def test_an_exposure_is_the_same_alone_and_another_in_another_epoch_or_training():
    together = exposed(ramps(), KEYS, GREY, seed=0, epoch=3)
    np.testing.assert_array_equal(exposed(ramps()[[7]], KEYS[[7]], GREY, seed=0, epoch=3)[0], together[7])
    for seed, epoch in ((1, 3), (0, 4)):
        assert not np.array_equal(exposed(ramps(), KEYS, GREY, seed=seed, epoch=epoch), together)


@pytest.mark.parametrize("darkest", [0, -500])
def test_counts_stay_counts(darkest):
    tiles = np.full((200, 8, 8), darkest, dtype=np.int32)
    assert exposed(tiles, KEYS, GREY, seed=0, epoch=0).min() >= darkest


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_training_tiles_are_exposed_anew_in_every_epoch_and_their_noise_is_drawn_once(tiny_dataset, noise):
    source, cpu = open_source(tiny_dataset, DataConfig(tiles="1x2", tile_size=64)), torch.device("cpu")
    plain, config = (
        TrainConfig(noise_fraction=0.5, noise_model=noise, noise_sigma_max=3_000.0, augment=augment)
        for augment in ("none", "exposure")
    )
    rows = source.split.train
    tiles = TrainingTiles(source, rows, config, cpu)
    first, second, again = (tiles.of_epoch(epoch).images.clone() for epoch in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    clean = TrainingTiles(source, rows, TrainConfig(augment="exposure"), cpu)
    if noise == "gaussian":
        ours = [images - clean.of_epoch(epoch).images for epoch, images in enumerate((first, second))]
        torch.testing.assert_close(ours[0], ours[1], atol=1e-6, rtol=0)
    of_validation = [validation_set(source, source.split.validation, one, cpu).images for one in (plain, config)]
    assert torch.equal(*of_validation)
