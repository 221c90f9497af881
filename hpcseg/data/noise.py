"""Noise on raw grey values, in counts. Every draw is keyed by (seed, purpose, tile) and nothing else.

A tile's noise is therefore the same whatever the batch size, the number of ranks, the device or the other tiles:
it is drawn on the CPU, once, from a generator of its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from hpcseg.errors import DatasetError

Purpose = Literal["train", "test"]
_PURPOSE_KEY: dict[Purpose, int] = {"train": 1, "test": 2}


def unit_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """The noise of one tile at sigma 1, (size, size) float32. A second noise model is added here."""
    return rng.standard_normal((size, size), dtype=np.float32)


def tile_generator(seed: int, purpose: Purpose, tile: np.ndarray) -> np.random.Generator:
    """The generator of one tile.

    Args:
        seed: the training seed ("train") or the evaluation's ("test").
        purpose: keeps the noise that a model has seen apart from the noise that it is tested with.
        tile: (3,) int64, the slice's number, y and x.
    """
    key = np.random.SeedSequence([seed, _PURPOSE_KEY[purpose], *(int(part) for part in tile)])
    return np.random.Generator(np.random.Philox(key))


def training_noise(
    counts: np.ndarray, tiles: np.ndarray, *, fraction: float, sigma_max: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add noise to a share of the tiles, each with a sigma of its own, without clipping.

    A tile gets noise with probability `fraction`, and then sigma = U(0, 1) x `sigma_max`. The decision, the sigma
    and the noise of a tile come from its own generator in that order, so that the tiles that are noisy at one
    fraction are noisy in the same way at every higher one.

    Args:
        counts: (T, H, W) raw grey values.
        tiles: (T, 3) int64, slice number, y and x of each tile.
        fraction: probability of noise, 0..1.
        sigma_max: upper end of sigma, in counts.
        seed: the training seed.

    Returns:
        (T, H, W) float32 in counts, and (T,) float32 sigmas in counts (0: no noise).

    Raises:
        DatasetError: there is not one key per tile.

    Source: the paper's noise section; drawn once, as part of making the data set (our reading).
    """
    _one_key_each(counts, tiles)
    noisy = counts.astype(np.float32)
    sigmas = np.zeros(len(counts), dtype=np.float32)
    for index, tile in enumerate(tiles):
        rng = tile_generator(seed, "train", tile)
        decision, share = rng.random(2)
        if decision < fraction:
            sigmas[index] = share * sigma_max
            noisy[index] += sigmas[index] * unit_noise(rng, counts.shape[-1])
    return noisy, sigmas


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
        noise[index] = unit_noise(tile_generator(seed, "test", tile), size)
    return noise


def _one_key_each(counts: np.ndarray, tiles: np.ndarray) -> None:
    if tiles.shape != (len(counts), 3):
        raise DatasetError(f"{len(counts)} tiles need one key (slice, y, x) each, got shape {tiles.shape}.")
