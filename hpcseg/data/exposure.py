"""Tiles as another scan of the same sample would show them: another exposure, another focus. Drawn for each epoch."""

from __future__ import annotations

import numpy as np

from hpcseg.data.grey import GreyScale
from hpcseg.data.noise import for_each_tile
from hpcseg.data.streams import Purpose, stream

# About what nnU-Net draws; in shares of the span of the grey values, and in pixels.
_GAMMA = 0.35
_GAIN = 0.25
_OFFSET = 0.1
_BLUR = 1.0


def exposed(counts: np.ndarray, keys: np.ndarray, grey: GreyScale, *, seed: int, epoch: int) -> np.ndarray:
    """The tiles of an epoch, before any noise.

    Of each tile the grey values, as shares of their span, get an exponent (its logarithm by lot up to 0.35), a gain
    about the middle (0.75 to 1.25) and an offset (up to a tenth); and every second one is blurred, by a Gaussian of up
    to a pixel. Values of 0 or more stay so.

    Args:
        counts: (T, S, S) grey values; or (T, C, S, S), whose channels are exposed alike.
        keys: (T, 3) int64, slice number, y and x of each; or (T, C, 3), of which the middle one counts.
        grey: the scale of the data.
        seed: the training's.
        epoch: from 0.

    Returns:
        The tiles, float32 in counts.
    """
    from scipy.ndimage import gaussian_filter

    changed = counts.astype(np.float32)
    low, high = grey.quantiles if grey.quantiles and grey.span else (grey.low, grey.high)

    def draw(_: int, keys: np.ndarray, tile: np.ndarray) -> None:
        key = keys[len(keys) // 2]  # for all channels, which are of one scan
        gamma, gain, offset, blurred, blur = stream(Purpose.EPOCH_EXPOSURE, seed, *key, epoch).random(5)
        least = min(0.0, float(tile.min()))
        shares = (tile - np.float32(low)) / np.float32(high - low)
        # Below the span there is no power to take.
        shares = np.where(shares > 0, np.abs(shares) ** np.float32(np.exp(_GAMMA * (2 * gamma - 1))), shares)
        shares = (shares - np.float32(0.5)) * np.float32(1 + _GAIN * (2 * gain - 1))
        shares += np.float32(0.5 + _OFFSET * (2 * offset - 1))
        if blurred < 0.5:
            shares = gaussian_filter(shares, (0, _BLUR * blur, _BLUR * blur), mode="nearest")
        tile[:] = np.maximum(shares * np.float32(high - low) + np.float32(low), np.float32(least))

    for_each_tile(draw, keys, changed)
    return changed
