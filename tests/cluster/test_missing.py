"""What a second `hpcseg grid` submits, and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator

import finished_cells
import pytest
from fake_slurm import booked, evaluate, resources, send, train
from slice_folder import hpcseg

from hpcseg.cluster import ledger, worker
from hpcseg.cluster.missing import find_missing
from hpcseg.cluster.submit import submit_missing
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import Cell, Grid, write_plan
from hpcseg.runs.record import append_event, write_json
from hpcseg.runs.wish import is_left_out, leave_out


def test_a_second_call_submits_nothing_while_the_first_runs(slurm, grid):
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "101|PENDING|Dependency|")
    said = send(grid)
    assert said[-1] == "Nothing to submit." and len(slurm.scripts()) == 2
    assert any("job 100_1, queued" in line for line in said)


def test_a_state_that_slurm_invents_is_not_taken_for_dead(slurm, grid):
    send(grid)
    slurm.queue(*(f"100_{task}|SPECIAL_EXIT|None|" for task in (0, 1)), "101|PENDING|Dependency|")
    assert send(grid)[-1] == "Nothing to submit."


def test_where_slurm_is_silent_nothing_is_submitted_twice_unless_told_so(slurm, grid):
    send(grid)
    slurm.silent()
    said = send(grid)
    assert said[-1] == "Nothing to submit." and "--resubmit" in said[0] and len(slurm.scripts()) == 2
    assert send(grid, resubmit=True)[-1] == "Submitted 3 jobs."


def test_what_died_is_submitted_again_and_what_runs_is_not(slurm, grid):
    send(grid)
    slurm.queue("100_1|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert [job_id for _, _, job_id in booked(grid)][3:] == ["102", "103"]


@pytest.mark.parametrize("told", [{"time": 1}, {"time": -60, "job_id": "100"}], ids=["later", "by a clock behind"])
def test_a_cell_that_failed_in_a_job_which_goes_on_with_others_may_be_submitted_again(slurm, grid, told):
    send(grid, cells_per_job=2)
    slurm.queue("100|RUNNING|None|n1", "101|PENDING|Dependency|")
    failed = grid.cells[0]
    write_json(failed.folder.failure_file, {"error": "ValueError: no", "time": time.time() - 3600})
    assert send(grid)[-1] == "Nothing to submit.", "what failed before may be what it works at"
    told = {**told, "time": time.time() + told["time"]}
    write_json(failed.folder.failure_file, {"error": "ValueError: no", **told})
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert [cell for _, cell, _ in booked(grid)][3:] == [failed.id, "all"]


@pytest.mark.parametrize(
    ("script", "comment", "ours"),
    [
        ("/home/ann/other.sh", "(null)", False),
        ("(null)", "(null)", False),
        ("/other/logs/.submission_file_1.sh", "hpcseg-0-1", False),
        ("/here/logs/.submission_file_1.sh", "the filter's", True),
        ("/other/place.sh", "TOKEN", True),
    ],
)
def test_a_job_that_has_come_to_a_number_of_ours_is_another(slurm, grid, script, comment, ours):
    send(grid)
    said = comment.replace("TOKEN", next(iter(ledger.read(grid.run).tokens)))
    slurm.queue(*(f"{job}|RUNNING|None|n1|{script}|{said}" for job in ("100_0", "100_1", "101")))
    assert find_missing(grid, resubmit=False).cells == ([] if ours else [*grid.cells])
    assert hpcseg("cancel", "--run", grid.run.path).exit_code == 0
    assert (slurm.folder / "cancelled").exists() == ours


def test_a_cell_that_a_job_was_told_to_leave_out_may_be_submitted_again(slurm, grid):
    send(grid, cells_per_job=2)
    slurm.queue("100|RUNNING|None|n1", "101|PENDING|Dependency|")
    unwanted = grid.cells[1]
    ledger.book_cancelled(grid.run, [unwanted.id])
    assert send(grid)[-1] == "Nothing to submit.", "its job has not been told, so scancel may have failed"
    leave_out(unwanted.folder, "100")
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert [cell for _, cell, _ in booked(grid)][3:] == [unwanted.id, "all"]


def test_a_trained_cell_is_submitted_for_its_evaluation_and_a_finished_one_is_not(slurm, grid):
    train(grid, 0)
    train(grid, 1)
    evaluate(grid, 1)
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert [cell for _, cell, _ in booked(grid)] == [grid.cells[0].id, "all"]


def test_a_call_that_was_cut_off_before_the_report_is_repaired_by_the_next(slurm, grid):
    slurm.command("sbatch", slurm.folder.joinpath("sbatch").read_text().replace("id=", "ls *.script && exit 0; id="))
    with pytest.raises(SchedulerError):
        send(grid)
    assert len(slurm.scripts()) == 1, "the cells were accepted, and of the report nobody knows"
    slurm.accept()
    slurm.queue("100_0|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert slurm.options("dependency")[1:] == [None, "afterany:100:101"]


def test_what_an_earlier_hpcseg_submitted_by_stages_is_known(slurm, grid):
    """Jobs of their own for trainings and for the evaluations behind them."""
    write_plan(grid)
    for stage, job in (("train", "90"), ("evaluate", "91")):
        ledger.book(grid.run, "", stage, [[cell.id] for cell in grid.cells], job)
    ledger.book(grid.run, "", "report", [], "92")
    waiting = [f"{job}|PENDING|Dependency|" for job in ("91_0", "91_1", "92")]
    slurm.queue("90_0|RUNNING|None|n1", *waiting)
    assert send(grid)[-1] == "Nothing to submit."
    assert set(ledger.read(grid.run).tries.values()) == {1}


def test_a_finished_grid_needs_no_jobs(slurm, grid):
    for index in (0, 1):
        train(grid, index)
        evaluate(grid, index)
    assert send(grid)[-1] == "Nothing to submit."
    assert slurm.scripts() == []


def test_only_some_cells_may_be_asked_for(slurm, grid):
    write_plan(grid)
    submission = submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={grid.cells[1].id})
    assert [sent.tasks for sent in submission.sent] == [((grid.cells[1].id,),), ()]


@contextlib.contextmanager
def local_process(grid: Grid, *cells: Cell) -> Iterator[subprocess.Popen[bytes]]:
    """A job of these cells on this machine, as submitit starts it, which has taken no step yet."""
    ids = [cell.id for cell in cells]
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "submitit.local._local"]
    told = {"SUBMITIT_LOCAL_COMMAND": shlex.join(worker.command(grid.run, ids))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, **told}) as process:
        process.stdout.readline()
        ledger.book_local(grid.run, ids, str(process.pid))
        yield process
        process.communicate()


def beat(cell: Cell, *, host: str, pid: int = 1, age: float = 0.0, job_id: str | None = None) -> None:
    append_event(cell.folder.events_file, "start")
    finished_cells.beat(cell.folder, age=age, host=host, pid=pid, job_id=job_id)


def test_a_cell_that_a_process_of_this_machine_has_is_not_submitted(slurm, grid):
    write_plan(grid)
    with local_process(grid, *grid.cells) as process:
        told = send(grid)
        assert [line for line in told if f"process {process.pid} on" in line and "running" in line] == told[:2]
        assert slurm.scripts() == []
    send(grid)
    assert len(slurm.scripts()) == 2, "the process has ended"


def test_a_cell_whose_heart_beats_on_another_host_is_not_submitted_nor_what_waits_behind_it(slurm, grid):
    write_plan(grid)
    ledger.book_local(grid.run, [cell.id for cell in grid.cells], "4711")
    line = json.loads(grid.run.submissions_file.read_text())
    grid.run.submissions_file.write_text(json.dumps({**line, "host": "n9"}) + "\n")
    beat(grid.cells[0], host="n9")
    assert send(grid)[:2] == [f"  {cell.id}: process 4711 on n9, running" for cell in grid.cells]
    beat(grid.cells[0], host="n9", age=600)
    send(grid)
    assert len(slurm.scripts()) == 2, "its heart has stopped"


def test_a_cell_of_which_the_ledger_knows_nothing_is_left_to_the_process_that_has_it(slurm, grid):
    """By `hpcseg train`, under torchrun or in a job of the user's own."""
    write_plan(grid)
    beat(grid.cells[0], host="n9", pid=7)
    beat(grid.cells[1], host="n9", pid=8, job_id="555")
    assert [line.split(": ")[1] for line in send(grid)[:2]] == [f"process {pid} on n9, running" for pid in (7, 8)]
    assert slurm.scripts() == []


