"""A cell of a Slurm job that is requeued again and again and makes no step is given up."""

from __future__ import annotations

import pytest

from hpcseg.cluster.failures import KINDS
from hpcseg.data.store import read_info
from hpcseg.errors import HpcsegError
from hpcseg.jobfile import load_job
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import plan, write_plan
from hpcseg.runs.record import append_event
from hpcseg.runs.standstill import require_progress
from hpcseg.runs.told import read_failure

JOB = """
[data]
tile_size = 32
tiles = "4x4"
[train]
width = 2
depth = 1
epochs = 1
precision = "fp32"
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""

STILL = [("start", {}), ("stop", {"epoch": 0, "step": 0})]
GOES_ON = [("resume", {}), ("stop", {"epoch": 1, "step": 3})]
EVALUATES = [("evaluate", {}), ("evaluation stopped", {"done": 0, "pieces": 9})]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    return RunFolder(tmp_path).cell("a")


def tell(folder, *starts, job: str = "7") -> None:
    for events in starts:
        for event, details in events:
            begins = {"slurm_job_id": job} if event in ("start", "resume", "evaluate") else {}
            append_event(folder.events_file, event, **begins, **details)


@pytest.mark.parametrize("one", [STILL, EVALUATES, GOES_ON])
def test_three_starts_in_a_row_without_a_new_step_are_a_failure_of_the_time_limit(folder, one):
    tell(folder, *([one] * (3 if one is GOES_ON else 2)))
    require_progress(folder)
    tell(folder, one)
    with pytest.raises(HpcsegError, match="3 starts in a row") as failed:
        require_progress(folder)
    (limit,) = [kind for kind in KINDS if kind.name == "time limit"]
    assert limit.said.split("|")[1] in str(failed.value) and limit.action == "more time"


def test_a_step_between_them_counts_anew(folder):
    tell(folder, STILL, STILL, GOES_ON, GOES_ON, GOES_ON, [("resume", {}), ("stop", {"epoch": 1, "step": 4})])
    require_progress(folder)
    tell(folder, EVALUATES, EVALUATES)
    require_progress(folder)


def test_another_job_has_starts_of_its_own(folder, monkeypatch):
    tell(folder, STILL, STILL, STILL, job="6")
    tell(folder, STILL, STILL)
    require_progress(folder)


def test_what_is_started_by_hand_is_stopped_by_hand(folder, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    tell(folder, *[STILL] * 5)
    require_progress(folder)


def test_the_third_start_that_is_stopped_at_once_writes_down_what_it_fails_of(folder, tmp_path, tiny_dataset):
    (tmp_path / "one.toml").write_text(JOB)
    one = load_job(tmp_path / "one.toml")
    grid = plan(one, RunFolder(tmp_path / "run"), tiny_dataset, read_info(tiny_dataset).data_sha256)
    write_plan(grid)
    of = grid.cells[0].folder
    for _ in range(2):
        assert run_cell(of, "train", should_stop=lambda: True) == "stopped"
    with pytest.raises(HpcsegError, match="timed-out too many times"):
        run_cell(of, "train", should_stop=lambda: True)
    failure = read_failure(of)
    assert failure is not None and "3 starts in a row" in failure.error and failure.job_id == "7"
