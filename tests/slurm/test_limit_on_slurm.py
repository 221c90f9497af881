"""A training that meets its time limit again and again ends with the same weights as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.slurm

# The shortest time limit that Slurm knows is one minute, of which a quarter is left to a training when it is warned.
SECONDS = 50
JOB = """
[data]
tile_size = 64
tiles = "2x2"
[train]
width = 8
depth = 2
epochs = EPOCHS
batch_size = 8
precision = "fp32"
noise_fraction = 0.5
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""


def only_cell(cluster, run: str) -> Path:
    (cell,) = (cluster.folder / run / "cells").iterdir()
    return cell


def test_a_training_that_is_out_of_time_ends_with_the_weights_of_one_left_alone(cluster):
    job = cluster.job_that_takes(SECONDS, JOB)
    cluster.grid(str(job), "alone")
    cluster.grid(str(job), "timed-out", "--time", "1")
    cells = {run: only_cell(cluster, run) for run in ("alone", "timed-out")}
    for run in cells:
        cluster.wait_finished(run, seconds=600)

    events = {run: [event["event"] for event in read_lines(cells[run] / "events.jsonl")] for run in cells}
    assert events["alone"].count("resume") == 0
    assert events["timed-out"].count("start") == 1 and events["timed-out"].count("resume") >= 1
    assert events["timed-out"].count("stop") == events["timed-out"].count("resume"), "asked to stop, and did"
    assert len(cluster.jobs("timed-out")) == 1, "the same job, put back into the queue"
    expected, found = (torch.load(cells[run] / "model.pt", weights_only=True) for run in cells)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (cells["timed-out"] / "metrics.jsonl").read_bytes() == (cells["alone"] / "metrics.jsonl").read_bytes()
    for run in cells:
        cluster.wait_left(run)
