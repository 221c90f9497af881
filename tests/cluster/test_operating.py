"""retry, logs, cancel and clean as a user types them, on a run whose Slurm is a stand-in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_slurm import FakeSlurm, evaluate, resources, send, train, trained
from finished_cells import beat
from typer.testing import CliRunner, Result

from hpcseg.cli.app import app
from hpcseg.cluster import ledger, states, worker
from hpcseg.cluster.retry import follow_up, read_resources
from hpcseg.cluster.sender import Submission
from hpcseg.cluster.states import run_status
from hpcseg.cluster.submit import submit_missing
from hpcseg.data import store
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.numerics import NUMERICS
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, plan, read_grid, write_plan
from hpcseg.runs.record import append_event, read_json, read_lines, write_json, write_record
from hpcseg.runs.wish import is_left_out

CHECKPOINTS = ("checkpoint.pt", "checkpoint-previous.pt", "evaluation-checkpoint.pt")


@pytest.fixture
def grid(tmp_path) -> Grid:
    """The demo's cells, planned; no data is needed to submit them."""
    planned = plan(load_job(find_shipped("job", "demo")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    write_plan(planned)
    return planned


@pytest.fixture(autouse=True)
def packed(monkeypatch) -> SimpleNamespace:
    """What a packed file says of its data, in the place of one."""
    info = SimpleNamespace(data_sha256="0" * 64)
    monkeypatch.setattr(store, "read_info", lambda path: info)
    return info


def hpcseg(grid: Grid, verb: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [verb, *arguments, "--run", str(grid.run.path)])


def fail(grid: Grid, index: int, error: str, host: str = "n1") -> None:
    folder = grid.cells[index].folder
    append_event(folder.events_file, "start")
    write_json(folder.failure_file, {"error": error, "rank": 0, "host": host, "time": time.time()})


def cells_of_last_array(slurm: FakeSlurm, grid: Grid) -> list[str]:
    lines = [json.loads(line) for line in grid.run.submissions_file.read_text().splitlines()]
    return [line["cells"] for line in lines if line["event"] == "submitted" and line["stage"] == "cells"][-1]


def test_a_grid_is_read_back_as_it_was_planned(grid):
    assert read_grid(grid.run) == grid


def test_retry_submits_the_failed_cells_only_and_asks_for_the_same(slurm, grid):
    send(grid, partition="gpu", mem=3.0)
    scripts = len(slurm.scripts())
    fail(grid, 1, "ValueError: no")
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(len(grid.cells)) if task != 1))
    said = hpcseg(grid, "retry")
    assert said.exit_code == 0, said.output
    assert cells_of_last_array(slurm, grid) == [grid.cells[1].id]
    assert "#SBATCH --partition=gpu" in slurm.scripts()[scripts] and "#SBATCH --mem=3072M" in slurm.scripts()[scripts]


@pytest.mark.parametrize("way", ["Slurm", "here"])
def test_retry_looks_at_the_data_before_it_submits_what_would_fail_again(slurm, grid, packed, monkeypatch, way):
    send(grid)
    fail(grid, 0, "ValueError: no")
    slurm.queue()
    if way == "here":
        ledger.book_local(grid.run, [grid.cells[0].id], "1")
    packed.data_sha256 = "1" * 64
    for options in ((), ("--dry-run",)):
        said = hpcseg(grid, "retry", grid.cells[0].id, *options)
        assert said.exit_code == 3 and "holds other data than when the run was planned" in said.stderr
    monkeypatch.undo()
    said = CliRunner().invoke(app, ["retry", "--run", str(grid.run.path)])
    assert said.exit_code == 3 and "data.h5" in said.stderr and len(said.stderr.splitlines()) == 1
    assert "would run" not in said.output and "Submitted" not in said.output


def test_the_states_of_retry_for_a_script_are_those_of_status(slurm, grid):
    send(grid, mem=8.0)
    fail(grid, 0, "MemoryError: no room")
    others = [f"100_{task}|RUNNING|None|n1" for task in range(1, len(grid.cells))]
    slurm.queue(*others, "102|PENDING|Resources|")
    told = json.loads(hpcseg(grid, "retry", "--json").stdout)["cells"]
    found = json.loads(hpcseg(grid, "status", "--json").stdout)["cells"]
    assert told == [{"cell": cell["cell"], "state": cell["state"]} for cell in found] and told[0]["state"] == "queued"


