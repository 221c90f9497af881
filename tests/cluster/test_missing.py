"""What a second `hpcseg grid` submits, and what it leaves alone."""

from __future__ import annotations

import pytest
from fake_slurm import booked, evaluate, resources, send, train

from hpcseg.cluster.submit import submit_missing
from hpcseg.errors import SchedulerError


def test_a_second_call_submits_nothing_while_the_first_runs(slurm, grid):
    send(grid)
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "101_0|PENDING|Dependency|", "101_1|PENDING|Dependency|"
    )
    said = send(grid)
    assert said[-1] == "Nothing to submit." and len(slurm.scripts()) == 3
    assert any("evaluate is job 101_0, queued" in line for line in said)


def test_a_state_that_slurm_invents_is_not_taken_for_dead(slurm, grid):
    send(grid)
    slurm.queue(*(f"10{job}_{task}|SPECIAL_EXIT|None|" for job in (0, 1) for task in (0, 1)))
    assert send(grid)[-1] == "Nothing to submit."


def test_where_slurm_is_silent_nothing_is_submitted_twice_unless_told_so(slurm, grid):
    send(grid)
    slurm.silent()
    said = send(grid)
    assert said[-1] == "Nothing to submit." and "--resubmit" in said[0] and len(slurm.scripts()) == 3
    assert send(grid, resubmit=True)[-1] == "Submitted 5 jobs."


def test_what_died_is_submitted_again_and_what_runs_is_not(slurm, grid):
    send(grid)
    slurm.queue("100_1|RUNNING|None|n1", "101_1|PENDING|Dependency|")
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert [job_id for _, _, job_id in booked(grid)][5:] == ["103", "104", "105"]


def test_an_evaluation_that_waits_for_a_dead_training_holds_nothing_up(slurm, grid):
    send(grid)
    slurm.queue("101_0|PENDING|DependencyNeverSatisfied|", "101_1|PENDING|Dependency|")
    assert send(grid)[-1] == "Submitted 5 jobs."


def test_a_trained_cell_gets_its_evaluation_alone(slurm, grid):
    train(grid, 0)
    train(grid, 1)
    evaluate(grid, 1)
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert slurm.options("job-name") == ["hpcseg-smoke-evaluate", "hpcseg-smoke-report"]
    assert slurm.options("dependency") == [None, "afterany:100"]


def test_a_call_that_was_cut_off_between_two_arrays_is_repaired_by_the_next(slurm, grid):
    slurm.command("sbatch", slurm.folder.joinpath("sbatch").read_text().replace("id=", "ls *.script && exit 1; id="))
    with pytest.raises(SchedulerError):
        send(grid)
    assert len(slurm.scripts()) == 1, "the trainings were accepted, the evaluations were not"
    slurm.accept()
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert slurm.options("dependency")[1:] == ["aftercorr:100", "afterany:101"]
    tasks = {job_id: cell for _, cell, job_id in booked(grid)}
    assert [tasks[f"101_{task}"] for task in (0, 1)] == [tasks[f"100_{task}"] for task in (0, 1)]


def test_an_evaluation_is_put_behind_its_own_training_where_the_others_of_the_array_are_done(slurm, grid):
    send(grid)
    train(grid, 0)
    evaluate(grid, 0)
    lines = grid.run.submissions_file.read_text().splitlines(keepends=True)
    grid.run.submissions_file.write_text("".join(line for line in lines if '"stage": "train"' in line))
    slurm.queue("100_1|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert slurm.options("dependency")[3:] == ["afterok:100_1", "afterany:103"]


def test_a_finished_grid_needs_no_jobs(slurm, grid):
    for index in (0, 1):
        train(grid, index)
        evaluate(grid, index)
    assert send(grid)[-1] == "Nothing to submit."
    assert slurm.scripts() == []


def test_only_some_cells_may_be_asked_for(slurm, grid):
    submission = submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={grid.cells[1].id})
    assert [sent.cells for sent in submission.sent] == [(grid.cells[1].id,), (grid.cells[1].id,), ()]
