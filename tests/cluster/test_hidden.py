"""What Slurm does not show is not taken for ended, and what is not known to be gone is not submitted again.

The answers are those of Slurm 22.05 with PrivateData=jobs, and with commands that fail.
"""

from __future__ import annotations

import json
import pickle
import shlex
import time

import pytest
import submitit
from fake_slurm import FakeSlurm, booked, resources, send
from finished_cells import beat

from hpcseg.cluster import ledger
from hpcseg.cluster.failures import diagnose
from hpcseg.cluster.logs import find_logs, mark
from hpcseg.cluster.states import run_status
from hpcseg.cluster.submit import submit_missing
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import Grid, write_plan
from hpcseg.runs.record import append_event, write_json

NO_WORD = "true"


def of_a_colleague(grid: Grid) -> None:
    """The same run, as if somebody else had submitted it."""
    lines = [json.loads(line) for line in grid.run.submissions_file.read_text().splitlines()]
    changed = [{**line, "user": "ann"} if line["event"] == "submitted" else line for line in lines]
    grid.run.submissions_file.write_text("".join(f"{json.dumps(line)}\n" for line in changed))


def private(slurm: FakeSlurm, words: str = "jobs,usage") -> None:
    slurm.command("scontrol", f'test "$2" = config || exit 1; echo "PrivateData             = {words}"')


@pytest.fixture
def colleagues(slurm, grid) -> Grid:
    """Of jobs that squeue and sacct do not show."""
    send(grid)
    of_a_colleague(grid)
    private(slurm)
    return grid


def test_a_job_that_is_kept_private_is_neither_dead_nor_submitted_again(slurm, colleagues):
    status = run_status(colleagues.run)
    assert [cell.state for cell in status.status] == ["unknown", "unknown"] and not status.failures
    assert "another user's" in status.status[0].note and "PrivateData" in status.status[0].note
    said = send(colleagues)
    assert said[-1] == "Nothing to submit." and "--resubmit" in said[0] and len(slurm.scripts()) == 2
    assert send(colleagues, resubmit=True)[-1] == "Submitted 3 jobs."


def test_of_a_private_job_files_and_accounting_are_believed(slurm, colleagues):
    first, second = (cell.folder for cell in colleagues.cells)
    append_event(first.events_file, "start")
    beat(first, job_id="100_0")
    write_json(second.failure_file, {"error": "ValueError: no", "rank": 0, "time": time.time()})
    assert [cell.state for cell in run_status(colleagues.run).status] == ["running", "failed"]
    slurm.command("sacct", 'echo "100_0|NODE_FAIL|n1"')
    assert run_status(colleagues.run).status[0].state == "stopped"


@pytest.mark.parametrize("words", ["none", "usage,users"])
def test_where_others_jobs_are_shown_one_that_is_absent_is_gone(slurm, colleagues, words):
    private(slurm, words)
    assert send(colleagues)[-1] == "Submitted 3 jobs."


def test_what_accounting_has_no_word_of_is_gone_only_where_the_controller_says_so(slurm, grid):
    send(grid)
    slurm.silent()
    slurm.command("sacct", NO_WORD)
    assert send(grid)[-1] == "Nothing to submit."
    assert "sacct has no word of it" in run_status(grid.run).status[0].note
    slurm.command("scontrol", NO_WORD)
    assert send(grid)[-1] == "Submitted 3 jobs."


def test_a_job_that_sbatch_may_have_taken_is_not_submitted_again_while_nobody_tells(slurm, grid):
    write_plan(grid)
    token = ledger.announce(grid.run, "cells", [[cell.id] for cell in grid.cells])
    slurm.silent()
    said = send(grid)
    assert said[-1] == "Nothing to submit." and "has not answered" in said[0] and "--resubmit" in said[0]
    # squeue stays silent, and scontrol shows it.
    slurm.command(
        "scontrol",
        f'echo "JobId=91 ArrayJobId=90 ArrayTaskId=0 UserId=$(id -un)(0) JobState=PENDING Comment={token} Command=/a"\n'
        f'echo "JobId=80 UserId=$(id -un)(0) JobState=COMPLETED Comment={token} Command=/a"',
    )
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"


