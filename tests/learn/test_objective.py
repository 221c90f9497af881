"""What is minimised: the textbook's formulas, over the pixels that have a class, and the same over several ranks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hpcseg.data.classes import IGNORED
from hpcseg.errors import ConfigError
from hpcseg.learn.objective import Objective, class_weights


def batch(tiles: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(tiles, 3, 8, 8, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (tiles, 8, 8), generator=generator)
    return scores, labels.masked_fill(torch.rand(tiles, 8, 8, generator=generator) < 0.3, IGNORED)


def plain_dice(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    known = labels != IGNORED
    predicted = scores.softmax(1).permute(0, 2, 3, 1)[known]
    truth = functional.one_hot(labels[known], 3).float()
    both = (predicted * truth).sum(0)
    return ((2 * both + 1) / (predicted.sum(0) + truth.sum(0) + 1)).mean()


@pytest.mark.parametrize("dice", [False, True])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 4.0, 0.5])])
def test_losses_are_those_of_the_textbook_and_the_plain_cross_entropy_is_told(dice, weights):
    scores, labels = batch()
    share = 1 / int((labels != IGNORED).sum())
    objective = Objective("cross-entropy+dice" if dice else "cross-entropy", weights)
    minimised, told = objective(scores, labels, share)
    parts = functional.cross_entropy(scores, labels, weight=weights, ignore_index=IGNORED, reduction="sum") * share
    expected = parts + (1 - plain_dice(scores, labels) if dice else 0)
    torch.testing.assert_close(minimised, expected)
    torch.testing.assert_close(told, functional.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum"))
    (gradient,) = torch.autograd.grad(minimised, scores, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, scores)[0])


class Both:
    """Two ranks of which one is asked at a time: the sums of the other are known."""

    world_size = 2

    def __init__(self, others: torch.Tensor) -> None:
        self.others = others

    def sum_(self, own: torch.Tensor) -> torch.Tensor:
        return own.add_(self.others)


@pytest.mark.parametrize("first", [4, 6])
def test_the_mean_gradient_of_two_ranks_is_that_of_one(first):
    scores, labels = batch()
    minimised, _ = Objective("cross-entropy+dice")(scores, labels, 1 / int((labels != IGNORED).sum()))
    (expected,) = torch.autograd.grad(minimised, scores)
    sums, found = {}, []
    parts = {0: slice(0, first), 1: slice(first, 6)}  # of six the second rank has none
    for rank, part in parts.items():

        class Noted(Both):
            def sum_(self, own: torch.Tensor, rank: int = rank) -> torch.Tensor:
                sums[rank] = own.clone()
                return own

        Objective("cross-entropy+dice", None, Noted(torch.zeros(())))(scores[part], labels[part], 0.0)
    for rank, part in parts.items():
        share = 2 / int((labels != IGNORED).sum())
        minimised, _ = Objective("cross-entropy+dice", None, Both(sums[1 - rank]))(scores[part], labels[part], share)
        found.append(torch.autograd.grad(minimised, scores)[0])
    torch.testing.assert_close(sum(found) / 2, expected)


def test_weights_are_one_on_average_over_the_labelled_pixels():
    assert class_weights("frequency", [10, 20, 70]) == pytest.approx([100 / 30, 100 / 60, 100 / 210])
    assert class_weights("frequency", [50, 0, 50]) == pytest.approx([1, 0, 1]), "what never comes has no weight"
    assert class_weights("1+4+1", [50, 25, 25]) == pytest.approx([1 / 1.75, 4 / 1.75, 1 / 1.75])


def test_weights_of_classes_without_a_training_pixel_alone_are_refused():
    with pytest.raises(ConfigError, match=r'train.class_weights is "0\+1\+0", but no training pixel .* above 0'):
        class_weights("0+1+0", [50, 0, 50])
