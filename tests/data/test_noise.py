"""Noise in counts: of the strength that was asked for, never clipped, and a tile's own whatever else is loaded."""

from __future__ import annotations

import numpy as np
import pytest

from hpcseg.data import noise
from hpcseg.errors import DatasetError

# 128 x 128 pixels: the standard error of a standard deviation is sigma / sqrt(2 x 16384), of a mean sigma / 128.
DEVIATION_ERROR = 1 / np.sqrt(2 * 128 * 128)
MEAN_ERROR = 1 / 128


def keys_of(count):
    return np.array([(1 + index // 9, 128 * (index % 3), 128 * (index // 3 % 3)) for index in range(count)])


def flat(count, size=128, value=30_000):
    return np.full((count, size, size), value, dtype=np.uint16)


def test_every_noisy_tile_has_its_own_sigma_and_its_noise_is_gaussian_of_that_sigma():
    noisy, sigmas = noise.training_noise(flat(40), keys_of(40), fraction=1.0, sigma_max=10_000, seed=0)
    assert noisy.dtype == sigmas.dtype == np.float32
    assert len(np.unique(sigmas)) == 40
    for tile, sigma in zip(noisy, sigmas, strict=True):
        # 40 tiles, so a few of them are beyond 2 errors and none is beyond 5.
        assert tile.std() == pytest.approx(sigma, rel=5 * DEVIATION_ERROR)
        assert tile.mean() == pytest.approx(30_000, abs=float(5 * MEAN_ERROR * sigma))
        within = np.mean(np.abs(tile - 30_000) < sigma)
        # 68.27 % of a normal distribution; binomial error sqrt(0.683 x 0.317) / 128.
        assert within == pytest.approx(0.6827, abs=5 * 0.465 / 128)


def test_noise_is_not_clipped_at_either_end_of_the_grey_values():
    tiles = np.concatenate([flat(8, value=0), flat(8, value=65_535)])
    noisy, sigmas = noise.training_noise(tiles, keys_of(16), fraction=1.0, sigma_max=10_000, seed=0)
    # Half of the pixels of a clipped tile would be exactly at the end.
    assert np.mean(noisy[:8] < 0) == pytest.approx(0.5, abs=0.02)
    assert np.mean(noisy[8:] > 65_535) == pytest.approx(0.5, abs=0.02)
    assert (sigmas > 0).all()


def test_sigmas_are_uniform_up_to_the_maximum():
    _, sigmas = noise.training_noise(flat(2000, size=1), keys_of(2000), fraction=1.0, sigma_max=10_000, seed=1)
    assert sigmas.min() >= 0
    assert sigmas.max() <= 10_000
    # Kolmogorov-Smirnov: of 2000 draws, beyond 1.95 / sqrt(2000) in one of 1000 samples.
    distance = np.abs(np.sort(sigmas) / 10_000 - (np.arange(2000) + 0.5) / 2000).max()
    assert distance < 1.95 / np.sqrt(2000)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_the_share_of_noisy_tiles_is_the_fraction(fraction):
    _, sigmas = noise.training_noise(flat(2000, size=1), keys_of(2000), fraction=fraction, sigma_max=10_000, seed=0)
    error = np.sqrt(fraction * (1 - fraction) / 2000)
    assert np.mean(sigmas > 0) == pytest.approx(fraction, abs=4 * error)


def test_no_fraction_is_no_noise():
    noisy, sigmas = noise.training_noise(flat(50, size=4), keys_of(50), fraction=0.0, sigma_max=10_000, seed=0)
    np.testing.assert_array_equal(noisy, flat(50, size=4))
    assert not sigmas.any()


def test_a_tile_is_noisy_in_the_same_way_alone_and_among_others_in_any_order():
    tiles, keys = flat(30, size=16), keys_of(30)
    together, sigmas = noise.training_noise(tiles, keys, fraction=0.5, sigma_max=10_000, seed=7)
    order = np.random.default_rng(0).permutation(30)
    shuffled, _ = noise.training_noise(tiles[order], keys[order], fraction=0.5, sigma_max=10_000, seed=7)
    np.testing.assert_array_equal(shuffled, together[order])
    for index in (0, 13, 29):
        alone, sigma = noise.training_noise(tiles[[index]], keys[[index]], fraction=0.5, sigma_max=10_000, seed=7)
        np.testing.assert_array_equal(alone[0], together[index])
        assert sigma[0] == sigmas[index]


def test_tiles_noisy_at_one_fraction_are_noisy_in_the_same_way_at_every_higher_one():
    tiles, keys = flat(200, size=4), keys_of(200)
    lower, lower_sigmas = noise.training_noise(tiles, keys, fraction=0.25, sigma_max=10_000, seed=0)
    for fraction in (0.5, 0.75, 1.0):
        higher, higher_sigmas = noise.training_noise(tiles, keys, fraction=fraction, sigma_max=10_000, seed=0)
        noisy = lower_sigmas > 0
        np.testing.assert_array_equal(higher[noisy], lower[noisy])
        assert (higher_sigmas > 0).sum() > noisy.sum()
        lower, lower_sigmas = higher, higher_sigmas
    assert (lower_sigmas > 0).all()


@pytest.mark.parametrize("part", [0, 1, 2], ids=["slice", "y", "x"])
def test_tiles_that_differ_in_one_part_of_their_key_have_other_noise(part):
    keys = np.array([(1, 0, 0), (1, 0, 0)])
    keys[1, part] += 1
    first, second = noise.test_noise(keys, size=64, seed=0)
    # Independent: the correlation of 4096 pairs has a standard error of 1 / 64.
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(0, abs=4 / 64)


def test_seeds_and_purposes_have_noise_of_their_own():
    key = np.array([5, 128, 0])
    draws = [
        noise.tile_generator(seed, purpose, key).standard_normal(4096)
        for seed, purpose in ((0, "train"), (0, "test"), (1, "train"), (1, "test"))
    ]
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / 64


def test_test_noise_is_standard_normal_and_the_same_alone_and_among_others():
    together = noise.test_noise(keys_of(20), size=128, seed=3)
    assert (together.shape, together.dtype) == ((20, 128, 128), np.float32)
    assert together.std() == pytest.approx(1, rel=4 * DEVIATION_ERROR / np.sqrt(20))
    assert together.mean() == pytest.approx(0, abs=4 * MEAN_ERROR / np.sqrt(20))
    np.testing.assert_array_equal(noise.test_noise(keys_of(20)[[11]], size=128, seed=3)[0], together[11])


def test_keys_that_are_not_one_per_tile_are_refused():
    with pytest.raises(DatasetError, match=r"3 tiles need one key .* got shape \(2, 3\)"):
        noise.training_noise(flat(3, size=4), keys_of(2), fraction=1.0, sigma_max=1, seed=0)
