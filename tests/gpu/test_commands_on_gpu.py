"""A job from end to end through the command line, on this device: what a user of a GPU node does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from predicted_slices import predicted, recorded
from slice_folder import hpcseg

from hpcseg.runs.folder import RunFolder
from hpcseg.runs.machine import device_facts

pytestmark = pytest.mark.gpu
_JOB = """
[data]
tile_size = 64
tiles = "1x2"
[train]
width = {width}
depth = {depth}
epochs = 2
batch_size = 7
noise_fraction = 0.5
[evaluate]
whole_slices = true
examples = true
[needs]
gpus = 1
[[grid]]
train.precision = ["fp32", "{half}"]
"""


def test_a_job_runs_from_end_to_end_two_cells_at_a_time(tmp_path, tiny_dataset, device):
    width, depth, half = (64, 4, "fp16") if device.type == "cuda" else (4, 2, "bf16")
    job, run = tmp_path / "tiny.toml", RunFolder(tmp_path / "run")
    job.write_text(_JOB.format(width=width, depth=depth, half=half))
    said = hpcseg("grid", "--local", "--workers", 2, "--job", job, "--data", tiny_dataset, "--run", run.path)
    assert said.exit_code == 0 and "2 cells finished, 0 failed" in said.output, said.output
    name = device_facts(device)["device"].partition(",")[0]
    cells = list(run.cell_folders())
    for cell in cells:
        for file in (cell.training_file, cell.evaluation_file):
            assert json.loads(file.read_text())["provenance"]["device"].partition(",")[0] == name
        expected, out = recorded(cell), tmp_path / cell.id
        assert len(expected) > 1 and all(np.sum(matrix) == 128 * 128 for matrix in expected.values())
        assert hpcseg("export", cell.path, "-o", out.with_suffix(".safetensors")).exit_code == 0
        found = predicted(out.with_suffix(".safetensors"), tiny_dataset, out, "--probabilities", "--uncertainty")
        assert {number: found[number] for number in expected} == expected
        (start,) = json.loads((out / "prediction.json").read_text())["starts"]
        assert start["device"].partition(",")[0] == name
    said = hpcseg("report", "--run", run.path)
    assert said.exit_code == 0 and len(list(run.baselines.glob("*-*.json"))) == 1, said.output