def test_retry_takes_more_memory_and_fewer_nodes(slurm, grid):
    send(grid)
    scripts = len(slurm.scripts())
    for index in range(len(grid.cells)):
        fail(grid, index, "AcceleratorError: CUDA error: uncorrectable ECC error", host="n7")
    slurm.queue()
    hpcseg(grid, "retry", "--mem", "9", "--time", "77", "--exclude", "n3")
    script = slurm.scripts()[scripts]
    assert "--exclude=n3,n7" in script and "--mem=9216M" in script and "--time=77" in script
    remembered = read_resources(grid.run)
    assert remembered is not None and remembered.exclude == "n3,n7"


def test_retry_of_chosen_cells_leaves_the_others(slurm, grid):
    send(grid)
    for index in range(len(grid.cells)):
        fail(grid, index, "ValueError: no")
    slurm.queue()
    hpcseg(grid, "retry", grid.cells[0].id)
    assert cells_of_last_array(slurm, grid) == [grid.cells[0].id]
    said = hpcseg(grid, "retry", "nothing-*")
    assert said.exit_code == 2 and 'No failed cell fits "nothing-*"' in said.output


def test_retry_goes_where_the_cells_were_started_last(slurm, grid):
    """Slurm had the run, then the cells ran on this machine; then Slurm has it again."""
    send(grid)
    fail(grid, 1, "ValueError: no")
    slurm.queue()
    assert grid.run.resources_file.exists()
    ledger.book_local(grid.run, [grid.cells[1].id], "1")
    said = hpcseg(grid, "retry", "--dry-run")
    assert said.exit_code == 0 and "would run here again" in said.output and "#SBATCH" not in said.output
    refused = hpcseg(grid, "retry", "--mem", "9")
    assert refused.exit_code == 2 and "these cells ran on this machine last" in refused.output
    send(grid)
    assert "#SBATCH" in hpcseg(grid, "retry", "--dry-run").output


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text(""), lambda file: file.write_text("{}")])
@pytest.mark.parametrize("index", [0, 1, -1])
def test_retry_names_a_cell_whose_plan_cannot_be_read_and_tries_the_others(slurm, grid, damage, index):
    send(grid)
    damaged = grid.cells[index]
    for number in range(len(grid.cells)):
        fail(grid, number, "DistBackendError: NCCL")
    slurm.queue()
    damage(damaged.folder.config_file)
    others = [cell.id for cell in grid.cells if cell is not damaged]
    said = hpcseg(grid, "retry")
    assert said.exit_code == 0, said.output
    assert str(damaged.folder.config_file) in said.output and "`hpcseg grid`" in said.output
    assert cells_of_last_array(slurm, grid) == others
    slurm.queue()
    follow_up(grid.run)
    assert cells_of_last_array(slurm, grid) == others
    ledger.book_local(grid.run, [others[0]], "1")
    said = hpcseg(grid, "retry", "--dry-run")
    assert f"{len(others)} cells would run here again" in said.output
    assert f"is left alone: {damaged.folder.config_file}" in said.output


@pytest.mark.parametrize(("train", "why"), [({"depht": 2}, 'unknown key "depht"'), (7, "is damaged: train is 7")])
def test_retry_leaves_a_cell_alone_whose_settings_this_version_does_not_know(slurm, grid, train, why):
    send(grid)
    later, other = grid.cells[0], grid.cells[1]
    for number in (0, 1):
        fail(grid, number, "DistBackendError: NCCL")
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(2, len(grid.cells))))
    write_record(later.folder.config_file, {**read_json(later.folder.config_file), "train": train})
    said = hpcseg(grid, "retry")
    assert said.exit_code == 0, said.output
    assert str(later.folder.config_file) in said.output and why in said.output
    assert cells_of_last_array(slurm, grid) == [other.id]


def test_a_run_none_of_whose_cells_has_a_plan_is_refused_with_a_sentence(slurm, grid):
    for cell in grid.cells:
        cell.folder.config_file.unlink()
    said = hpcseg(grid, "retry")
    assert said.exit_code == 5 and "config.json cannot be read" in said.stderr and len(said.stderr.splitlines()) == 1


def test_a_plan_without_cells_is_damaged(grid):
    write_record(grid.run.grid_file, {**read_json(grid.run.grid_file), "cells": []})
    said = hpcseg(grid, "retry")
    assert said.exit_code == 5 and "grid.json is damaged: it has no cells" in said.stderr


def test_retry_without_failures_does_nothing(slurm, grid):
    send(grid)
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(len(grid.cells))))
    before = len(slurm.scripts())
    assert "No cell has failed" in hpcseg(grid, "retry").output
    assert len(slurm.scripts()) == before


def submitted(submission: Submission) -> set[str]:
    """The cells of all jobs."""
    return {cell for sent in submission.sent for task in sent.tasks for cell in task}


