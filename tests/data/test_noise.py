"""Noise in counts: of the strength that was asked for, never clipped, and a tile's own whatever else is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hpcseg.config import NOISE_MODELS, NoiseLevel, TrainConfig
from hpcseg.data import noise
from hpcseg.data.grey import GreyScale

# 128 x 128 pixels: the standard error of a standard deviation is sigma / sqrt(2 x 16384), of a mean sigma / 128.
DEVIATION_ERROR = 1 / np.sqrt(2 * 128 * 128)
MEAN_ERROR = 1 / 128
PAPER = GreyScale(0.0, 65_535.0)


def keys_of(count):
    return np.array([(1 + index // 9, 128 * (index % 3), 128 * (index // 3 % 3)) for index in range(count)])


def flat(count, size=128, value=30_000):
    return np.full((count, size, size), value, dtype=np.uint16)


def training_noise(counts, keys, *, fraction, sigma_max, seed, models=("gaussian",), epoch=None):
    config = TrainConfig(noise_fraction=fraction, noise_sigma_max=sigma_max, seed=seed, noise_model="+".join(models))
    return noise.training_noise(counts, keys, config, PAPER, epoch=epoch)


def test_every_noisy_tile_has_its_own_sigma_and_its_noise_is_gaussian_of_that_sigma():
    noisy, sigmas = training_noise(flat(40), keys_of(40), fraction=1.0, sigma_max=10_000, seed=0)
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
    noisy, sigmas = training_noise(tiles, keys_of(16), fraction=1.0, sigma_max=10_000, seed=0)
    # Half of the pixels of a clipped tile would be exactly at the end.
    assert np.mean(noisy[:8] < 0) == pytest.approx(0.5, abs=0.02)
    assert np.mean(noisy[8:] > 65_535) == pytest.approx(0.5, abs=0.02)
    assert (sigmas > 0).all()


def test_sigmas_are_uniform_up_to_the_maximum():
    _, sigmas = training_noise(flat(2000, size=1), keys_of(2000), fraction=1.0, sigma_max=10_000, seed=1)
    assert sigmas.min() >= 0
    assert sigmas.max() <= 10_000
    # Kolmogorov-Smirnov: of 2000 draws, beyond 1.95 / sqrt(2000) in one of 1000 samples.
    distance = np.abs(np.sort(sigmas) / 10_000 - (np.arange(2000) + 0.5) / 2000).max()
    assert distance < 1.95 / np.sqrt(2000)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_the_share_of_noisy_tiles_is_the_fraction(fraction):
    _, sigmas = training_noise(flat(2000, size=1), keys_of(2000), fraction=fraction, sigma_max=10_000, seed=0)
    error = np.sqrt(fraction * (1 - fraction) / 2000)
    assert np.mean(sigmas > 0) == pytest.approx(fraction, abs=4 * error)


def test_no_fraction_is_no_noise():
    noisy, sigmas = training_noise(flat(50, size=4), keys_of(50), fraction=0.0, sigma_max=10_000, seed=0)
    np.testing.assert_array_equal(noisy, flat(50, size=4))
    assert not sigmas.any()


def test_a_tile_is_noisy_in_the_same_way_alone_and_among_others_in_any_order():
    tiles, keys = flat(30, size=16), keys_of(30)
    together, sigmas = training_noise(tiles, keys, fraction=0.5, sigma_max=10_000, seed=7)
    order = np.random.default_rng(0).permutation(30)
    shuffled, _ = training_noise(tiles[order], keys[order], fraction=0.5, sigma_max=10_000, seed=7)
    np.testing.assert_array_equal(shuffled, together[order])
    for index in (0, 13, 29):
        alone, sigma = training_noise(tiles[[index]], keys[[index]], fraction=0.5, sigma_max=10_000, seed=7)
        np.testing.assert_array_equal(alone[0], together[index])
        assert sigma[0] == sigmas[index]


def test_tiles_noisy_at_one_fraction_are_noisy_in_the_same_way_at_every_higher_one():
    tiles, keys = flat(200, size=4), keys_of(200)
    lower, lower_sigmas = training_noise(tiles, keys, fraction=0.25, sigma_max=10_000, seed=0)
    for fraction in (0.5, 0.75, 1.0):
        higher, higher_sigmas = training_noise(tiles, keys, fraction=fraction, sigma_max=10_000, seed=0)
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


def test_test_noise_is_standard_normal_and_the_same_alone_and_among_others():
    together = noise.test_noise(keys_of(20), size=128, seed=3)
    assert (together.shape, together.dtype) == ((20, 128, 128), np.float32)
    assert together.std() == pytest.approx(1, rel=4 * DEVIATION_ERROR / np.sqrt(20))
    assert together.mean() == pytest.approx(0, abs=4 * MEAN_ERROR / np.sqrt(20))
    np.testing.assert_array_equal(noise.test_noise(keys_of(20)[[11]], size=128, seed=3)[0], together[11])


@pytest.mark.parametrize("sigma", [1_000, 5_000, 10_000])
@pytest.mark.parametrize("model", ["gaussian", "uniform", "poisson", "salt-and-pepper"])
def test_every_model_has_deviation_sigma_and_no_bias_at_half_of_the_full_scale(model, sigma):
    tile = np.full((256, 256), 32_768, dtype=np.uint16)
    noisy = noise.noisy_tile(np.random.default_rng(1), tile, sigma, model=model, grey=GreyScale(0.0, 65_536.0))
    assert (noisy.shape, noisy.dtype) == (tile.shape, np.float32)
    # Lost pixels deviate by 32768 each, so their number, of n, decides: relative error of a deviation 1 / (2 sqrt(n)).
    lost = 65_536 * (sigma / 32_768) ** 2
    error = 1 / np.sqrt(2 * 65_536) if model != "salt-and-pepper" else 1 / (2 * np.sqrt(lost))
    assert noisy.std() == pytest.approx(sigma, rel=4 * error)
    assert noisy.mean() == pytest.approx(32_768, abs=4 * sigma / 256)
    assert not np.array_equal(noisy, tile)


@pytest.mark.parametrize("model", NOISE_MODELS)
def test_the_sigma_of_any_model_means_the_same_over_many_tiles(model):
    tiles, level = flat(1_000, size=8, value=32_768), NoiseLevel(5_000, model)
    shifts = noise.noisy_tests(tiles, keys_of(1_000), level, seed=0, grey=GreyScale(0.0, 65_536.0)) - 32_768
    # Where all pixels of a tile share a number there are 1000 of them: standard errors of 2.2 % of a deviation, and of
    # sigma / 32 of a mean.
    assert shifts.std() == pytest.approx(5_000, rel=4 / np.sqrt(2_000))
    assert shifts.mean() == pytest.approx(0, abs=4 * 5_000 / np.sqrt(1_000))


def test_the_model_that_contributing_shows_is_one():
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (shown,) = re.findall(r"^ +(noisy \*= .*)$", page, re.MULTILINE)
    counts, sigma, grey, rng = flat(1, value=32_768)[0], 5_000, GreyScale(0.0, 65_536.0), np.random.default_rng(1)
    names = {"np": np, "noisy": counts.astype(np.float32), "counts": counts, "sigma": sigma, "grey": grey, "rng": rng}
    exec(shown, names)
    assert names["noisy"].dtype == np.float32
    assert names["noisy"].std() == pytest.approx(sigma, rel=4 * DEVIATION_ERROR)


def test_uniform_noise_ends_where_its_deviation_says():
    tile = np.zeros((256, 256), dtype=np.uint16)
    noisy = noise.noisy_tile(np.random.default_rng(1), tile, 1_000, model="uniform", grey=PAPER)
    assert 1_700 < noisy.max() <= 1_000 * np.sqrt(3) + 1e-3
    assert -1_000 * np.sqrt(3) - 1e-3 <= noisy.min() < -1_700


def test_shot_noise_grows_with_the_root_of_the_grey_value_and_never_goes_below_zero():
    dark, bright = (
        noise.noisy_tile(
            np.random.default_rng(1),
            np.full((256, 256), value, dtype=np.uint16),
            5_000,
            model="poisson",
            grey=GreyScale(0.0, 65_536.0),
        )
        for value in (4_096, 16_384)
    )
    assert bright.std() / dark.std() == pytest.approx(2, rel=8 / np.sqrt(2 * 65_536))
    assert dark.min() >= 0


def test_salt_and_pepper_leaves_the_other_pixels_as_they_are():
    tile = np.full((256, 256), 30_000, dtype=np.uint16)
    noisy = noise.noisy_tile(np.random.default_rng(1), tile, 5_000, model="salt-and-pepper", grey=PAPER)
    assert set(np.unique(noisy)) == {0, 30_000, 65_535}
    assert np.mean(noisy == 0) == pytest.approx(np.mean(noisy == 65_535), rel=0.2)


def test_an_offset_is_one_gaussian_number_for_all_pixels_of_a_tile():
    tiles, keys = flat(1_000, size=4), keys_of(1_000)
    level = NoiseLevel(3_000, "offset")
    shifts = noise.noisy_tests(tiles, keys, level, seed=0, grey=PAPER) - 30_000
    assert (shifts == shifts[:, :1, :1]).all()
    # Of 1000 numbers: standard errors of a deviation, a mean and a share of 68.3 % within one sigma.
    assert shifts[:, 0, 0].std() == pytest.approx(3_000, rel=4 / np.sqrt(2_000))
    assert shifts[:, 0, 0].mean() == pytest.approx(0, abs=4 * 3_000 / np.sqrt(1_000))
    assert np.mean(np.abs(shifts[:, 0, 0]) < 3_000) == pytest.approx(0.683, abs=4 * 0.465 / np.sqrt(1_000))
    trained, sigmas = training_noise(tiles, keys, fraction=1.0, sigma_max=10_000, seed=0, models=("offset",))
    assert (trained == trained[:, :1, :1]).all() and len(np.unique(trained[:, 0, 0])) > 990
    assert np.std((trained[:, 0, 0] - 30_000) / sigmas) == pytest.approx(1, rel=4 / np.sqrt(2_000))


def test_blurred_noise_is_as_strong_at_the_edges_and_neighbours_are_alike():
    shifts = noise.noisy_tests(flat(200, size=32), keys_of(200), NoiseLevel(3_000, "blurred"), seed=0, grey=PAPER)
    shifts -= 30_000
    # Of a Gaussian of one pixel the correlations are exp(-distance**2 / 4); of 200 tiles with some 80 blobs in each.
    assert shifts.std() == pytest.approx(3_000, rel=0.03)
    assert shifts[:, 0].std() == pytest.approx(3_000, rel=0.06) and shifts[:, :, -1].std() == pytest.approx(
        3_000, rel=0.06
    )
    for distance, alike in ((1, 0.779), (3, 0.105)):
        pairs = np.corrcoef(shifts[:, :, distance:].ravel(), shifts[:, :, :-distance].ravel())
        assert pairs[0, 1] == pytest.approx(alike, abs=0.03)


def test_stripes_are_one_gaussian_number_for_each_column():
    shifts = noise.noisy_tests(flat(200, size=32), keys_of(200), NoiseLevel(3_000, "stripes"), seed=0, grey=PAPER)
    shifts -= 30_000
    assert (shifts == shifts[:, :1]).all()
    assert shifts[:, 0].std() == pytest.approx(3_000, rel=4 / np.sqrt(2 * 6_400))
    assert np.corrcoef(shifts[:, 0, 1:].ravel(), shifts[:, 0, :-1].ravel())[0, 1] == pytest.approx(0, abs=4 / 79)


def test_values_beyond_the_type_are_kept_clipped_or_wrapped_around():
    noisy = np.array([[-1.4, -0.4, 0.6], [65_535.4, 65_535.6, 65_540.0], [-65_536.0, 131_072.0, 31_000.4]], np.float32)
    assert noise.within_range(noisy, np.dtype(np.uint16), "keep") is noisy
    clipped = noise.within_range(noisy, np.dtype(np.uint16), "clip")
    wrapped = noise.within_range(noisy, np.dtype(np.uint16), "wrap")
    assert clipped.dtype == wrapped.dtype == np.float32
    kept, inside = np.float32(31_000.4), np.float32(0.6)
    np.testing.assert_array_equal(clipped, [[0, 0, inside], [65_535, 65_535, 65_535], [0, 65_535, kept]])
    np.testing.assert_array_equal(wrapped, [[65_535, 0, 1], [65_535, 0, 4], [0, 0, 31_000]])
    bytes_ = np.array([-1, 255, 256, 300], np.float32)
    assert noise.within_range(bytes_, np.dtype(np.uint8), "wrap").tolist() == [255, 255, 0, 44]


def test_a_mixture_gives_each_noisy_tile_one_of_its_models_by_lot():
    models = ("gaussian", "salt-and-pepper")
    noisy, sigmas = training_noise(
        flat(200, size=64), keys_of(200), fraction=1.0, sigma_max=10_000, seed=0, models=models
    )
    lost = np.array([np.isin(tile, (0, 65_535)).any() for tile in noisy[sigmas > 2_000]])
    # Of 160 tiles; the standard error of a share of one half is 4 %.
    assert lost.mean() == pytest.approx(0.5, abs=0.16)


def test_noise_of_an_epoch_is_its_own_and_not_that_of_a_set_drawn_once():
    tiles, keys = flat(20, size=64), keys_of(20)
    draws = [
        training_noise(tiles, keys, fraction=1.0, sigma_max=10_000, seed=0, epoch=epoch)[0] for epoch in (None, 0, 1, 0)
    ]
    np.testing.assert_array_equal(draws[1], draws[3])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        correlation = np.corrcoef((draws[first] - 30_000).ravel(), (draws[second] - 30_000).ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(tiles.size)


def test_a_mixed_test_set_has_clean_tiles_and_noisy_ones_of_all_strengths():
    level = NoiseLevel(10_000, fraction=0.5)
    noisy = noise.noisy_tests(flat(400, size=16), keys_of(400), level, seed=0, grey=PAPER)
    deviations = (noisy - 30_000).std(axis=(1, 2))
    # Standard error of a share of one half of 400: 2.5 %.
    assert np.mean(deviations == 0) == pytest.approx(0.5, abs=0.1)
    strong = deviations[deviations > 0]
    # A deviation of 256 pixels has an error of 4.4 %, and 200 draws of U(0, 10000) a mean of 5000 +- 204.
    assert strong.max() < 10_000 * 1.2
    assert strong.mean() == pytest.approx(5_000, abs=4 * 204)


def test_keys_that_are_not_one_per_tile_are_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        training_noise(flat(3, size=4), keys_of(2), fraction=1.0, sigma_max=1, seed=0)


@pytest.mark.parametrize("model", ["gaussian", "poisson"])
def test_the_noise_of_many_tiles_that_are_drawn_by_threads_is_that_of_each_alone(monkeypatch, model):
    monkeypatch.setattr(noise.os, "sched_getaffinity", lambda process: {0, 1, 2})
    counts, keys, level = flat(300, size=8), keys_of(300), NoiseLevel(3_000, model, fraction=0.5)
    drawn = [
        training_noise(counts, keys, fraction=0.5, sigma_max=10_000, seed=3, models=(model,), epoch=2)[0],
        noise.noisy_tests(counts, keys, level, seed=3, grey=PAPER),
        noise.test_noise(keys, size=8, seed=3),
    ]
    for index in range(0, 300, 7):
        one, key = counts[index : index + 1], keys[index : index + 1]
        alone = [
            training_noise(one, key, fraction=0.5, sigma_max=10_000, seed=3, models=(model,), epoch=2)[0],
            noise.noisy_tests(one, key, level, seed=3, grey=PAPER),
            noise.test_noise(key, size=8, seed=3),
        ]
        for many, single in zip(drawn, alone, strict=True):
            np.testing.assert_array_equal(many[index], single[0])
    assert len({tile.tobytes() for tile in drawn[2]}) == 300
