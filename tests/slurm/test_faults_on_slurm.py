"""A two-rank training that is killed at random moments ends with the bits of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import job_text, slurm

from hpcseg.errors import IncompleteError
from hpcseg.runs.record import read_json, read_lines

pytestmark = pytest.mark.slurm

# Each costs a dozen seconds of a queue and of a start, so CI has few; HPCSEG_TEST_KILLS=20 has more.
KILLS = int(os.environ.get("HPCSEG_TEST_KILLS", "5"))
# Long enough for so many pieces of a second or two each.
SECONDS = 3 * KILLS + 5
# Without batch norm the ranks meet once a step.
JOB = job_text("batch_norm = false", "noise_fraction = 0.5")


def rank_processes(run: Path) -> list[int]:
    """Processes of the ranks of a run that are alive: python with submitit's module and this run's logs."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # srun has the same words behind its own.
        if b"submitit.core._submit" in words and str(run / "logs").encode() in words and b"python" in words[0]:
            found.append(int(entry.name))
    return found


def test_random_kills_leave_no_trace_in_the_result(cluster, monkeypatch):
    # So that each piece between two kills gets somewhere.
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0.3")
    job = cluster.job_that_takes(SECONDS, JOB)
    for run in ("alone", "struck"):
        cluster.grid(str(job), run, "--nodes", "2", "--tries", "100")
    alone, struck = (next((cluster.folder / run / "cells").iterdir()) for run in ("alone", "struck"))

    def kill_a_rank(job_id: str) -> None:
        process = moments.choice(rank_processes(cluster.folder.resolve() / "struck"))
        os.kill(process, signal.SIGKILL)

    def kill_the_step(job_id: str) -> None:
        subprocess.run(["scancel", "--signal=KILL", f"{job_id}.0"], check=False)

    def requeue(job_id: str) -> None:
        slurm("scontrol", "requeue", job_id)

    def warn(job_id: str) -> None:
        subprocess.run(["scancel", "--signal=USR2", f"{job_id}.0"], check=False)

    ways: list[Callable[[str], None]] = [kill_a_rank, kill_the_step, requeue, warn]
    moments = random.Random(0)
    order = [way for _ in range(KILLS) for way in moments.sample(ways, len(ways))]  # none waits for its turn for long
    struck_at: list[tuple[int, int]] = []
    used = []
    starts = 0
    while len(struck_at) < KILLS and not (struck / "training.json").exists():

        def begun(before: int = starts) -> bool:
            events = [event["event"] for event in read_lines(struck / "events.jsonl")]
            return sum(event in ("start", "resume") for event in events) > before or "trained" in events

        def further() -> bool:
            try:
                beat = read_json(struck / "progress.json")
            except IncompleteError:
                return (struck / "training.json").exists()  # before the first step and behind the last there is none
            return (beat["epoch"], beat["step"]) not in struck_at

        cluster.wait(f"start {starts + 1} of the struck training", begun, seconds=120)
        if len(struck_at) % 2:  # the others may come before the first step, which on a busy machine is late
            cluster.wait("a step further", further, seconds=120)
        time.sleep(moments.uniform(0.2, 2.0))
        try:
            progress = read_json(struck / "progress.json")
            way = order[len(struck_at)]
            way(cluster.jobs("struck")[-1])
        except (IncompleteError, IndexError, ProcessLookupError, subprocess.CalledProcessError):
            continue  # it has just ended
        struck_at.append((progress["epoch"], progress["step"]))
        used.append(way.__name__)
        starts = sum(event["event"] in ("start", "resume") for event in read_lines(struck / "events.jsonl"))
    assert len(struck_at) == KILLS, f"the training ended after {len(struck_at)} kills; make it longer"
    assert len(set(used)) == len(ways) and len(set(struck_at)) > KILLS / 2, (used, struck_at)
    for run in ("alone", "struck"):
        cluster.wait_finished(run, seconds=300)

    expected, found = (torch.load(cell / "model.pt", weights_only=True) for cell in (alone, struck))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (struck / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    points = [read_json(cell / "evaluation.json")["points"] for cell in (alone, struck)]
    assert points[0] == points[1]
    assert len(read_json(struck / "training.json")["starts"]) > KILLS / 2
    for run in ("alone", "struck"):
        cluster.wait_left(run)


def test_a_node_that_goes_down_gives_its_cell_back_and_the_cell_goes_on(cluster, monkeypatch):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0.3")
    (cluster.folder / "long.toml").write_text(JOB.replace("EPOCHS", "30"))
    cluster.grid("long.toml", "run")
    cell = next((cluster.folder / "run" / "cells").iterdir())
    cluster.wait("a checkpoint", lambda: (cell / "checkpoint.pt").exists())
    node = slurm("squeue", "--noheader", f"--jobs={cluster.jobs('run')[0]}", "--format=%N").strip()
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def is_back() -> bool:
        # It comes back by itself as soon as it answers, and must have forgotten the job before it gets it again.
        states = slurm("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T").split()
        ranks = rank_processes(cluster.folder.resolve() / "run")
        return not ranks and set(states) <= {"idle", "mixed", "allocated"}

    deadline = time.monotonic() + 120
    while not is_back():
        assert time.monotonic() < deadline, slurm("sinfo", "--Node", "--long")
        time.sleep(0.5)
    cluster.wait_finished("run")
    events = [event["event"] for event in read_lines(cell / "events.jsonl")]
    assert events.count("start") == 1 and events.count("resume") >= 1
    assert len(cluster.jobs("run")) == 1, "the same job, put back into the queue by Slurm"
    cluster.wait_left("run")
