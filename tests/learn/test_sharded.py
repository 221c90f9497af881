"""Ranks of a host that share weights and update take the steps of one rank that has the whole batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from rank_runner import run_ranks
from torch import nn

from hpcseg.learn.sharded import _share_out

STEPS = 3


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 3, 3)).to(memory_format=torch.channels_last)


def _adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=0.01, fused=True)


def _images() -> torch.Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def _steps(model: nn.Module, optimizer, images: torch.Tensor) -> None:
    for _ in range(STEPS):
        (model(images) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def _on_one_rank_of(folder: Path, parts: list[int]):
    from hpcseg.learn.ranks import join, read_environment
    from hpcseg.learn.sharded import share_update

    with join(read_environment(), folder) as ranks:
        model = _network()
        if not ranks.is_main:
            nn.init.zeros_(model[0].weight)  # rank 0's weights are everybody's
        optimizer = _adam(model)
        shared = share_update(list(model.parameters()), optimizer, ranks)
        assert shared is not None
        _steps(model, shared, _images().split(parts)[ranks.rank])
        left = [parameter.grad is None for parameter in model.parameters()]
        moments = [_lists(state) for state in optimizer.state_dict()["state"].values()]
        return _lists(model.state_dict()), moments, left


def _lists(tensors: dict[str, torch.Tensor]) -> list:
    return [tensor.tolist() for tensor in tensors.values()]


@pytest.mark.parametrize("parts", [[4, 3], [5, 2, 0]])
def test_all_ranks_have_the_weights_and_moments_of_one_rank(tmp_path, parts):
    model = _network()
    optimizer = _adam(model)
    _steps(model, optimizer, _images())
    for weights, moments, left in run_ranks(len(parts), _on_one_rank_of, tmp_path, parts):
        for found, wanted in zip(weights, model.state_dict().values(), strict=True):
            torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-4, atol=1e-5)
        for found, wanted in zip(moments, optimizer.state_dict()["state"].values(), strict=True):
            for one, (name, other) in zip(found, wanted.items(), strict=True):
                torch.testing.assert_close(torch.tensor(one), other, rtol=1e-4, atol=1e-5, msg=name)
        assert all(left)


def _elsewhere(folder: Path, trouble: str):
    from hpcseg.learn import sharded
    from hpcseg.learn.ranks import join, read_environment

    with join(read_environment(), folder) as ranks:

        def refuse(*_):
            raise PermissionError(trouble)

        if trouble == "another host" and not ranks.is_main:
            sharded._host = lambda: bytes(32)
        elif trouble == "nothing known of the host":
            Path.read_text = refuse
        elif trouble == "no memory files":
            os.memfd_create = refuse
        elif trouble == "closed to others" and not ranks.is_main:
            os.open = refuse
        files = len(os.listdir("/proc/self/fd"))
        model = _network()
        shared = sharded.share_update(list(model.parameters()), _adam(model), ranks)
        return shared is None, len(os.listdir("/proc/self/fd")) - files


@pytest.mark.parametrize(
    "trouble", ["another host", "nothing known of the host", "no memory files", "closed to others"]
)
def test_where_ranks_do_not_see_the_same_memory_all_of_them_know(tmp_path, trouble):
    assert run_ranks(2, _elsewhere, tmp_path, trouble) == [(True, 0), (True, 0)]


def test_the_work_is_shared_out_evenly():
    sizes = [1, 100, 7, 60, 39, 1]
    owners = _share_out(sizes, 2)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in (0, 1)]
    assert loads == [102, 106]