def test_the_follow_up_tries_again_what_the_cluster_is_to_blame_for_and_gives_up_after_some_tries(slurm, grid):
    send(grid, tries=2)
    fail(grid, 0, "AcceleratorError: CUDA error: uncorrectable ECC error", host="n9")
    fail(grid, 1, "ValueError: no")
    slurm.queue()
    submission = follow_up(grid.run)
    tried = submitted(submission)
    assert grid.cells[0].id in tried and grid.cells[1].id not in tried
    assert any("--exclude=n9" in script for script in slurm.scripts())
    fail(grid, 0, "DistBackendError: NCCL")
    assert follow_up(grid.run).sent == [], "two tries are two tries"


def test_where_nobody_says_how_many_a_cell_has_three_tries_in_all(slurm, grid):
    send(grid)
    tried_again = []
    for _ in range(3):
        fail(grid, 0, "DistBackendError: NCCL")
        slurm.queue()
        tried_again.append(grid.cells[0].id in submitted(follow_up(grid.run)))
    assert tried_again == [True, True, False]


@pytest.mark.parametrize("before", [None, "DistBackendError: NCCL"])
@pytest.mark.parametrize(
    ("word", "state", "tried"),
    [
        ("", "cancelled", False),
        ("CANCELLED by 0", "cancelled", False),
        ("NODE_FAIL", "failed", True),
        ("PREEMPTED", "failed", True),
    ],
)
def test_a_job_that_left_the_queue_before_it_began_is_submitted_again_where_slurm_says_why_or_a_user_asks(
    slurm, grid, before, word, state, tried
):
    """Of a waiting task that is taken out of an array no command of Slurm's knows anything afterwards."""
    if before is not None:
        # What an earlier job has left is not this one's.
        fail(grid, 0, before)
        time.sleep(0.01)
    send(grid)
    slurm.queue(*(f"100_{task}|PENDING|Priority|" for task in range(1, len(grid.cells))))
    slurm.command("sacct", f"echo '100_0|{word}|None assigned|0:0'" if word else "true")
    (cell,) = (cell for cell in run_status(grid.run).status if cell.cell == grid.cells[0].id)
    assert cell.state == state
    assert (grid.cells[0].id in submitted(follow_up(grid.run))) == tried
    if not tried:
        assert "Submitted 2 jobs" in hpcseg(grid, "retry").stdout


def test_a_job_that_began_and_left_no_word_is_tried_again_whatever_tells_that_it_began(slurm, grid):
    send(grid)
    slurm.queue("100_1|PENDING|Priority|")
    cell = grid.cells[0].folder
    grid.run.logs.mkdir(exist_ok=True)
    log = grid.run.logs / "100_0_0_log.out"
    behind = {"time": time.time() - 60, "slurm_job_id": "100_0"}  # by the clock of its node
    for begins in (
        lambda: log.write_text(""),
        lambda: append_event(cell.events_file, "start"),
        lambda: cell.events_file.write_text(json.dumps({"event": "start", **behind}) + "\n"),
    ):
        cell.events_file.unlink(missing_ok=True)
        assert run_status(grid.run).failures[cell.id].kind.name == "left the queue before it began"
        begins()
        assert run_status(grid.run).failures[cell.id].kind.name == "killed without a word"
        log.unlink(missing_ok=True)
    cell.events_file.unlink()
    # Written by the follow-up, behind the submission of the job.
    append_event(cell.events_file, "escalated", memory_gib=2, minutes=3)
    assert run_status(grid.run).failures[cell.id].kind.name == "left the queue before it began"


def test_a_cell_that_ran_out_of_memory_gets_more_by_itself_up_to_the_cap(slurm, grid):
    send(grid, mem=8.0, max_mem=20.0, tries=9)
    cell = grid.cells[0]
    asked = []
    for _ in range(4):
        fail(grid, 0, "MemoryError: no room")
        slurm.queue()
        if cell.id in submitted(follow_up(grid.run)):
            asked.append(slurm.options("mem")[-2])
    assert asked == ["16384M", "20480M"], "more than the cap would be the user's to ask for"
    assert read_resources(grid.run).memory_gib == 20
    grown = [line for line in read_lines(cell.folder.events_file) if line["event"] == "escalated"]
    assert [line["memory_gib"] for line in grown] == [16, 20]


def test_without_a_cap_a_cell_that_ran_out_of_memory_is_left_to_the_user(slurm, grid):
    send(grid, mem=8.0)
    fail(grid, 0, "MemoryError: no room")
    slurm.queue()
    assert grid.cells[0].id not in submitted(follow_up(grid.run))


