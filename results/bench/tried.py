"""What each of the choices behind a training step gives: the step with all of them, and with one at a time left out.

    python results/bench/tried.py DATASET > results/bench/tried.json

All variants take turns in one run, in processes of their own, on one resident batch of 25 tiles at width 16.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from contenders.plain import plain_network
from torch import nn

from hpcseg.bench.contender import Contender, started
from hpcseg.bench.measure import Piece, rate, take_turns
from hpcseg.bench.training import network, settings
from hpcseg.config import DataConfig
from hpcseg.data.batches import EVALUATION_CHUNK, open_source
from hpcseg.data.training_tiles import TrainingTiles
from hpcseg.launch.environment import read_environment
from hpcseg.learn.folding import folded
from hpcseg.learn.precision import autocast, loss_scaler, resolve_precision, to_device
from hpcseg.learn.step import TrainStep
from hpcseg.memory import keep_freed_memory
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect

WIDTH, BATCH, ROUNDS = 16, 25, 7
CPU = torch.device("cpu")
STEP = "training step, as it is"
WITHOUT = {
    "bf16": "without bf16 (fp32)",
    "channels_last": "without channels_last (NCHW)",
    "matrix_up": "without up-convolutions as matrix products (torch's transposed convolution)",
    "kept_memory": "without keeping freed memory (glibc's defaults)",
    "fused_adam": "without the fused optimizer",
}
SCORES, UNFOLDED = "evaluation pass, as it is", "without batch norm folded into the convolutions"


class _Contiguous(nn.Module):
    """Undoes the memory format that the step asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.contiguous())


@contextlib.contextmanager
def step_piece(data: str, without: str) -> Iterator[Piece]:
    """Steps on one batch."""
    torch.set_num_threads(read_environment().threads)
    if without != "kept_memory":
        keep_freed_memory()
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(WIDTH, BATCH)
    model: nn.Module = (plain_network if without == "matrix_up" else network)(source, config)
    if without == "channels_last":
        model = _Contiguous(model)
    else:
        to_device(model, CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=without != "fused_adam")
    precision = "fp32" if without == "bf16" else resolve_precision("auto", CPU)
    step = TrainStep(model, optimizer, loss_scaler(precision, CPU), precision=precision)
    images, labels = TrainingTiles(source, source.split.train[:BATCH], config, CPU).of_epoch(0).take(slice(None))

    def work(steps: int) -> None:
        for _ in range(steps):
            step(images, labels, share=1 / labels.numel())

    yield lambda steps: rate(steps * BATCH, lambda: work(steps))


@contextlib.contextmanager
def pass_piece(data: str, fold: bool) -> Iterator[Piece]:
    """Evaluations of one chunk."""
    torch.set_num_threads(read_environment().threads)
    keep_freed_memory()
    source = open_source(Path(data), DataConfig(tiles="large"))
    model: nn.Module = network(source, settings(WIDTH, BATCH)).eval()
    to_device(model, CPU)
    model = folded(model) if fold else model
    images = torch.rand(EVALUATION_CHUNK, 1, source.size, source.size).to(memory_format=torch.channels_last)

    def work(steps: int) -> None:
        with torch.inference_mode(), autocast(resolve_precision("auto", CPU), CPU):
            for _ in range(steps):
                model(images)

    yield lambda steps: rate(steps * EVALUATION_CHUNK, lambda: work(steps))


def main() -> None:
    """Measure, and print the record."""
    data = str(Path(sys.argv[1]).resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    steps = {STEP: Contender("tried:step_piece", {"data": data, "without": ""})}
    for name, text in WITHOUT.items():
        steps[text] = Contender("tried:step_piece", {"data": data, "without": name})
    passes = {
        SCORES: Contender("tried:pass_piece", {"data": data, "fold": True}),
        UNFOLDED: Contender("tried:pass_piece", {"data": data, "fold": False}),
    }
    identity = open_source(Path(data), DataConfig(tiles="large")).info.data_sha256
    torch.set_num_threads(read_environment().threads)
    record: dict[str, Any] = {
        "provenance": collect(device=device_facts(CPU), command="results/bench/tried.py DATASET", data_sha256=identity),
        "rounds": ROUNDS,
    }
    for base, contenders in ((STEP, steps), (SCORES, passes)):
        with started(contenders) as pieces:
            rates = take_turns(pieces, seconds=4, rounds=ROUNDS)
        record[base] = {
            "tiles_per_second": {name: rates.median(name) for name in contenders},
            "speed that is left": {name: rates.ratio(name, base) for name in contenders if name != base},
            "spread": {name: rates.quartile_distance(name) for name in contenders},
        }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
