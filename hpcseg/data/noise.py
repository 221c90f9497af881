"""Noise on raw grey values, in counts. A tile's noise comes from a stream of its own, on the CPU, whatever the device.

Sigma is the strength of every model: the standard deviation of the noise in counts, in the middle of the grey scale
where it depends on the grey value. So equal sigmas of different models can be compared. Keys of tiles are (T, 3) int64:
slice number, y and x of each.

A tile may have C channels, one slice each: tiles are (T, C, S, S) then, and keys (T, C, 3). Each channel has the noise
of its own key, as strong and of the same kind as that of the middle one, whose key says whether there is any.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from hpcseg.config import NoiseLevel, TrainConfig, noise_models
from hpcseg.data.grey import GreyScale
from hpcseg.data.streams import Purpose, stream

_Of = TypeVar("_Of")
# Deviation in pixels: neighbours have a correlation of 0.78, and those three pixels away one of 0.1.
_BLUR = 1.0
# Of fewer a thread costs more than it brings.
_LEAST_PER_THREAD = 64


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
            number of this deviation that all pixels of the tile have in common; "blurred", Gaussian noise whose
            neighbours are alike, as a reconstruction filter leaves it; or "stripes", one Gaussian number for each
            column, as of a detector's pixels that answer differently.
        grey: the scale of the data.

    Returns:
        (S, S) float32 in counts, not clipped.
    """
    noisy: np.ndarray = counts.astype(np.float32)
    if sigma == 0:
        return noisy
    if model == "gaussian":
        noisy += np.float32(sigma) * rng.standard_normal(counts.shape, dtype=np.float32)
    elif model == "uniform":
        # A uniform distribution of deviation 1 reaches from -sqrt(3) to sqrt(3).
        noisy += np.float32(sigma * np.sqrt(3)) * (2 * rng.random(counts.shape, dtype=np.float32) - 1)
    elif model == "poisson":
        counts_per_photon = sigma**2 / grey.middle
        noisy[:] = rng.poisson(noisy / counts_per_photon) * counts_per_photon
    elif model == "offset":
        noisy += np.float32(sigma) * rng.standard_normal(dtype=np.float32)
    elif model == "blurred":
        noisy += np.float32(sigma / _left_by_blur()) * _blurred(rng.standard_normal(counts.shape, dtype=np.float32))
    elif model == "stripes":
        noisy += np.float32(sigma) * rng.standard_normal(counts.shape[1], dtype=np.float32)
    else:
        assert model == "salt-and-pepper", model
        draw = rng.random(counts.shape, dtype=np.float32)
        share = (sigma / (grey.high - grey.middle)) ** 2
        noisy[draw < share] = grey.high
        noisy[draw < share / 2] = grey.low
    return noisy


def _blurred(noise: np.ndarray) -> np.ndarray:
    """By a Gaussian of one pixel; round the edges, so that the noise is as strong there."""
    from scipy.ndimage import gaussian_filter

    blurred: np.ndarray = gaussian_filter(noise, _BLUR, mode="wrap")
    return blurred


@functools.cache
def _left_by_blur() -> float:
    """The deviation that blurring leaves of independent noise of deviation 1."""
    point = np.zeros((33, 33))
    point[16, 16] = 1
    return float(np.sqrt((_blurred(point) ** 2).sum()))