def test_a_cell_that_met_its_limit_gets_more_time_up_to_the_cap_and_then_as_much_again(slurm, grid):
    send(grid, time=30, max_time=100, tries=9)
    limits = []
    for _ in range(3):
        fail(grid, 0, "timed-out too many times")
        slurm.queue()
        assert grid.cells[0].id in submitted(follow_up(grid.run))
        limits.append(slurm.options("time")[-2])
    assert limits == ["60", "100", "100"]


def test_a_node_on_which_two_cells_have_died_is_left_out_of_the_rest(slurm, grid):
    send(grid)
    dead = "JOB 100 ON n9 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"
    fail(grid, 0, dead, host="n9")
    slurm.queue()
    follow_up(grid.run)
    assert not any("--exclude" in script for script in slurm.scripts()), "once may be chance"
    for index in (0, 1):
        fail(grid, index, dead, host="n9")
    follow_up(grid.run)
    assert "--exclude=n9" in slurm.scripts()[-1] and read_resources(grid.run).exclude == "n9"


def test_the_follow_up_uses_all_nodes_where_none_can_be_left_out(slurm, grid):
    send(grid)
    fail(grid, 0, "AcceleratorError: CUDA error: uncorrectable ECC error", host="n9")
    slurm.queue()
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    refuses = (
        'grep -q exclude "$1" && { echo "sbatch: error: Requested node configuration is not available" >&2; exit 1; }'
    )
    slurm.command("sbatch", f"{refuses}\n{sbatch}")
    assert grid.cells[0].id in submitted(follow_up(grid.run))


def test_the_follow_up_submits_what_there_was_no_room_for(slurm, grid):
    submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={grid.cells[0].id})
    slurm.queue("100|RUNNING|None|n1")
    tried = submitted(follow_up(grid.run))
    assert tried == {cell.id for cell in grid.cells[1:]}


def test_the_follow_up_leaves_a_run_of_another_numerics_number_alone(slurm, grid, monkeypatch):
    send(grid)
    monkeypatch.setattr("hpcseg.runs.grid.NUMERICS", NUMERICS + 1)
    slurm.queue()
    said = hpcseg(grid, "follow-up")
    told = f"was planned with numerics {NUMERICS}, but this hpcseg computes with numerics {NUMERICS + 1}"
    assert said.exit_code == 1 and told in said.output
    assert len(slurm.scripts()) == 2, "those of before"


def test_cancel_ends_the_jobs_of_chosen_cells_and_the_follow_up_does_not_bring_them_back(slurm, grid):
    send(grid)
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(len(grid.cells))))
    said = hpcseg(grid, "cancel", grid.cells[1].id)
    assert said.exit_code == 0 and "Cancelled 1 cell." in said.output
    assert (slurm.folder / "cancelled").read_text() == "--quiet 100_1\n"
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(len(grid.cells)) if task != 1))
    states = {cell["cell"]: cell["state"] for cell in json.loads(hpcseg(grid, "status", "--json").stdout)["cells"]}
    assert states[grid.cells[1].id] == "cancelled"
    assert follow_up(grid.run).sent == []
    assert "Submitted" in hpcseg(grid, "retry").output, "but the user may"


def test_cancel_of_one_cell_of_a_job_leaves_its_other_cells_alone(slurm, grid):
    send(grid, cells_per_job=len(grid.cells))
    slurm.queue("100|RUNNING|None|n1", "101|PENDING|Dependency|")
    told = hpcseg(grid, "cancel", grid.cells[1].id)
    assert told.exit_code == 0 and "job 100, which goes on with its other cells" in told.output
    assert not (slurm.folder / "cancelled").exists(), "scancel would end them all"
    assert [is_left_out(cell.folder, "100") for cell in grid.cells] == [cell is grid.cells[1] for cell in grid.cells]
    assert not is_left_out(grid.cells[1].folder, "101"), "in which it is submitted again"
    states = {cell["cell"]: cell["state"] for cell in json.loads(hpcseg(grid, "status", "--json").stdout)["cells"]}
    assert states[grid.cells[1].id] == "cancelled" and set(states.values()) == {"running", "queued", "cancelled"}
    hpcseg(grid, "cancel")
    assert (slurm.folder / "cancelled").read_text().split() == ["--quiet", "100", "101"], "the report is 101"


