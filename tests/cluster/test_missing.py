"""What a second `hpcseg grid` submits, and what it leaves alone."""

from __future__ import annotations

import time

import pytest
from fake_slurm import booked, evaluate, resources, send, train

from hpcseg.cluster import ledger
from hpcseg.cluster.submit import submit_missing
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import write_plan
from hpcseg.runs.record import write_json
from hpcseg.runs.wish import leave_out


def test_a_second_call_submits_nothing_while_the_first_runs(slurm, grid):
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1", "100_1|PENDING|Resources|")
    said = send(grid)
    assert said[-1] == "Nothing to submit." and len(slurm.scripts()) == 2
    assert any("job 100_1, queued" in line for line in said)


def test_a_state_that_slurm_invents_is_not_taken_for_dead(slurm, grid):
    send(grid)
    slurm.queue(*(f"100_{task}|SPECIAL_EXIT|None|" for task in (0, 1)))
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


def test_a_cell_that_failed_in_a_job_which_goes_on_with_others_may_be_submitted_again(slurm, grid):
    send(grid, cells_per_job=2)
    slurm.queue("100|RUNNING|None|n1")
    failed = grid.cells[0]
    write_json(failed.folder.failure_file, {"error": "ValueError: no", "time": time.time() - 3600})
    assert send(grid)[-1] == "Nothing to submit.", "what failed before may be what it works at"
    write_json(failed.folder.failure_file, {"error": "ValueError: no", "time": time.time() + 1})
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert [cell for _, cell, _ in booked(grid)][3:] == [failed.id, "all"]


def test_a_cell_that_a_job_was_told_to_leave_out_may_be_submitted_again(slurm, grid):
    send(grid, cells_per_job=2)
    slurm.queue("100|RUNNING|None|n1")
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
    assert slurm.options("dependency")[1:] == [None, "afterany:101"]


def test_what_an_earlier_hpcseg_submitted_by_stages_is_known(slurm, grid):
    """Jobs of their own for trainings and for the evaluations behind them."""
    write_plan(grid)
    for stage, job in (("train", "90"), ("evaluate", "91")):
        ledger.book(grid.run, "", stage, [[cell.id] for cell in grid.cells], job)
    slurm.queue("90_0|RUNNING|None|n1", "91_0|PENDING|Dependency|", "91_1|PENDING|Dependency|")
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
