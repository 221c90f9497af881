"""The contenders by name, what they need, and one of them at work in this process: a piece, or a whole cell."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from contenders.work import Training, Work
from hpcseg.bench.hardware import count_operations
from hpcseg.bench.measure import Piece
from hpcseg.errors import ConfigError
from hpcseg.launch.environment import read_environment
from hpcseg.learn.ranks import choose_device

_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
REQUIREMENTS = "results/bench/contenders/requirements.txt"


@dataclass(frozen=True)
class Entry:
    """A contender."""

    module: str
    """Beside this one; its `training` makes a `Training`."""
    packages: tuple[str, ...] = ()
    """That it imports and hpcseg does not, each with the name by which it is installed."""


CONTENDERS = {
    "plain loop": Entry("plain"),
    "tuned loop": Entry("tuned"),
    "Lightning, MONAI BasicUNet": Entry("lightning_monai", ("lightning", "monai")),
    "segmentation_models_pytorch Unet": Entry("smp_unet", ("segmentation_models_pytorch",)),
    "nnU-Net": Entry("nnunet", ("dynamic_network_architectures",)),
}


class _Scores(nn.Module):
    """All outputs of a network as one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.network(images)
        return scores if isinstance(scores, torch.Tensor) else torch.cat([part.flatten() for part in scores])


def check(names: Sequence[str]) -> None:
    """Raise ConfigError where one is not known, or a package is missing."""
    for name in names:
        if name not in CONTENDERS:
            raise ConfigError(f'There is no contender "{name}". There are {", ".join(CONTENDERS)}.')
        for package in CONTENDERS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"The contender {name} needs the package {package}: pip install -r {REQUIREMENTS}, or leave it "
                    "out: name the others with --contender."
                )


def network_of(name: str, work: Work) -> nn.Module:
    """What a contender trains, on the CPU."""
    return _training(name, work, torch.device("cpu")).network


def describe(network: nn.Module, size: int) -> dict[str, int]:
    """Weights of a network, and floating-point operations per tile of an evaluation and of a training step."""
    weights = sum(tensor.numel() for tensor in network.parameters())
    # nnU-Net's has more outputs while it trains.
    (evaluation, _), (_, step) = (count_operations(_Scores(network.train(mode)), size) for mode in (False, True))
    return {"parameters": weights, "evaluation": evaluation, "step": step}


@contextlib.contextmanager
def piece(name: str, **work: Any) -> Iterator[Piece]:
    """A contender's steps, for `hpcseg.bench.contender`."""
    yield _training(name, Work(**work), choose_device(0)).rate


def cell(name: str, epochs: int, sigmas: Sequence[float], **work: Any) -> dict[str, Any]:
    """A contender's whole training with its evaluation: its accuracies, and in which precision it computed."""
    training = _training(name, Work(**work), choose_device(0))
    return {**asdict(training.cell(epochs, sigmas)), "precision": _PRECISIONS[training.dtype]}


def _training(name: str, work: Work, device: torch.device) -> Training:
    torch.set_num_threads(read_environment().threads)
    if CONTENDERS[name].packages:
        _load_torchvision()
    return importlib.import_module(f"contenders.{CONTENDERS[name].module}").training(work.source(), work, device)


def _load_torchvision() -> None:
    """Before those that import it, and would end with it."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        # Its wheel on PyPI is built for CUDA. Beside a torch for CPUs its operators do not load, and its import ends
        # where it describes their shapes. No network of ours has one of them.
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


if __name__ == "__main__":
    # What libraries print must not be taken for the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(cell(**json.loads(sys.argv[1]))), file=answer, flush=True)
