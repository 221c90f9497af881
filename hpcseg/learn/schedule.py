"""How large the steps of a training are, from its first to its last: a function of the step's number alone."""

from __future__ import annotations

import numpy as np

from hpcseg.config import TrainConfig

# One cycle after Smith and Topin 2018 with the numbers that torch's OneCycleLR has by default.
_RISING = 0.3
_FIRST = 1 / 25
_LAST = 1 / 25e4


def learning_rates(config: TrainConfig, *, steps: int, epoch: int) -> np.ndarray:
    """The learning rate of every step of an epoch, (steps,) float32.

    Args:
        config: whose schedule is "cosine" (from the learning rate down to nothing along half a cosine) or "one-cycle"
            (in three tenths of all steps up to it from a 25th, then down to a 250 000th, both along half cosines).
        steps: of an epoch.
        epoch: from 0.

    Source: cosine, Loshchilov and Hutter 2017 (one period, no restart); one cycle, Smith and Topin 2018.
    """
    last = max(1, steps * config.epochs - 1)
    way = (epoch * steps + np.arange(steps)) / last  # 0 at the first step of the training, 1 at the last
    if config.schedule == "cosine":
        shares = _between(1.0, 0.0, way)
    else:
        assert config.schedule == "one-cycle", config.schedule
        down = _between(1.0, _LAST, (way - _RISING) / (1 - _RISING))
        shares = np.where(way < _RISING, _between(_FIRST, 1.0, way / _RISING), down)
    rates: np.ndarray = (config.learning_rate * shares).astype(np.float32)
    return rates


def _between(first: float, last: float, way: np.ndarray) -> np.ndarray:
    """Along half a cosine from the first value, at 0, to the last, at 1."""
    values: np.ndarray = last + (first - last) * (1 + np.cos(np.pi * way)) / 2
    return values
