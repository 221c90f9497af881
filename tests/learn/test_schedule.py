"""Learning rates: those of torch's own schedulers, and a function of the step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcseg.config import TrainConfig
from hpcseg.learn.schedule import learning_rates

STEPS, EPOCHS, HIGHEST = 7, 5, 1e-3


def all_of(schedule: str) -> np.ndarray:
    config = TrainConfig(schedule=schedule, learning_rate=HIGHEST, epochs=EPOCHS)
    return np.concatenate([learning_rates(config, steps=STEPS, epoch=epoch) for epoch in range(EPOCHS)])


def by_torch(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=HIGHEST)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS * EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs_over_all_steps():
    last = STEPS * EPOCHS - 1
    expected = by_torch(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, last))
    np.testing.assert_allclose(all_of("cosine"), expected, rtol=1e-5, atol=1e-10)
    assert all_of("cosine")[0] == np.float32(HIGHEST) and all_of("cosine")[-1] == 0


def test_one_cycle_rises_from_a_25th_and_falls_as_torchs_does():
    total = 1 + 10 * 10  # so that its highest step is a whole one
    rates = learning_rates(TrainConfig(schedule="one-cycle", learning_rate=HIGHEST, epochs=1), steps=total, epoch=0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=HIGHEST)
    # torch counts the last step of the rise from one step earlier.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, HIGHEST, total_steps=total, pct_start=31 / total)
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_training_of_one_step_has_a_rate(schedule):
    (rate,) = learning_rates(TrainConfig(schedule=schedule, learning_rate=HIGHEST, epochs=1), steps=1, epoch=0)
    assert 0 < rate <= np.float32(HIGHEST)
