"""What the tests of a GPU share: the device, and cells of a size that it is worth."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from hpcseg.learn.ranks import choose_device
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import Cell, write_plan

_JOB = """
[data]
tile_size = 64
tiles = "1x2"
[train]
width = {width}
depth = {depth}
epochs = {epochs}
batch_size = 7
weight_decay = 1e-3
noise_fraction = 0.5
noise_each_epoch = true
augment = "symmetries"
precision = "{precision}"
[evaluate]
sweep_max = 2000
whole_slices = true
[needs]
gpus = 1
[[grid]]
train.seed = 0
"""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run: a GPU, or what HPCSEG_TEST_DEVICE says."""
    found = choose_device(0)
    assert found.type == os.environ.get("HPCSEG_TEST_DEVICE", "cuda"), f"hpcseg chooses {found} here"
    return found


@pytest.fixture
def plan_cell(tmp_path, tiny_dataset, device) -> Callable[..., Cell]:
    """Plans a cell in a run of a name, in a precision: the paper's network on a GPU, a small one elsewhere."""
    width, depth = (64, 4) if device.type == "cuda" else (4, 2)

    def plan(run: str, precision: str, epochs: int = 2) -> Cell:
        job = tmp_path / f"{run}.toml"
        job.write_text(_JOB.format(width=width, depth=depth, precision=precision, epochs=epochs))
        grid = plan_run(str(job), tiny_dataset, tmp_path / run, ())
        write_plan(grid)
        return grid.cells[0]

    return plan