def test_cancel_of_the_whole_run_takes_its_report_too_and_a_dry_run_takes_nothing(slurm, grid):
    send(grid)
    slurm.queue(*(f"100_{task}|PENDING|None|" for task in range(len(grid.cells))), "101|PENDING|Dependency|")
    assert "Nothing was cancelled" in hpcseg(grid, "cancel", "--dry-run").output
    assert not (slurm.folder / "cancelled").exists()
    hpcseg(grid, "cancel")
    assert "101" in (slurm.folder / "cancelled").read_text().split()
    slurm.queue()
    assert "None of these cells waits or runs" in hpcseg(grid, "cancel").output


@pytest.fixture
def left(slurm, grid) -> Grid:
    """The report job, 101, waits alone: the cells' jobs are gone with their node, and one cell has an error."""
    send(grid)
    for index, cell in enumerate(grid.cells):
        error = "CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE" if index else "ValueError: no"
        said = {"error": error, "rank": 0, "host": "n1", "job_id": f"100_{index}", "time": time.time()}
        write_json(cell.folder.failure_file, said)
    slurm.queue("101|PENDING|Priority|")
    return grid


def test_cancel_of_a_run_ends_a_report_that_waits_alone_and_would_bring_cells_back(slurm, left):
    said = hpcseg(left, "cancel").output
    assert f"{left.cells[1].id}: waits for job 101, the report, which would submit it" in said
    assert left.cells[0].id not in said, "an error is left to the user"
    assert (slurm.folder / "cancelled").read_text().split() == ["--quiet", "101"]


def test_cancel_of_a_cell_keeps_a_report_that_waits_alone_from_bringing_it_back(slurm, left):
    assert "Cancelled 1 cell." in hpcseg(left, "cancel", left.cells[1].id).output
    assert not (slurm.folder / "cancelled").exists()
    assert submitted(follow_up(left.run)) == {cell.id for cell in left.cells[2:]}


def test_a_watch_goes_on_until_the_report_that_may_bring_cells_back_has_ended(slurm, left, monkeypatch):
    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            slurm.queue()

    looks: list[float] = []
    monkeypatch.setattr("hpcseg.cluster.remembered._SECONDS_BETWEEN_QUESTIONS", 0.0)
    monkeypatch.setattr("hpcseg.cli.watching.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    assert not run_status(left.run).idle
    assert hpcseg(left, "status", "--watch").exit_code == 1
    assert len(looks) > 5
    assert run_status(left.run).idle


def test_cancel_of_a_run_ends_the_report_that_would_submit_what_had_no_room(slurm, grid):
    submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={grid.cells[0].id})
    for make in (train, evaluate):
        make(grid, 0)
    slurm.queue("101|PENDING|Priority|")
    assert "nothing to do" in hpcseg(grid, "cancel", grid.cells[1].id).output, "it had no job that could be left"
    assert f"Cancelled {len(grid.cells) - 1} cells." in hpcseg(grid, "cancel").output
    assert (slurm.folder / "cancelled").read_text().split() == ["--quiet", "101"]


def test_an_earlier_job_that_says_late_that_it_has_failed_takes_nothing_from_the_one_that_waits(slurm, grid):
    send(grid, cells_per_job=len(grid.cells))
    slurm.queue("101|PENDING|Dependency|")
    send(grid, cells_per_job=len(grid.cells))
    waiting = ("102|PENDING|Priority|", "101|PENDING|Dependency|", "103|PENDING|Dependency|")
    slurm.queue(*waiting)
    said = {"error": "OSError: [Errno 5]", "rank": 0, "host": "n1", "job_id": "100", "time": time.time() + 9}
    write_json(grid.cells[0].folder.failure_file, said)
    assert {cell.state for cell in run_status(grid.run).status} == {"queued"}
    assert send(grid, cells_per_job=len(grid.cells))[-1] == "Nothing to submit."


def beats(grid: Grid, pid: object) -> None:
    """Cell 0 says that it runs on this machine as process `pid`."""
    folder = grid.cells[0].folder
    append_event(folder.events_file, "start")
    beat(folder, host=socket.gethostname(), pid=pid)


