"""What a GPU computes is what a CPU computes, to rounding; the reference is in float64 where that is cheap."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from rank_runner import run_cell_stage, run_ranks
from torch.nn import functional

from hpcseg.learn.folding import folded
from hpcseg.learn.precision import autocast, loss_scaler, to_device
from hpcseg.learn.step import TrainStep
from hpcseg.learn.unet import build_unet
from hpcseg.runs.execute import run_cell

pytestmark = pytest.mark.gpu
# Largest relative error of one rounding: two to the minus number of bits.
ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
TILES, EDGE, DEPTH = 4, 32, 2
# What a score passes through: 13 convolutions and products, 10 normalisations and 10 ReLUs.
ROUNDINGS = 33


def _of_scores(precision: str) -> float:
    """Relative error of scores: of independent roundings one after the other, and four times that."""
    return 4 * ROUNDINGS**0.5 * ROUNDOFF[precision]


def _of_gradient(precision: str) -> float:
    """Relative error of a gradient.

    Of the values that meet a ReLU or a max pool the share that is nearer to the other side than its own rounding error
    goes there, and takes its part of the gradient along; parts of independent sign add up as squares.
    """
    return float((ROUNDINGS**0.5 * ROUNDOFF[precision]) ** 0.5)


def _network() -> torch.nn.Module:
    return build_unet(classes=3, width=8, depth=DEPTH, batch_norm=True, seed=0)


def _batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and labels that can be learned from them: else the gradient would be what noise leaves of itself."""
    images = torch.randn(TILES, 1, EDGE, EDGE, generator=torch.Generator().manual_seed(seed))
    return images, torch.bucketize(images[:, 0], torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_steps_gradient_is_that_of_float64_to_rounding(device, precision, record_property):
    if precision == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        return  # which is refused there, and tested in tests/learn
    # In fp32 such a value is rare, and most of what then differs; the median leaves out the batches that have one.
    errors = [_error_of_a_gradient(precision, device, seed) for seed in range(5)]
    record_property("relative errors of gradients", errors)
    assert 0 < np.median(errors) < _of_gradient(precision)


def _error_of_a_gradient(precision: str, device: torch.device, seed: int) -> float:
    images, labels = _batch(seed)
    exact = _network().double()
    exact_loss = functional.cross_entropy(exact(images.double()), labels)
    torch.autograd.backward(exact_loss)
    expected = torch.cat([parameter.grad.flatten() for parameter in exact.parameters()])

    model = _network()
    to_device(model, device)
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    # A step of plain gradient descent of length one: the weights differ by the gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    step = TrainStep(model, optimizer, loss_scaler(precision, device), precision=precision)
    loss, _ = step(images.to(device), labels.to(device), share=1 / labels.numel())
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert float(loss) / labels.numel() == pytest.approx(exact_loss.item(), rel=_of_scores(precision))
    return float(((before - after).cpu().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_folded_network_scores_as_the_network_does_to_rounding(device, precision, record_property):
    images, labels = _batch()
    model = _network()
    to_device(model, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    step = TrainStep(model, optimizer, loss_scaler(precision, device), precision=precision)
    for _ in range(3):  # so that the running statistics are some
        step(images.to(device), labels.to(device), share=1 / labels.numel())
    exact = copy.deepcopy(model).cpu().double().eval()
    with torch.inference_mode():
        expected = exact(images.double())
        with autocast(precision, device):
            found = folded(model)(images.to(device).contiguous(memory_format=torch.channels_last))
    error = float((found.double().cpu() - expected).norm() / expected.norm())
    record_property("relative error of the scores", error)
    assert error < _of_scores(precision)


def test_a_cpu_counts_the_pixels_of_a_model_as_this_device_does(plan_cell, monkeypatch, record_property):
    here, there = plan_cell("here", "fp32"), plan_cell("there", "fp32")
    assert run_cell(here.folder, "train", should_stop=lambda: False) == "finished"
    for name in ("model_file", "training_file"):
        getattr(there.folder, name).write_bytes(getattr(here.folder, name).read_bytes())
    assert run_cell(here.folder, "evaluate", should_stop=lambda: False) == "finished"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_ranks(1, run_cell_stage, there.folder.path, "evaluate") == ["finished"]
    confusions = [
        np.array([point["confusion"] for point in json.loads(cell.folder.evaluation_file.read_text())["points"]])
        for cell in (here, there)
    ]
    # A pixel may change its class where two scores are equal to rounding: one in a thousand would be many.
    share = np.abs(confusions[0] - confusions[1]).sum() / 2 / confusions[0].sum()
    record_property("share of pixels that differ", share)
    assert share < 1e-3
    np.testing.assert_array_equal(confusions[0].sum(2), confusions[1].sum(2))
