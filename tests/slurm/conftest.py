"""A real Slurm for the tests of this folder: the one of slurm/testcluster, or any in which SLURM_CONF points."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.cluster.ledger import task_ids
from hpcseg.runs.record import read_lines

UP = Path(__file__).parents[2] / "slurm" / "testcluster" / "up"


def job_text(*train: str, epochs: int | str = "EPOCHS", width: int = 8, grid: str = "train.seed = 0") -> str:
    """A job file of small cells on CPUs.

    Args:
        train: more lines of its [train].
        epochs: their number, or a word to put it in the place of.
        width: of the network.
        grid: the lines of its [[grid]].
    """
    more = "".join(f"{line}\n" for line in train)
    return f"""
[data]
tile_size = 64
tiles = "2x2"
[train]
width = {width}
depth = 2
epochs = {epochs}
batch_size = 8
precision = "fp32"
{more}[needs]
gpus = 0
[[grid]]
{grid}
"""


def slurm(*command: str) -> str:
    """A Slurm command's output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


class Cluster:
    """Runs hpcseg against the cluster as a user would, in a folder of its own."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder = folder
        self.dataset = dataset

    def hpcseg(self, *arguments: str, threads: int | None = None) -> str:
        command = [sys.executable, "-m", "hpcseg", *arguments]
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        answer = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, f"{arguments}: {answer.stdout}{answer.stderr}"
        return answer.stdout

    def grid(self, job: str, run: str, *options: str) -> str:
        return self.hpcseg(
            "grid", "--slurm", "--job", job, "--data", str(self.dataset), "--profile", "testcluster", "--run", run,
            "--time", "10", *options,
        )  # fmt: skip

    def job_that_takes(self, seconds: float, text: str) -> Path:
        """The file of a job of one cell whose training takes about so long on one core of this machine.

        Args:
            seconds: of training.
            text: the job, with EPOCHS for their number.
        """
        path = self.folder / "long.toml"
        path.write_text(text.replace("EPOCHS", "20"))
        self.hpcseg("train", "*", "--job", str(path), "--data", str(self.dataset), "--run", "measured", threads=1)
        (cell,) = (self.folder / "measured" / "cells").iterdir()
        epochs = [event["seconds"] for event in read_lines(cell / "events.jsonl") if event["event"] == "epoch"]
        path.write_text(text.replace("EPOCHS", str(math.ceil(seconds / statistics.median(epochs)))))
        return path

    def states(self, run: str) -> dict[str, str]:
        cells = json.loads(self.hpcseg("status", "--run", run, "--json"))["cells"]
        return {cell["cell"]: cell["state"] for cell in cells}

    def jobs(self, run: str) -> list[str]:
        """Those of cells."""
        lines = self._submitted(run)
        return [job for line in lines if line["cells"] for job in task_ids(line["job"], len(line["cells"]))]

    def _submitted(self, run: str) -> list[dict]:
        lines = read_lines(self.folder / run / "submissions.jsonl")
        return [line for line in lines if line["event"] == "submitted"]

    def logs(self, run: str) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in (self.folder / run / "logs").glob("*.out"))

    def wait(self, what: str, holds: Callable[[], bool], *, seconds: float = 300) -> None:
        """Wait until something holds, releasing the pause that Slurm makes before it starts a requeued job."""
        deadline = time.monotonic() + seconds
        held: dict[str, float] = {}
        while not holds():
            queue = slurm("squeue", "--noheader", "--array", "--format=%i %r")
            paused = [line.split()[0] for line in queue.splitlines() if line.endswith("BeginTime")]
            held = {job_id: held.get(job_id, time.monotonic()) for job_id in paused}
            for job_id, since in held.items():
                # The pause is there for a reason: a node refuses a job that it has killed within the same second.
                if time.monotonic() - since > 3:
                    subprocess.run(["scontrol", "update", f"jobid={job_id}", "starttime=now"], check=False)
            assert time.monotonic() < deadline, f"{what}: not after {seconds} s; the queue:\n{queue}"
            time.sleep(0.5)

    def wait_finished(self, run: str, *, seconds: float = 300) -> None:
        self.wait(
            f"all cells of {run} finished", lambda: set(self.states(run).values()) == {"finished"}, seconds=seconds
        )

    def wait_left(self, run: str, *, seconds: float = 300) -> None:
        """Wait until no job of a run is in the queue; others' jobs are no concern of ours."""

        def left() -> bool:
            # Looked up each time: the report job may submit something itself.
            ours = {line["job"] for line in self._submitted(run)}
            return not ours & set(slurm("squeue", "--noheader", "--array", "--format=%F").split())

        self.wait(f"the end of all jobs of {run}", left, seconds=seconds)

    def accounted(self, job: str, *options: str, field: str = "State") -> list[str]:
        """What sacct says of a job that has ended, a word for each of its tasks; it learns the end after squeue."""

        def told(field: str) -> list[str]:
            return slurm("sacct", "-nPX", *options, f"--jobs={job}", f"--format={field}").split()

        def ended() -> bool:
            # Of a task that was taken out of its array a moment ago it may say nothing yet.
            return bool(states := told("State")) and not {"PENDING", "RUNNING"} & set(states)

        self.wait(f"the end of job {job} in the accounting", ended)
        return told(field)


@pytest.fixture(scope="session")
def live_slurm() -> None:
    """Skips where no Slurm answers, and brings back one that answers and does nothing else."""
    try:
        nodes = slurm("sinfo", "--noheader", "--Node", "--partition=gpu")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f'no Slurm answers ({error}); eval "$(slurm/testcluster/up)" brings one up')
    assert len(nodes.splitlines()) >= 2, "the tests need two nodes"
    folder = Path(os.environ.get("SLURM_CONF", "")).parent
    if (folder / "hpcseg-testcluster").exists():
        # Minutes have passed since it came up.
        subprocess.run([UP, folder], check=True, stdout=subprocess.DEVNULL, timeout=300)


@pytest.fixture
def cluster(live_slurm, tmp_path, tiny_dataset) -> Cluster:
    return Cluster(tmp_path, tiny_dataset)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds what Slurm says to the report of a test that failed: without it nobody can tell the test's fault from it."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and item.get_closest_marker("slurm"):
        for command in (
            ["sinfo", "--Node", "--long"],
            ["squeue", "--array", "--format=%i %j %T %r %N %V %S"],
            [
                "sacct",
                "--allocations",
                "--starttime=now-20minutes",
                "--format=JobID,JobName%25,State%20,Submit,Start,End",
            ],
        ):
            report.sections.append((" ".join(command), _said(command)))
        log = Path(os.environ.get("SLURM_CONF", "")).parent / "slurmctld.log"
        if log.exists():
            report.sections.append((log.name, "\n".join(log.read_text().splitlines()[-20:])))


def _said(command: list[str]) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "\n".join((answer.stdout + answer.stderr).splitlines()[-25:])
