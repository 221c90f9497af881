"""A step's update, loss and right pixels are those of the textbook's loop."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from hpcseg.data.classes import IGNORED
from hpcseg.learn.precision import loss_scaler
from hpcseg.learn.step import TrainStep
from hpcseg.learn.unet import build_unet


def test_a_step_is_that_of_a_plain_loop():
    ours = build_unet(classes=3, width=4, depth=2, batch_norm=True, seed=0)
    theirs = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 16, 16, generator=generator)
    labels = torch.randint(0, 3, (5, 16, 16), generator=generator)

    scaler = loss_scaler("fp32", images.device)
    step = TrainStep(ours, torch.optim.SGD(ours.parameters(), lr=0.1), scaler, precision="fp32")
    loss, right = step(images, labels, share=1 / labels.numel())

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    scores = theirs(images)
    expected = functional.cross_entropy(scores, labels)
    torch.autograd.backward(expected)
    optimizer.step()

    torch.testing.assert_close(loss / labels.numel(), expected.detach(), rtol=1e-5, atol=0)
    assert int(right) == int((scores.argmax(1) == labels).sum())
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_pixels_of_no_class_are_in_no_loss_no_gradient_and_never_right():
    ours = build_unet(classes=3, width=4, depth=2, batch_norm=True, seed=0)
    theirs = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 16, 16, generator=generator)
    labels = torch.randint(0, 3, (5, 16, 16), generator=generator)
    known = torch.rand(5, 16, 16, generator=generator) < 0.6

    scaler = loss_scaler("fp32", images.device)
    step = TrainStep(ours, torch.optim.SGD(ours.parameters(), lr=0.1), scaler, precision="fp32")
    loss, right = step(images, labels.masked_fill(~known, IGNORED), share=1 / int(known.sum()))

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    scores = theirs(images)
    expected = -scores.log_softmax(1).gather(1, labels[:, None])[:, 0][known].mean()
    torch.autograd.backward(expected)
    optimizer.step()

    torch.testing.assert_close(loss / known.sum(), expected.detach(), rtol=1e-5, atol=0)
    assert int(right) == int((scores.argmax(1) == labels)[known].sum())
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-4, atol=1e-6)
