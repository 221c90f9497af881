"""Two ranks on two GPUs train as one does; two on one GPU are refused."""

from __future__ import annotations

import json
import os

import pytest
import torch
from rank_runner import run_cell_stage, run_ranks

pytestmark = pytest.mark.gpu


def test_two_ranks_with_a_device_each_train_as_one_to_rounding(plan_cell, device):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    lines = []
    for world_size in (1, 2):
        cell = plan_cell(f"ranks{world_size}", "fp32")
        assert set(run_ranks(world_size, run_cell_stage, cell.folder.path, "train")) == {"finished"}
        lines.append([json.loads(line) for line in cell.folder.metrics_file.read_text().splitlines()])
    for one, two in zip(*lines, strict=True):
        # As in tests/runs/test_ranks_agree.py: sums over a batch and 8 steps of Adam.
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)


def test_two_ranks_share_a_cpu_and_are_refused_on_one_gpu(plan_cell, device, monkeypatch):
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible[0])
    cell = plan_cell("shared", "fp32")
    if device.type == "cpu":
        assert set(run_ranks(2, run_cell_stage, cell.folder.path, "train")) == {"finished"}
    else:
        with pytest.raises(AssertionError, match=r"Ranks 0 and 1 of host .* use the same GPU"):
            run_ranks(2, run_cell_stage, cell.folder.path, "train")