def test_an_earlier_job_that_slurm_shows_again_keeps_its_cell(slurm, grid):
    send(grid)
    slurm.silent()
    send(grid, resubmit=True)
    slurm.command("scontrol", 'echo "MaxArraySize = 1001"')
    slurm.queue("100_0|RUNNING|None|n1")
    told = send(grid)
    assert told[0].endswith("job 100_0, running") and "Submitted 2 jobs." in told, "cell 1 alone, and a report"


def test_cancel_ends_the_process_of_this_machine_and_the_job_in_slurm(slurm, grid):
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1")
    cell = grid.cells[0]
    with local_process(grid, cell) as process:
        send(grid)  # writes nothing for it
        ledger.book(grid.run, "", "cells", [[cell.id]], "300")
        slurm.queue("100_0|RUNNING|None|n1", "300|PENDING|None|")
        told = hpcseg("cancel", cell.id, "--run", grid.run.path).stdout
        assert f"job 300, and process {process.pid} on this machine, and job 100_0" in " ".join(told.split())
        assert set((slurm.folder / "cancelled").read_text().split()) == {"--quiet", "100_0", "300"}
        assert is_left_out(cell.folder, str(process.pid)), "by which it stops with a checkpoint"


def test_cancel_says_of_a_cell_in_slurm_that_runs_on_another_host_as_well_what_is_left_to_do(slurm, grid):
    send(grid)
    slurm.queue("100_0|PENDING|None|")
    beat(grid.cells[0], host="n9", pid=7)
    told = " ".join(hpcseg("cancel", grid.cells[0].id, "--run", grid.run.path).stdout.split())
    assert "job 100_0, and runs on n9 as process 7, and has to be ended there" in told
