"""Several cells in one job of a real Slurm: killed, put back, out of time, one of them poisoned, one cancelled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import job_text, slurm

from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.slurm

JOB = job_text("noise_fraction = 0.5")
# Two of them take longer than the shortest time limit that Slurm knows, one minute, less the quarter before which a job
# is warned.
SECONDS = 28


def events(cell: Path) -> list[str]:
    return [event["event"] for event in read_lines(cell / "events.jsonl")]


def bits(cell: Path) -> list[object]:
    """What of a cell is no time and says nothing of the machine."""
    training, evaluation = (json.loads((cell / f"{name}.json").read_text()) for name in ("training", "evaluation"))
    return [training["model_sha256"], training["metrics_sha256"], evaluation["points"], evaluation["slices_sha256"]]


def cells(cluster, run: str) -> dict[str, Path]:
    """By their seeds."""
    found = {}
    for path in (cluster.folder / run / "cells").iterdir():
        seed = re.search(r"-s(\d)-", path.name)
        assert seed is not None
        found[seed[1]] = path
    return found


def test_the_smoke_cells_share_one_process_and_end_in_the_bits_of_their_own(cluster):
    assert "Submitted 2 jobs" in cluster.grid("smoke", "together", "--cells-per-job", "4")  # both cells, and the report
    assert "Submitted 3 jobs" in cluster.grid("smoke", "apart")
    for run in ("together", "apart"):
        cluster.wait_finished(run)
        cluster.wait_left(run)
    starts = [read_lines(cell / "events.jsonl")[0] for cell in (cluster.folder / "together/cells").iterdir()]
    assert len({start["pid"] for start in starts}) == 1 == len({start["slurm_job_id"] for start in starts})
    for cell in (cluster.folder / "apart/cells").iterdir():
        assert bits(cell) == bits(cluster.folder / "together/cells" / cell.name)


def test_a_job_of_cells_that_is_put_back_killed_and_out_of_time_loses_nothing(cluster, monkeypatch):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "1")
    job = cluster.job_that_takes(SECONDS, JOB)
    epochs = re.search(r"epochs = (\d+)", job.read_text())
    assert epochs is not None
    # The longest come first: one that is put back, one that meets the time limit, and a short one, which is killed.
    short = f"[[grid]]\ntrain.seed = 2\ntrain.epochs = {int(epochs[1]) // 3}\n"
    job.write_text(job.read_text().replace("train.seed = 0", "train.seed = [0, 1]") + short)
    cluster.grid(str(job), "alone", "--cells-per-job", "3")
    cluster.grid(str(job), "struck", "--cells-per-job", "3", "--time", "1", "--tries", "10")
    struck = cells(cluster, "struck")
    (first,) = cluster.jobs("struck")
    cluster.wait("an epoch of the first cell", lambda: (struck["0"] / "metrics.jsonl").exists())
    slurm("scontrol", "requeue", first)
    cluster.wait("an epoch of the last cell", lambda: (struck["2"] / "metrics.jsonl").exists(), seconds=600)
    slurm("scancel", "--signal=KILL", f"{cluster.jobs('struck')[-1]}.0")
    for run in ("alone", "struck"):
        cluster.wait_finished(run, seconds=600)
    for number, cell in cells(cluster, "alone").items():
        assert bits(cell) == bits(struck[number])
        assert [events(struck[number]).count(once) for once in ("trained", "evaluated")] == [1, 1]
    for number in ("0", "2"):  # one was put back, one killed, perhaps before its first checkpoint
        assert sum(events(struck[number]).count(begun) for begun in ("start", "resume")) >= 2
    assert len(cluster.jobs("struck")) == 2, "the killed one was followed by another, with what was left"
    begun = [event for cell in struck.values() for event in read_lines(cell / "events.jsonl") if "host" in event]
    restarts = {int(event["slurm_restart_count"] or 0) for event in begun if event["slurm_job_id"] == first}
    assert max(restarts) >= 2, "put back by us, and then by the time limit"
    for run in ("alone", "struck"):
        cluster.wait_left(run)


def test_a_poisoned_cell_and_a_cancelled_one_leave_the_others_of_their_job_alone(cluster):
    (cluster.folder / "three.toml").write_text(
        JOB.replace("EPOCHS", "60")
        .replace("train.seed = 0", "train.seed = [0, 1, 2]")
        .replace("[needs]", "[[grid]]\ntrain.learning_rate = 1e30\ntrain.seed = 3\n[needs]")
    )
    cluster.grid("three.toml", "run", "--cells-per-job", "4")
    (job,) = cluster.jobs("run")
    of_run = cells(cluster, "run")
    names = {number: cell.name for number, cell in of_run.items()}
    cluster.wait("an epoch", lambda: any((cell / "metrics.jsonl").exists() for cell in of_run.values()))
    states = cluster.states("run")
    running = [number for number, name in names.items() if states[name] == "running"]
    waiting = [number for number, name in names.items() if states[name] == "queued" and number != "3"]
    assert len(running) == 1 and len(waiting) >= 1, states
    # One that waits, and the one that runs: the job goes on with the others.
    for number in (waiting[-1], *running):
        said = cluster.hpcseg("cancel", "--run", "run", names[number])
        assert f"job {job}, which goes on with its other cells" in said
    cluster.wait_left("run", seconds=600)
    unwanted = {waiting[-1], *running}
    assert cluster.states("run") == {
        name: "cancelled" if number in unwanted else "failed" if number == "3" else "finished"
        for number, name in names.items()
    }, cluster.logs("run")
    assert not (of_run[waiting[-1]] / "events.jsonl").exists(), "it was never begun"
    (bad,) = (cell for cell in json.loads(cluster.hpcseg("status", "--run", "run", "--json"))["cells"]
              if cell["state"] == "failed")  # fmt: skip
    assert "loss not finite" in bad["note"]
    said = cluster.hpcseg("logs", "--run", "run", "--failed")
    (done,) = names.keys() - unwanted - {"3"}
    assert "The training loss became" in said and names[done] not in said
    assert len(cluster.jobs("run")) == 1, "neither what was cancelled nor what the user has to mend is tried again"
    cluster.hpcseg("retry", "--run", "run", *(names[number] for number in sorted(unwanted)))
    cluster.wait_left("run", seconds=600)
    assert sorted(cluster.states("run").values()) == ["failed", "finished", "finished", "finished"]
