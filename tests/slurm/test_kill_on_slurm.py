"""A training that is killed, requeued or out of time ends with the same weights as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import slurm

from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.slurm

# Long enough (about a minute on one core) to meet the shortest time limit that Slurm knows, one minute.
JOB = """
[data]
tile_size = 64
tiles = "2x2"
[train]
width = 8
depth = 2
epochs = 150
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


def test_killed_requeued_and_timed_out_trainings_end_with_the_weights_of_one_left_alone(cluster):
    job = cluster.folder / "long.toml"
    job.write_text(JOB)
    for run in ("alone", "killed", "requeued"):
        cluster.grid(str(job), run)
    cluster.grid(str(job), "timed-out", "--time", "1")
    cells = {run: only_cell(cluster, run) for run in ("alone", "killed", "requeued", "timed-out")}

    for run in ("killed", "requeued"):
        cluster.wait(f"a checkpoint of {run}", lambda run=run: (cells[run] / "checkpoint.pt").exists())
    killed = cluster.jobs("killed", "train")[0]
    # The step, not the job: that would get SIGTERM first, and time to write a checkpoint.
    slurm("scancel", "--signal=KILL", f"{killed}.0")
    slurm("scontrol", "requeue", cluster.jobs("requeued", "train")[0])
    cluster.wait(
        "the end of the killed job", lambda: killed not in slurm("squeue", "--noheader", "--format=%i").split()
    )
    assert not (cells["killed"] / "training.json").exists(), "it was killed too late to show anything"
    assert "Submitted 3 jobs" in cluster.grid(str(job), "killed")

    for run in cells:
        cluster.wait_finished(run, seconds=600)
    expected = torch.load(cells["alone"] / "model.pt", weights_only=True)
    assert [event["event"] for event in read_lines(cells["alone"] / "events.jsonl")].count("resume") == 0
    for run in ("killed", "requeued", "timed-out"):
        events = [event["event"] for event in read_lines(cells[run] / "events.jsonl")]
        assert events.count("start") == 1 and events.count("resume") >= 1, f"{run}: {events}"
        weights = torch.load(cells[run] / "model.pt", weights_only=True)
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items()), run
        assert (cells[run] / "metrics.jsonl").read_bytes() == (cells["alone"] / "metrics.jsonl").read_bytes(), run
    stopped = {run: "stop" in [event["event"] for event in read_lines(cells[run] / "events.jsonl")] for run in cells}
    assert stopped["timed-out"] and not stopped["killed"], "one was asked to stop, the other was not"
    for run in cells:
        cluster.wait_left(run)
