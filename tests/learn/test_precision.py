"""Which precision "auto" is where, and what each sets for the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_runner import run_ranks

from hpcseg.errors import HpcsegError
from hpcseg.learn.precision import autocast, loss_scaler, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    yield
    cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def test_auto_is_bf16_on_gpus_that_multiply_in_it_and_fp16_on_older_ones(monkeypatch):
    for native, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert resolve_precision("auto", GPU) == expected
    assert resolve_precision("fp32", GPU) == "fp32"


def _agreed(folder: Path) -> list[str]:
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn import precision
    from hpcseg.learn.ranks import join

    with join(read_environment(), folder) as ranks:
        answers = []
        for by_rank in (("bf16", "fp32"), ("fp16", "bf16"), ("bf16", "bf16")):
            precision.resolve_precision = lambda wanted, device, by_rank=by_rank: by_rank[ranks.rank]
            answers.append(precision.agree_on_precision("auto", ranks))
        return answers


def test_ranks_on_nodes_of_two_kinds_take_what_both_can(tmp_path):
    assert run_ranks(2, _agreed, tmp_path) == [["fp32", "fp16", "bf16"]] * 2


@pytest.mark.filterwarnings("ignore:.*Disabling:UserWarning")  # torch's, since there is no GPU here
def test_only_tf32_rounds_products_of_fp32_and_kernels_are_always_the_same(monkeypatch):
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    for precision, rounds in (("tf32", True), ("fp32", False), ("bf16", False)):
        cudnn.deterministic, cudnn.benchmark = False, True
        autocast(precision, GPU)
        assert (cudnn.allow_tf32, cuda.matmul.allow_tf32) == (rounds, rounds)
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_tf32_is_refused_where_the_hardware_does_not_round_so(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(
        HpcsegError, match=r"tf32, in which (a CPU|Tesla V100) does not compute.*take fp32: train\.precision"
    ):
        autocast("tf32", device)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_convolutions_are_computed_in_it(precision, dtype):
    convolution = torch.nn.Conv2d(1, 2, 3)
    with autocast(precision, CPU):
        assert convolution(torch.ones(1, 1, 5, 5)).dtype == dtype
    assert loss_scaler(precision, CPU).is_enabled() == (precision == "fp16")
