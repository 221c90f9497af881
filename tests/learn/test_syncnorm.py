"""Batch normalisation over CPU ranks is that of the whole batch, with parts of unequal size and with none."""

from __future__ import annotations

from pathlib import Path

import torch
from rank_runner import run_ranks
from torch import nn


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 2, 4, 4, generator=generator) * 3 + 5, torch.randn(5, 2, 4, 4, generator=generator)


def _on_one_rank_of(folder: Path, parts: list[int]):
    from hpcseg.learn.ranks import join, read_environment
    from hpcseg.learn.syncnorm import synchronise

    with join(read_environment(), folder) as ranks:
        norm = synchronise(nn.Sequential(nn.BatchNorm2d(2)), ranks.device)
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
