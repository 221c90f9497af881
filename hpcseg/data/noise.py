"""Noise on raw grey values, in counts. A tile's noise comes from a stream of its own, on the CPU, whatever the device.

Sigma is the strength of every model: the standard deviation of the noise in counts, in the middle of the grey scale
where it depends on the grey value. So equal sigmas of different models can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcseg.config import NoiseLevel
from hpcseg.data.grey import GreyScale
from hpcseg.data.streams import Purpose, stream
from hpcseg.errors import DatasetError


def unit_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gaussian noise of one tile at sigma 1, (size, size) float32."""
    return rng.standard_normal((size, size), dtype=np.float32)


def noisy_tile(
    rng: np.random.Generator, counts: np.ndarray, sigma: np.floating | float, *, model: str, grey: GreyScale
) -> np.ndarray:
    """One tile with noise of one model. A further model is added here and to `config.NOISE_MODELS`.

    Args:
        rng: the tile's own.
        counts: (S, S) grey values; for "poisson" 0 or more.
        sigma: in counts.
        model: "gaussian"; "uniform", of the same deviation; "poisson", shot noise whose variance grows with the grey
            value; "salt-and-pepper", pixels that are lost to either end of the grey scale; or "offset", one Gaussian
            number of this deviation that all pixels of the tile have in common.
        grey: the scale of the data.

    Returns:
        (S, S) float32 in counts, not clipped.
    """
    noisy: np.ndarray = counts.astype(np.float32)
    if sigma == 0:
        return noisy
    if model == "gaussian":
        noisy += np.float32(sigma) * unit_noise(rng, counts.shape[-1])
    elif model == "uniform":
        # A uniform distribution of deviation 1 reaches from -sqrt(3) to sqrt(3).
        noisy += np.float32(sigma * np.sqrt(3)) * (2 * rng.random(counts.shape, dtype=np.float32) - 1)
    elif model == "poisson":
        counts_per_photon = sigma**2 / grey.middle
        noisy[:] = rng.poisson(noisy / counts_per_photon) * counts_per_photon
    elif model == "offset":
        noisy += np.float32(sigma) * rng.standard_normal(dtype=np.float32)
    else:
        assert model == "salt-and-pepper", model
        draw = rng.random(counts.shape, dtype=np.float32)
        share = (sigma / (grey.high - grey.middle)) ** 2
        noisy[draw < share] = grey.high
        noisy[draw < share / 2] = grey.low
    return noisy


def training_noise(
    counts: np.ndarray,
    tiles: np.ndarray,
    *,
    fraction: float,
    sigma_max: float,
    seed: int,
    grey: GreyScale,
    models: Sequence[str] = ("gaussian",),
    epoch: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Add noise to a share of the tiles, each with a sigma of its own, without clipping.

    A tile gets noise with probability `fraction`, and then sigma = U(0, 1) x `sigma_max` and one of the models by lot.
    The decision, the sigma and the noise of a tile come from its own generator in that order, so that the tiles that
    are noisy at one fraction are noisy in the same way at every higher one.

    Args:
        counts: (T, H, W) raw grey values.
        tiles: (T, 3) int64, slice number, y and x of each tile.
        fraction: probability of noise, 0..1.
        sigma_max: upper end of sigma, in counts.
        seed: the training seed.
        grey: the scale of the data.
        models: of noise.
        epoch: draw for this epoch; None: once for all.

    Returns:
        (T, H, W) float32 in counts, and (T,) float32 sigmas in counts (0: no noise).

    Raises:
        DatasetError: there is not one key per tile.

    Source: the paper's noise section; drawn once, as part of making the data set (our reading).
    """
    _one_key_each(counts, tiles)
    noisy = counts.astype(np.float32)
    sigmas = np.zeros(len(counts), dtype=np.float32)
    for index, tile in enumerate(tiles if fraction else ()):
        if epoch is None:
            rng = stream(Purpose.TRAINING_NOISE, seed, *tile)
        else:
            rng = stream(Purpose.TRAINING_NOISE_OF_EPOCH, seed, *tile, epoch)
        decision, share = rng.random(2)
        if decision < fraction:
            sigmas[index] = share * sigma_max
            model = models[int(rng.integers(len(models)))] if len(models) > 1 else models[0]
            noisy[index] = noisy_tile(rng, noisy[index], sigmas[index], model=model, grey=grey)
    return noisy, sigmas


def noisy_tests(counts: np.ndarray, tiles: np.ndarray, level: NoiseLevel, *, seed: int, grey: GreyScale) -> np.ndarray:
    """The test tiles at a level that is no multiple of `test_noise`: of another model, or clean and noisy ones mixed.

    Args:
        counts: (T, S, S) raw grey values.
        tiles: (T, 3) int64, slice number, y and x of each tile.
        level: model, sigma and share of noisy tiles.
        seed: the evaluation's seed.
        grey: the scale of the data.

    Returns:
        (T, S, S) float32 in counts.

    Raises:
        DatasetError: there is not one key per tile, or the span that sigma is a share of is not known.

    Source: the paper's future work, 1 and 5.
    """
    _one_key_each(counts, tiles)
    noisy = counts.astype(np.float32)
    purpose = Purpose.MIXED_TEST_NOISE if level.mixed else Purpose.TEST_NOISE
    sigma_max = grey.counts(level.sigma)
    for index, tile in enumerate(tiles):
        rng, sigma = stream(purpose, seed, *tile), sigma_max
        if level.fraction is not None:
            decision, share = rng.random(2)
            sigma *= share if decision < level.fraction else 0.0
        noisy[index] = noisy_tile(rng, noisy[index], sigma, model=level.model, grey=grey)
    return noisy


def test_noise(tiles: np.ndarray, *, size: int, seed: int) -> np.ndarray:
    """The noise of every test tile at sigma 1; a noise level is the tile plus sigma times this.

    One draw serves all levels, so that the points of a sweep are paired.

    Args:
        tiles: (T, 3) int64, slice number, y and x of each tile.
        size: edge of a tile in pixels.
        seed: the evaluation's seed.

    Returns:
        (T, size, size) float32.
    """
    noise = np.empty((len(tiles), size, size), dtype=np.float32)
    for index, tile in enumerate(tiles):
        noise[index] = unit_noise(stream(Purpose.TEST_NOISE, seed, *tile), size)
    return noise


def within_range(noisy: np.ndarray, dtype: np.dtype, rule: str) -> np.ndarray:
    """Grey values of any shape as a type of whole numbers would keep them.

    Args:
        noisy: in counts.
        dtype: of the data; of whole numbers, but for "keep".
        rule: "keep": as they are; "clip": those beyond the ends of the type become its ends; "wrap": rounded to whole
            numbers (halves to even), of which those beyond go on from the other end.

    Returns:
        The same shape, float32 but for "keep".
    """
    if rule == "keep":
        return noisy
    ends = np.iinfo(dtype)
    if rule == "clip":
        clipped: np.ndarray = noisy.clip(ends.min, ends.max).astype(np.float32)
        return clipped
    assert rule == "wrap", rule
    wrapped: np.ndarray = np.rint(noisy).astype(np.int64).astype(dtype).astype(np.float32)
    return wrapped


def _one_key_each(counts: np.ndarray, tiles: np.ndarray) -> None:
    if tiles.shape != (len(counts), 3):
        raise DatasetError(f"{len(counts)} tiles need one key (slice, y, x) each, got shape {tiles.shape}.")