def test_cancel_tells_a_local_cell_to_stop(grid):
    holds = "import sys, time; lock = open(sys.argv[1], 'w'); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holds, str(grid.cells[0].folder.lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        ledger.book_local(grid.run, [grid.cells[0].id], "1")
        beats(grid, process.pid)
        said = hpcseg(grid, "cancel", grid.cells[0].id)
        assert f"process {process.pid} on this machine" in said.output
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("booked", ["its number", "a path"])
@pytest.mark.parametrize("pid", ["its number", -1, 0, 1, "1", None])
def test_cancel_leaves_a_process_alone_that_is_not_known_to_be_the_cells(tmp_path, grid, monkeypatch, pid, booked):
    """As told by a record that somebody has changed, or of a number that has gone to another process since."""
    controller = shlex.join(worker.command(grid.run, [grid.cells[0].id]))
    (tmp_path / "no process").mkdir()
    (tmp_path / "no process/environ").write_text(f"SUBMITIT_LOCAL_COMMAND={controller}")
    (tmp_path / "no process/cmdline").write_text("python\0-m\0submitit.local._local")
    grid.cells[0].folder.lock_file.touch()
    idle = [sys.executable, "-c", "import time; time.sleep(60)", "submitit", "hpcseg", str(grid.cells[0].folder.path)]
    with subprocess.Popen(idle) as process:
        job = str(process.pid) if booked == "its number" else f"..{tmp_path}/no process"
        ledger.book_local(grid.run, [grid.cells[0].id], job)
        beats(grid, process.pid if pid == "its number" else pid)
        signalled: list[object] = []
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", lambda *told: signalled.append(told))
            for cells in ([grid.cells[0].id], []):
                said = hpcseg(grid, "cancel", *cells)
                assert said.exit_code == 0, said.output
                assert ": process " not in said.output
        assert process.poll() is None and signalled == []
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_cancel_leaves_a_process_of_another_user_alone_whatever_it_holds(grid):
    with grid.cells[0].folder.lock_file.open("w") as lock:
        process = subprocess.Popen(["sleep", "60"], stdin=lock, user=65534)
    beats(grid, process.pid)
    said = hpcseg(grid, "cancel", grid.cells[0].id)
    ended = process.poll()
    process.kill()
    process.wait()
    assert said.exit_code == 0 and "left alone" in said.output and ended is None


@pytest.mark.parametrize("job", ["--user=me", "100 101", "1_2_3", "../1"])
def test_scancel_gets_ids_of_jobs_and_nothing_else(slurm, grid, job):
    send(grid)
    ledger.book(grid.run, "", "cells", [[grid.cells[0].id]], job)
    slurm.queue()
    slurm.silent()
    said = hpcseg(grid, "cancel", grid.cells[0].id)
    assert said.exit_code == 0, said.output
    # Those of the lines before, whose jobs have numbers.
    told = (slurm.folder / "cancelled").read_text().split()
    assert [one for one in told if re.fullmatch(r"\d+_\d+", one)] == ["100_0"]
    assert not any(word in told for word in job.split())