def training_noise(
    counts: np.ndarray, keys: np.ndarray, config: TrainConfig, grey: GreyScale, *, epoch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Add noise to a share of the tiles, each with a sigma of its own, without clipping.

    A tile gets noise with probability `noise_fraction`, then sigma = U(0, 1) x `noise_sigma_max` and one of the models
    by lot. The decision, the sigma and the noise of a tile come from its own generator in that order, so that the tiles
    that are noisy at one fraction are noisy in the same way at every higher one.

    Args:
        counts: (T, S, S) or (T, C, S, S) raw grey values.
        keys: of the tiles.
        config: what noise there is, and the seed.
        grey: the scale of the data.
        epoch: that it is drawn for; None: once for all.

    Returns:
        The tiles, float32 in counts, and (T,) float32 sigmas in counts (0: no noise).

    Raises:
        DatasetError: sigma is a share of a span that is not known.

    Source: the paper's noise section; drawn once, as part of making the data set (our reading).
    """
    noisy, sigmas = counts.astype(np.float32), np.zeros(len(counts), dtype=np.float32)
    if not config.noise_fraction:
        return noisy, sigmas
    models, sigma_max = noise_models(config.noise_model, "train.noise_model"), grey.counts(config.noise_sigma_max)

    purpose, last = (Purpose.TRAINING_NOISE, ()) if epoch is None else (Purpose.TRAINING_NOISE_OF_EPOCH, (epoch,))

    def draw(index: int, keys: np.ndarray, channels: np.ndarray) -> None:
        rngs = [stream(purpose, config.seed, *key, *last) for key in keys]
        decision, share = _middle([rng.random(2) for rng in rngs])
        if decision < config.noise_fraction:
            sigmas[index] = share * sigma_max
            model = _middle([models[int(rng.integers(len(models)))] if len(models) > 1 else models[0] for rng in rngs])
            for rng, channel in zip(rngs, channels, strict=True):
                channel[:] = noisy_tile(rng, channel, sigmas[index], model=model, grey=grey)

    for_each_tile(draw, keys, noisy)
    return noisy, sigmas


def noisy_tests(counts: np.ndarray, keys: np.ndarray, level: NoiseLevel, *, seed: int, grey: GreyScale) -> np.ndarray:
    """The test tiles at a level that is no multiple of `test_noise`: of another model, or clean and noisy ones mixed.

    Args and Returns as of `noisy_tile`, of all tiles; `seed` is the evaluation's.

    Raises:
        DatasetError: sigma is a share of a span that is not known.

    Source: the paper's future work, 1 and 5.
    """
    noisy, sigma_max = counts.astype(np.float32), grey.counts(level.sigma)

    def draw(_: int, keys: np.ndarray, channels: np.ndarray) -> None:
        rngs = [stream(Purpose.MIXED_TEST_NOISE if level.mixed else Purpose.TEST_NOISE, seed, *key) for key in keys]
        sigma = sigma_max
        if level.fraction is not None:
            decision, share = _middle([rng.random(2) for rng in rngs])
            sigma *= share if decision < level.fraction else 0.0
        for rng, channel in zip(rngs, channels, strict=True):
            channel[:] = noisy_tile(rng, channel, sigma, model=level.model, grey=grey)

    for_each_tile(draw, keys, noisy)
    return noisy


def test_noise(keys: np.ndarray, *, size: int, seed: int) -> np.ndarray:
    """The noise of every test tile at sigma 1, float32, of the tiles' shape; a level is the tile plus sigma times this.

    One draw serves all levels, so that the points of a sweep are paired. `size` is the edge of a tile in pixels, `seed`
    the evaluation's.
    """
    noise = np.empty((*keys.shape[:-1], size, size), dtype=np.float32)

    def draw(_: int, keys: np.ndarray, channels: np.ndarray) -> None:
        for key, channel in zip(keys, channels, strict=True):
            channel[:] = stream(Purpose.TEST_NOISE, seed, *key).standard_normal((size, size), dtype=np.float32)

    for_each_tile(draw, keys, noise)
    return noise


def for_each_tile(draw: Callable[[int, np.ndarray, np.ndarray], None], keys: np.ndarray, tiles: np.ndarray) -> None:
    """Call with number, (C, 3) keys and (C, S, S) channels of each tile, C being 1 where they are not named.

    By threads: generators hold no other up, and each has its own.
    """
    channels = (tile.reshape(-1, *tile.shape[-2:]) for tile in tiles)
    items = zip(range(len(tiles)), map(np.atleast_2d, keys), channels, strict=True)
    with ThreadPoolExecutor(max(1, min(len(os.sched_getaffinity(0)), len(tiles) // _LEAST_PER_THREAD))) as pool:
        list(pool.map(lambda item: draw(*item), items))


def _middle(of_channels: Sequence[_Of]) -> _Of:
    return of_channels[len(of_channels) // 2]


def within_range(noisy: np.ndarray, dtype: np.dtype, rule: str) -> np.ndarray:
    """Grey values of any shape, in counts, as a type of whole numbers would keep them: float32, but for "keep".

    The rule is "keep": as they are; "clip": those beyond the ends of the type become its ends; or "wrap": rounded to
    whole numbers (halves to even), of which those beyond go on from the other end.
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
