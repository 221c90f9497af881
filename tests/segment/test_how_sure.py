"""How sure a model is, counted: the textbook's numbers, in whole numbers that add up in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcseg import metrics
from hpcseg.data.classes import IGNORED
from hpcseg.segment.calibration import count_sure


def batch(tiles: int = 3, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = sharpness * torch.randn(tiles, 3, 40, 30, generator=generator)
    labels = torch.distributions.Categorical(logits=scores.permute(0, 2, 3, 1))
    torch.manual_seed(0)
    truth = labels.sample()
    return scores, truth.masked_fill(torch.rand(truth.shape, generator=generator) < 0.1, IGNORED)


def test_counts_are_those_of_numpy():
    scores, labels = batch()
    counts = count_sure(scores, labels).numpy()
    known = (labels != IGNORED).numpy()
    probabilities = scores.double().softmax(1).numpy()
    right = (scores.argmax(1) == labels).numpy()[known]
    entropy = -(probabilities * np.log(probabilities)).sum(1) / np.log(3)
    for found, values in zip(counts, (probabilities.max(1), entropy), strict=True):
        bins = np.minimum((values[known] * metrics.SURE_BINS).astype(int), metrics.SURE_BINS - 1)
        pixels, hits, sums = (np.bincount(bins, of, metrics.SURE_BINS) for of in (None, right, values[known]))
        # One pixel of 3240 may lie on the edge of a bin.
        assert np.abs(found[:, 0] - pixels).max() <= 1 and np.abs(found[:, 1] - hits).max() <= 1
        assert found[:, 0].sum() == known.sum() and found[:, 1].sum() == right.sum()
        assert found[:, 2].sum() / metrics.SURE_UNIT == pytest.approx(sums.sum(), abs=known.sum() / metrics.SURE_UNIT)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    scores, labels = batch()
    parts = [count_sure(scores[rows], labels[rows]) for rows in (slice(0, 1), slice(1, 3))]
    assert torch.equal(sum(parts), count_sure(scores, labels))
    assert not count_sure(scores, torch.full_like(labels, IGNORED)).any()


def test_a_model_whose_labels_are_drawn_from_its_probabilities_is_calibrated_and_a_sharper_one_too_sure():
    scores, labels = batch(tiles=20)
    true, sharper = (count_sure(factor * scores, labels)[0].numpy() for factor in (1, 3))
    # Of 21 600 pixels in 34 bins: the mean of |error| of a bin is about 0.8 x 0.4 / sqrt(635) = 0.013.
    assert metrics.calibration_error(true) < 0.02 and abs(metrics.overconfidence(true)) < 0.01
    assert metrics.calibration_error(sharper) == pytest.approx(metrics.overconfidence(sharper), abs=0.02)
    assert metrics.overconfidence(sharper) > 0.08


def test_calibration_error_is_a_mean_over_pixels_of_what_each_bin_is_off():
    counts = np.zeros((metrics.SURE_BINS, 3), dtype=np.int64)
    counts[49] = 80, 72, round(80 * 0.99 * metrics.SURE_UNIT)
    counts[25] = 20, 16, round(20 * 0.51 * metrics.SURE_UNIT)
    assert metrics.calibration_error(counts) == pytest.approx(0.8 * 0.09 + 0.2 * 0.29)
    assert metrics.overconfidence(counts) == pytest.approx(0.8 * 0.09 - 0.2 * 0.29)
    assert np.isnan(metrics.calibration_error(np.zeros_like(counts)))
