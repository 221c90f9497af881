"""Operations are counted as in the literature: a multiplication and an addition are two."""

from __future__ import annotations

import pytest
import torch

from hpcseg.bench.hardware import CONVOLUTION, MATRIX, count_operations, measure_peak
from hpcseg.learn.unet import build_unet


def _convolution(channels, to, edge, kernel=3):
    return 2 * channels * to * kernel**2 * edge**2


def test_operations_of_a_network_of_one_level():
    # Two blocks of two convolutions around one pooling, an up-convolution of 2 x 2 pixels, and the head.
    model = build_unet(classes=3, width=4, depth=1, batch_norm=True, seed=0)
    by_hand = (
        _convolution(1, 4, 8) + _convolution(4, 4, 8)
        + _convolution(4, 8, 4) + _convolution(8, 8, 4)
        + 2 * 8 * 4 * 8**2
        + _convolution(8, 4, 8) + _convolution(4, 4, 8)
        + _convolution(4, 3, 8, kernel=1)
    )  # fmt: skip
    evaluation, step = count_operations(model, 8)
    assert evaluation == by_hand
    # Backward needs the gradients of weights and of inputs, but for the input of the first convolution.
    assert step == pytest.approx(3 * by_hand - _convolution(1, 4, 8), rel=0.02)
    assert next(model.parameters()).device == torch.device("cpu")


def test_peak_of_this_machine_is_more_than_a_thousandth_of_any():
    peak = measure_peak(torch.device("cpu"), "fp32", seconds=0.1, rounds=1)
    assert set(peak.rounds) == {MATRIX, CONVOLUTION}
    assert min(map(peak.median, peak.rounds)) > 1e8