def test_setup_lines_are_in_the_script_and_nowhere_that_is_published(slurm, grid, monkeypatch):
    words = ["hpcseg", "grid", "--setup", "export KEY=hunter2", "--setup=export TOKEN=hunter2", "--mem", "9"]
    monkeypatch.setattr(sys, "argv", words)
    before = os.umask(0o022)
    send(grid, setup=("export KEY=hunter2", "export TOKEN=hunter2"))
    os.umask(before)
    holders = [path for path in grid.run.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    scripts = [path for path in holders if not path.is_symlink() and path.name.endswith("_submission.sh")]
    assert len(scripts) == 2 and all(slurm_script.stat().st_mode & 0o777 == 0o600 for slurm_script in scripts)
    assert {path.resolve() for path in holders} == {grid.run.resources_file, *scripts}
    assert grid.run.resources_file.stat().st_mode & 0o777 == 0o600
    planned = "hpcseg grid --setup ... --setup=... --mem 9"
    assert json.loads(grid.run.grid_file.read_text())["command"] == planned
    assert planned in grid.run.submissions_file.read_text()
    assert read_resources(grid.run).setup == ("export KEY=hunter2", "export TOKEN=hunter2"), "retry asks for the same"


@pytest.fixture
def failed(slurm, grid) -> Grid:
    """Cell 0 has failed on rank 1, and both ranks have logs; cell 1 runs."""
    send(grid)
    slurm.queue("100_1|RUNNING|None|n1")
    fail(grid, 0, "ValueError: no")
    write_json(
        grid.cells[0].folder.failure_file, {"error": "ValueError: no", "rank": 1, "host": "n1", "time": time.time()}
    )
    for task, rank in ((0, 0), (0, 1), (1, 0)):
        (grid.run.logs / f"100_{task}_{rank}_log.out").write_text(f"first\nlast words of task {task} rank {rank}\n")
    return grid


def test_logs_shows_the_rank_that_failed_unless_another_is_asked_for(failed):
    first, second = failed.cells[0].id, failed.cells[1].id
    said = hpcseg(failed, "logs", first).output
    assert "last words of task 0 rank 1" in said and "rank 0" not in said and "error: ValueError: no" in said
    assert "last words of task 0 rank 0" in hpcseg(failed, "logs", first, "--rank", "0").output
    assert hpcseg(failed, "logs", second, "-n", "1").output.splitlines()[-1] == "last words of task 1 rank 0"
    assert "first" not in hpcseg(failed, "logs", second, "-n", "1").output


def test_logs_of_the_failed_cells_need_no_names(failed):
    said = hpcseg(failed, "logs", "--failed").output
    assert failed.cells[0].id in said and failed.cells[1].id not in said


def test_logs_of_several_cells_go_on_behind_one_that_has_none(slurm, grid):
    send(grid)
    slurm.queue("100_0|PENDING|Priority|", "100_1|RUNNING|None|n1")
    (grid.run.logs / "100_1_0_log.out").write_text("words of the second\n")
    said = hpcseg(grid, "logs", grid.cells[0].id, grid.cells[1].id)
    assert said.exit_code == 0 and "Its job has written none yet." in said.output
    assert said.output.index(grid.cells[0].id) < said.output.index(grid.cells[1].id)


def test_logs_that_are_not_there_end_in_a_sentence(failed):
    said = hpcseg(failed, "logs", failed.cells[0].id, "--rank", "5")
    assert said.exit_code == 5 and "It has logs of rank 0, 1." in said.output
    assert hpcseg(failed, "logs").exit_code == 2
    assert hpcseg(failed, "logs", "*", "--follow").exit_code == 2


def test_what_a_script_reads_is_one_object_on_stdout_and_the_rest_is_on_stderr(failed):
    first, second = (cell.id for cell in failed.cells[:2])
    tried = hpcseg(failed, "retry", first, "--dry-run", "--json")
    answer = json.loads(tried.stdout)
    assert list(answer["failures"]) == [first] and answer["failures"][first]["kind"] == "error"
    assert [sent["tasks"] for sent in answer["submitted"] if sent["stage"] == "cells"] == [[[first]]]
    assert answer["dry_run"] and answer["scripts"] and "Nothing was submitted" in tried.stderr
    cancelled = hpcseg(failed, "cancel", second, "--dry-run", "--json")
    assert list(json.loads(cancelled.stdout)["cancelled"]) == [second]
    assert "Nothing was cancelled" in cancelled.stderr


def test_a_script_gets_a_logs_path_and_its_last_lines(failed):
    first, second = (cell.id for cell in failed.cells[:2])
    of_first, of_second = json.loads(hpcseg(failed, "logs", first, second, "-n", "1", "--json").stdout)["cells"]
    assert of_first["cell"] == first and of_first["rank"] == 1 and of_first["failure"]["text"] == "ValueError: no"
    assert of_first["lines"] == ["last words of task 0 rank 1"]
    assert of_second["failure"] is None and of_second["log"] == str(failed.run.logs / "100_1_0_log.out")
    (without,) = json.loads(hpcseg(failed, "logs", failed.cells[2].id, "--json").stdout)["cells"]
    assert without["log"] is None and without["lines"] == []
    assert hpcseg(failed, "logs", first, "--follow", "--json").exit_code == 2


def test_where_slurm_is_silent_cancel_still_ends_what_was_handed_out(failed, slurm):
    slurm.silent()
    said = hpcseg(failed, "cancel", "*")
    assert said.exit_code == 0, said.output
    assert {word for word in (slurm.folder / "cancelled").read_text().split() if "_" in word} == {
        f"100_{task}" for task in range(4)
    }


def test_trying_again_leaves_the_plan_of_the_run_as_it_is(failed):
    before = failed.run.grid_file.read_bytes(), failed.run.grid_file.stat().st_mtime_ns
    assert hpcseg(failed, "retry", failed.cells[0].id).exit_code == 0
    assert (failed.run.grid_file.read_bytes(), failed.run.grid_file.stat().st_mtime_ns) == before


def test_an_error_is_no_object(failed):
    said = hpcseg(failed, "cancel", "nothing*", "--json")
    assert (said.exit_code, said.stdout) == (2, "") and said.stderr.startswith("error: ")


def test_clean_removes_old_leftovers_and_no_result_no_last_log_and_nothing_of_a_running_job(failed):
    logs, cell = failed.run.logs, failed.cells[0].folder
    kept = [logs / "100_0_0_log.out", logs / "100_1_submitted.pkl", cell.config_file, cell.events_file]
    gone = [
        logs / "99_0_log.out",
        logs / "99_submitted.pkl",
        logs / "submission_file_ab.sh",
        cell.path / ".a.12345678.tmp",
    ]
    for path in (*kept, *gone):
        path.touch()
        os.utime(path, (0, 0))
    young = logs / "98_submitted.pkl"
    young.touch()
    assert "Would remove" in hpcseg(failed, "clean", "--dry-run").output and all(path.exists() for path in gone)
    before = {path for path in Path(failed.run.path).rglob("*") if path.is_file()}
    assert hpcseg(failed, "clean").exit_code == 0
    assert before - {path for path in Path(failed.run.path).rglob("*") if path.is_file()} == set(gone)
    assert young.exists()


def test_clean_takes_checkpoints_only_where_the_evaluation_is_finished(failed):
    done, under_way = failed.cells[2], failed.cells[3]
    for cell in (done, under_way):
        trained(cell.folder)
        for name in CHECKPOINTS:
            (cell.folder.path / name).touch()
            os.utime(cell.folder.path / name, (0, 0))
    write_json(done.folder.evaluation_file, {"settings": dataclasses.asdict(done.config.evaluate)})
    assert hpcseg(failed, "clean").exit_code == 0
    assert not any((done.folder.path / name).exists() for name in CHECKPOINTS)
    assert all((under_way.folder.path / name).exists() for name in CHECKPOINTS)
    assert hpcseg(failed, "clean").exit_code == 0, "there is none any more"


def test_clean_of_one_cell_takes_nothing_that_another_shares(failed, slurm):
    slurm.queue()
    ledger.book(failed.run, "", "cells", [[failed.cells[0].id]], "200")
    ledger.book(failed.run, "", "cells", [[cell.id] for cell in failed.cells[:2]], "300")
    logs, temporary = failed.run.logs, ".a.12345678.tmp"
    gone = [logs / "100_0_submitted.pkl", logs / "200_0_log.out", failed.cells[0].folder.path / temporary]
    kept = [
        logs / "100_1_submitted.pkl", logs / "100_submitted.pkl", logs / "99_0_log.out", logs / "300_0_0_log.out",
        failed.cells[1].folder.path / temporary,
    ]  # fmt: skip
    for path in (*kept, *gone):
        path.touch()
        os.utime(path, (0, 0))
    said = json.loads(hpcseg(failed, "clean", failed.cells[0].id, "--json").stdout)
    assert set(said["files"]) == {str(path) for path in gone}
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)


