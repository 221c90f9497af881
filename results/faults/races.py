"""Kills, races and requeues of a run on Slurm, counted: no cell lost, none submitted or trained twice.

    eval "$(slurm/testcluster/up)"
    python results/faults/races.py SCRATCH > results/faults/races.json

Jobs wait in a partition that is down while `hpcseg grid` is killed or races itself; then cells run while their jobs are
cancelled, put back and tried again, and a node goes down. It cancels jobs of its own runs alone, and brings back what
it took down.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from kills import ENVIRONMENT, early, hpcseg, kill_tree, prepare, struck, timed

from hpcseg.cluster import ledger
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect
from hpcseg.runs.record import read_lines

CELLS = 30
PARTITION = "gpu"
SECONDS_TO_FINISH = 900
NODE_DOWN = ("scontrol", "update", "nodename=n1", "state=down", "reason=test")
moments = random.Random(1)


def main(scratch: Path) -> None:
    """Print a JSON record; SCRATCH must be empty or missing."""
    prepare(scratch, epochs=2, cells=CELLS)
    with partition_down():
        parts = {
            "grid is killed": killed(scratch, runs=5, kills=4),
            "two grids at once": races(scratch, grids=2, runs=3),
            "four grids at once": races(scratch, grids=4, runs=3),
        }
    parts["jobs are cancelled, put back and tried again"] = disturbed(scratch)
    provenance = collect(
        device=device_facts(torch.device("cpu")), command="results/faults/races.py SCRATCH", data_sha256=""
    )
    print(json.dumps({"provenance": provenance, **parts}, indent=1))


def grid(run: str) -> list[str]:
    """The command that submits a run."""
    return [
        *("grid", "--slurm", "--job", "job.toml", "--data", "small.h5", "--profile", "testcluster"),
        *("--partition", PARTITION, "--run", run),
    ]


def slurm(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def partition_down() -> Iterator[None]:
    """Jobs wait."""
    slurm("scontrol", "update", f"partitionname={PARTITION}", "state=down")
    try:
        yield
    finally:
        slurm("scontrol", "update", f"partitionname={PARTITION}", "state=up")


def killed(scratch: Path, *, runs: int, kills: int) -> dict[str, int]:
    """Submissions that are killed, and then made."""
    seconds = timed(scratch, grid("alone"))
    counts = Counter(runs=runs)
    in_queue(scratch / "alone")
    for number in range(runs):
        run = f"killed-{number}"
        counts["kills"] += sum(struck(scratch, grid(run), early(seconds), kill_tree) for _ in range(kills))
        hpcseg(scratch, *grid(run))
        counts.update(in_queue(scratch / run))
    return dict(counts)


def races(scratch: Path, *, grids: int, runs: int) -> dict[str, int]:
    """Submissions of the same run that are begun at once."""
    counts = Counter(runs=runs)
    for number in range(runs):
        run = f"race-{grids}-{number}"
        command = [sys.executable, "-m", "hpcseg", *grid(run)]
        started = [
            subprocess.Popen(
                command, cwd=scratch, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(grids)
        ]
        counts["grids that failed"] += sum(process.wait() != 0 for process in started)
        counts.update(in_queue(scratch / run))
    return dict(counts)


def in_queue(run: Path) -> Counter[str]:
    """How many cells of a run have no job, and how many jobs more than they need; then its jobs are cancelled."""
    waiting = set(in_state(RunFolder(run)))
    booked = ledger.read(RunFolder(run))
    wanted = booked.slurm_jobs()
    subprocess.run(["scancel", *sorted(waiting)], check=True)
    return Counter(
        {
            "cells that have no job": CELLS - sum(job in waiting for job in wanted.values()),
            "jobs more than there should be": len(waiting - {*wanted.values(), *booked.reports[-1:]}),
        }
    )


def disturbed(scratch: Path) -> dict[str, int]:
    """A run whose jobs are cancelled and put back while it runs, one node of which goes down, and that is finished."""
    run = RunFolder(scratch / "disturbed")
    hpcseg(scratch, *grid("disturbed"))
    counts = Counter(cells=CELLS)
    ways = [("scancel",)] * 6 + [("scontrol", "requeue")] * 6 + [NODE_DOWN]
    moments.shuffle(ways)
    for way in ways:
        while not (jobs := in_state(run, "running")):
            time.sleep(0.5)
        time.sleep(moments.uniform(0.0, 2.0))
        # It may have ended in the meantime, which is then not counted.
        done = subprocess.run(way if way is NODE_DOWN else [*way, moments.choice(jobs)], capture_output=True)
        counts[" ".join(way)] += done.returncode == 0
    deadline, verbs = time.monotonic() + SECONDS_TO_FINISH, [["retry", "--run", "disturbed"]]
    while finished(scratch) < CELLS and time.monotonic() < deadline:
        for job in in_state(run, "pending"):  # a pause that Slurm makes before it starts a job again
            subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True)
        time.sleep(10)
        if not in_state(run, "running"):
            hpcseg(scratch, *(verbs.pop() if verbs else grid("disturbed")))
    # Most often it has come back by itself, which scontrol then says.
    subprocess.run(["scontrol", "update", NODE_DOWN[2], "state=resume"], capture_output=True)
    events = [[event["event"] for event in read_lines(cell.events_file)] for cell in run.cell_folders()]
    counts["cells finished"] = finished(scratch)
    for event in ("trained", "evaluated"):
        counts[f"cells {event} more than once"] = sum(of.count(event) > 1 for of in events)
    return dict(counts)


def in_state(run: RunFolder, state: str | None = None) -> list[str]:
    """Ids of the jobs of a run that are in such a state, or in the queue at all."""
    states = [f"--states={state}"] if state else []
    found = slurm("squeue", "--noheader", "--array", *states, "--format=%i %k").splitlines()
    return [line.split()[0] for line in found if line.split()[1].startswith(ledger.tag(run))]


def finished(scratch: Path) -> int:
    """How many cells are."""
    answer = json.loads(hpcseg(scratch, "status", "--run", "disturbed", "--json"))
    return sum(cell["state"] == "finished" for cell in answer["cells"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