def test_a_job_whose_comment_a_filter_has_changed_is_known_by_its_script(slurm, grid):
    """sbatch takes the array, and its answer gets lost."""
    took = slurm.folder.joinpath("sbatch").read_text()
    slurm.command(
        "sbatch",
        'echo "90|charged to physics|$1" >> queue\n'
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1',
    )
    with pytest.raises(SchedulerError, match="sbatch does not answer"):
        send(grid)
    assert len((slurm.folder / "queue").read_text().splitlines()) == 1, "it is not tried again"
    (slurm.folder / "sbatch").write_text(took)
    with pytest.raises(SchedulerError, match="`scancel 90`"):
        send(grid)
    assert not booked(grid) and not (slurm.folder / "cancelled").exists()
    # Those of other runs are others' business, and booked ones are no strangers.
    slurm.queue("90|charged to physics|/elsewhere/logs/.submission_file_1.sh|")
    assert send(grid)[-1] == "Submitted 3 jobs."
    slurm.queue(*(f"{job}|charged to physics|{grid.run.logs.resolve()}/.submission_file_1.sh|" for job in (100, 101)))
    assert "Submitted 3 jobs." in send(grid)


def test_a_job_that_slurm_did_not_let_back_into_the_queue_is_worth_a_try(grid):
    cell = grid.cells[0]
    append_event(cell.folder.events_file, "start")
    grid.run.logs.mkdir(parents=True)
    # As submitit's log has it, of a job whose scontrol failed.
    (grid.run.logs / "100_0_log.out").write_text(
        f"{mark(cell.id, 'train')}\n{mark(cell.id, 'stopped')}\n"
        "submitit WARNING (2026-11-28 13:00:00,000) - Caught signal SIGUSR2 on n1: this job is preempted.\n"
        "subprocess.CalledProcessError: Command '['scontrol', 'requeue', '100']' returned non-zero exit status 1.\n"
    )
    failure = diagnose(cell, "100", None, cancelled=False, logs=find_logs(grid.run.logs))
    assert failure.kind.name == "not requeued" and failure.kind.action == "resume"


def test_nodes_that_see_the_run_elsewhere_get_its_name_there(slurm, grid, tmp_path):
    setup = f"source {tmp_path}/site.sh", f"ls {tmp_path}-old /x{tmp_path}"
    asked = resources(grid, paths=(f"{tmp_path}=/cluster/home/ann",), setup=setup)
    shown = submit_missing(grid, asked, dry_run=True, resubmit=False).scripts
    submit_missing(grid, asked, dry_run=False, resubmit=False)
    for script in (*shown, *slurm.scripts()):
        assert "source /cluster/home/ann/site.sh" in script
        assert f"ls {tmp_path}-old /x{tmp_path}" in script, "the beginning or the end of another path"
        assert str(tmp_path) not in script.replace(f"{tmp_path}-old /x{tmp_path}", "")
        assert "--output=/cluster/home/ann/run/logs/" in script
        assert shlex.split(script)[-1] == "/cluster/home/ann/run/logs"
    assert slurm.options("array") == ["0-1%2", None]
    tasks = [pickle.loads(path.read_bytes()) for path in sorted(grid.run.logs.glob("*_submitted.pkl"))]
    assert len(tasks) == 3 and all(isinstance(task, submitit.core.utils.DelayedSubmission) for task in tasks)
    assert {task.function.run for task in tasks} == {"/cluster/home/ann/run"}
    assert [stage for stage, *_ in booked(grid)] == ["cells", "cells", "report"]
    # A job that submits jobs is there already.
    assert asked.on_nodes("/cluster/home/ann/run") == "/cluster/home/ann/run"
