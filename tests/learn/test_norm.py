"""Batch normalisation over ranks is that of the whole batch, with parts of unequal size and with none."""

from __future__ import annotations

from pathlib import Path

import torch
from rank_runner import run_ranks
from torch import nn


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 2, 4, 4, generator=generator) * 3 + 5, torch.randn(5, 2, 4, 4, generator=generator)


def _on_one_rank_of(folder: Path, parts: list[int]):
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.norm import synchronise
    from hpcseg.learn.ranks import join

    with join(read_environment(), folder) as ranks:
        norm = nn.Sequential(nn.BatchNorm2d(2))
        synchronise(norm)
        features, weights = (tensor.split(parts)[ranks.rank] for tensor in _data())
        features = features.clone().requires_grad_()
        output = norm(features)
        (output * weights).sum().backward()
        gradients = [ranks.sum_(p.grad.clone()).tolist() for p in norm.parameters()]
        running = [norm[0].running_mean.tolist(), norm[0].running_var.tolist()]
        return output.tolist(), features.grad.tolist(), gradients, running


def test_outputs_gradients_and_running_statistics_are_those_of_the_whole_batch(tmp_path):
    features, weights = _data()
    features.requires_grad_()
    norm = nn.BatchNorm2d(2)
    output = norm(features)
    (output * weights).sum().backward()
    for parts in ([3, 2], [4, 1, 0]):
        answers = run_ranks(len(parts), _on_one_rank_of, tmp_path, parts)
        outputs = torch.cat([torch.tensor(answer[0]).view(-1, 2, 4, 4) for answer in answers])
        towards = torch.cat([torch.tensor(answer[1]).view(-1, 2, 4, 4) for answer in answers])
        torch.testing.assert_close(outputs, output.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(towards, features.grad, rtol=1e-4, atol=1e-5)
        for _, _, gradients, running in answers:
            torch.testing.assert_close(torch.tensor(gradients[0]), norm.weight.grad, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(torch.tensor(gradients[1]), norm.bias.grad, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(torch.tensor(running[0]), norm.running_mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(torch.tensor(running[1]), norm.running_var, rtol=1e-5, atol=1e-6)


def _bf16_data() -> tuple[torch.Tensor, torch.Tensor]:
    # Means of up to two deviations, as behind a convolution: the further off, the more is rounded on the way.
    generator = torch.Generator().manual_seed(4)
    shape = (4, 16, 20, 12)
    features = torch.randn(shape, generator=generator) + torch.linspace(-2, 2, 16).view(1, 16, 1, 1)
    weights = torch.randn(shape, generator=generator) + 0.3 * features
    return tuple(tensor.bfloat16().contiguous(memory_format=torch.channels_last) for tensor in (features, weights))


def _gradient(norm: nn.Module, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    features = features.clone().requires_grad_()
    (norm(features) * weights).sum().backward()
    assert features.grad is not None
    return features.grad


def _bf16_on_one_rank_of(folder: Path):
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.norm import synchronise
    from hpcseg.learn.ranks import join

    with join(read_environment(), folder) as ranks:
        norm = nn.Sequential(nn.BatchNorm2d(16))
        synchronise(norm)
        own = _gradient(norm, *(tensor.split(2)[ranks.rank] for tensor in _bf16_data())).double()
        difference = own - _exact_gradient().split(2)[ranks.rank]
        return difference.square().sum((0, 2, 3)).tolist(), own.sum((0, 2, 3)).tolist()


def _exact_gradient() -> torch.Tensor:
    return _gradient(nn.BatchNorm2d(16).double(), *(tensor.double() for tensor in _bf16_data()))


def test_in_bf16_gradients_are_as_near_to_the_exact_ones_as_those_of_torch_on_one_rank(tmp_path):
    exact = _exact_gradient()
    torch_error = (_gradient(nn.BatchNorm2d(16), *_bf16_data()) - exact).square().sum((0, 2, 3)).sqrt()
    squares, sums = torch.tensor(run_ranks(2, _bf16_on_one_rank_of, tmp_path), dtype=torch.float64).sum(0)
    assert (squares.sqrt() < 2 * torch_error).all()
    # Behind a mean the gradient's own mean is 0, and no channel may drift from there by rounding.
    assert (sums.abs() / exact[:, 0].numel() < 0.01 * exact.square().mean().sqrt()).all()