def test_clean_does_not_guess_where_slurm_is_silent(failed, slurm):
    slurm.silent()
    assert hpcseg(failed, "clean").exit_code == 4


def test_who_watches_asks_slurm_twice_a_minute_and_once_of_what_has_ended(failed, slurm, monkeypatch):
    """Ten minutes in which one cell has failed and the others run."""
    tasks = range(len(failed.cells))
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in tasks[1:]))
    slurm.command("squeue", "echo >> asked_squeue; cat queue")
    ends = "\\n".join(f"100_{task}|FAILED|n1|1:0" for task in tasks)
    slurm.command("sacct", f"echo >> asked_sacct; printf '{ends}\\n'")
    clock = SimpleNamespace(now=1000.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1600:
            (slurm.folder / "queue").write_text("")

    ticks = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr("hpcseg.cli.watching.time", ticks)
    monkeypatch.setattr("hpcseg.cluster.remembered.time", ticks)
    looked: list[float] = []
    look = states.run_status
    monkeypatch.setattr(states, "run_status", lambda *asked: (looked.append(clock.now), look(*asked))[1])
    hpcseg(failed, "status", "--watch")
    assert 1600 < clock.now < 1650 and len(looked) > 100, "files are looked at every five seconds"
    assert len((slurm.folder / "asked_squeue").read_text()) <= 600 / 30 + 3
    assert len((slurm.folder / "asked_sacct").read_text()) == 2, "of the first, and of those that ended last"


def test_a_watch_ends_well_where_every_cell_that_was_asked_for_is_finished(failed, slurm):
    slurm.queue()
    for index in range(len(failed.cells)):
        train(failed, index)
        evaluate(failed, index)
    assert hpcseg(failed, "status", "--watch").exit_code == 0
    failed.cells[0].folder.evaluation_file.unlink()
    assert hpcseg(failed, "status", "--watch", failed.cells[1].id).exit_code == 0
    assert hpcseg(failed, "status", "--watch").exit_code == 1


def test_status_can_be_watched_until_nothing_runs_any_more(failed, slurm):
    slurm.queue()
    said = hpcseg(failed, "status", "--watch")
    assert said.exit_code == 1, "a script that waits for the models is to know that there are none"
    assert "2 cancelled, 2 failed" in said.output and "hpcseg retry" in said.output
