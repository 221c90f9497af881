"""A training on two nodes that makes way for a more urgent job goes back into the queue by itself, and goes on."""

from __future__ import annotations

import json

import pytest
from conftest import job_text, slurm

from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.slurm

# Long enough to be interrupted after its first epoch. Without batch norm the ranks meet once a step and not at every
# layer, which on a machine with fewer cores than ranks and other work takes most of the time.
JOB = job_text("batch_norm = false", epochs=80)


def test_a_preempted_training_stops_at_a_step_and_goes_on_by_itself(cluster):
    (cluster.folder / "some.toml").write_text(JOB)
    cluster.grid("some.toml", "run", "--partition", "low", "--nodes", "2")
    (cell,) = (cluster.folder / "run/cells").iterdir()
    cluster.wait("the first epoch", lambda: (cell / "metrics.jsonl").exists())
    slurm("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_finished("run")

    events = [event["event"] for event in read_lines(cell / "events.jsonl") if event["event"] != "epoch"]
    assert events == ["start", "stop", "resume", "trained", "evaluate", "evaluated"], cluster.logs("run")
    assert json.loads((cell / "training.json").read_text())["world_size"] == 2
    training = cluster.jobs("run")
    assert len(training) == 1 and "Nothing to submit" in cluster.grid("some.toml", "run")
    cluster.wait_left("run")
    restarts = cluster.accounted(training[0], "--duplicates")
    assert restarts[-1] == "COMPLETED" and len(restarts) == 2, restarts
