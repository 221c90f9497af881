"""What jobs asked for last, by which the next try goes: it follows what is booked, and no call that books nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import booked, resources, send

from hpcseg.cluster import ledger
from hpcseg.cluster.submit import submit_missing
from hpcseg.cluster.submit_with import submit_missing_with
from hpcseg.cluster.template import read_template
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import Grid
from hpcseg.runs.record import read_json

REFUSES = 'echo "sbatch: error: invalid partition specified: nosuch" >&2; exit 1'
TEMPLATE = "#HPCSEG submit = qsub {script}\nmem={memory_gib}\n{command}\n"


def written(grid: Grid) -> dict[str, bytes]:
    """The files that a submission leaves for the next."""
    files = (grid.run.grid_file, grid.run.resources_file, grid.run.template_file)
    return {file.name: file.read_bytes() for file in files if file.exists()}


def test_a_call_that_submits_nothing_changes_nothing_of_what_retries_ask_for(slurm, grid):
    send(grid, partition="gpu", mem=3.0, time=120)
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in (0, 1)), "101|PENDING|Dependency|")
    before = written(grid)
    assert send(grid, partition="nosuch")[-1] == "Nothing to submit."
    assert send(grid)[-1] == "Nothing to submit."
    assert written(grid) == before


@pytest.mark.parametrize("first", [True, False], ids=["of a new run", "of a run that was submitted before"])
def test_a_refused_submission_changes_nothing_of_what_retries_ask_for(slurm, grid, first):
    if not first:
        send(grid, partition="gpu", mem=3.0)
        slurm.queue()
    before, jobs = written(grid), booked(grid)
    slurm.command("sbatch", REFUSES)
    for only in (None, {grid.cells[0].id}):
        with pytest.raises(SchedulerError, match="invalid partition"):
            submit_missing(grid, resources(grid, partition="nosuch"), dry_run=False, resubmit=False, only=only)
        assert written(grid) == before and booked(grid) == jobs
        assert not ledger.read(grid.run).unanswered, "nothing of it is in the queue"


def test_a_plan_of_other_cells_that_sbatch_refuses_is_put_back(slurm, grid):
    send(grid)
    slurm.queue()
    before = written(grid)
    slurm.command("sbatch", REFUSES)
    fewer = Grid(grid.run, grid.job, grid.data_file, grid.data_sha256, grid.numerics, grid.cells[:1])
    with pytest.raises(SchedulerError):
        send(fewer)
    assert written(grid) == before


def test_where_there_was_no_room_the_plan_stays_and_what_is_asked_for_is_that_of_before(slurm, grid):
    slurm.command("sbatch", 'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1')
    send(grid, mem=3.0)
    assert list(written(grid)) == ["grid.json"]


def test_what_was_refused_behind_an_array_that_was_taken_is_of_that_array(slurm, grid):
    slurm.command("scontrol", 'echo "MaxArraySize = 1"')
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    slurm.command("sbatch", f"if [ -e 100.script ]; then {REFUSES}; fi\n{sbatch}")
    with pytest.raises(SchedulerError):
        send(grid, mem=3.0)
    assert [job for _, _, job in booked(grid)] == ["100"]
    assert read_json(grid.run.resources_file)["memory_gib"] == 3


def test_where_sbatch_has_not_answered_its_job_finds_what_it_asked_for(slurm, grid):
    slurm.command("sbatch", "echo hello")
    with pytest.raises(SchedulerError, match="did not name the job"):
        send(grid, mem=3.0)
    assert ledger.read(grid.run).unanswered and set(written(grid)) == {"grid.json", "resources.json"}


def test_a_refused_job_by_a_template_changes_neither_the_template_nor_what_is_asked_for(slurm, grid, tmp_path: Path):
    job = tmp_path / "mine.sh"
    job.write_text(TEMPLATE)

    def submit(mem: float) -> None:
        submit_missing_with(read_template(job), grid, resources(grid, mem=mem), dry_run=False, resubmit=True)

    slurm.command("qsub", "echo no >&2; exit 1")
    with pytest.raises(SchedulerError, match="Submitted before it: 0 of 2"):
        submit(3.0)
    assert written(grid) == {}
    slurm.command("qsub", "echo x >> sent; wc -l < sent")
    submit(3.0)
    before = written(grid)
    assert set(before) == {"grid.json", "resources.json", "template.sh"}
    slurm.command("qsub", "echo no >&2; exit 1")
    job.write_text(f"# another\n{TEMPLATE}")
    with pytest.raises(SchedulerError):
        submit(4.0)
    assert written(grid) == before


def test_a_report_job_that_is_gone_is_submitted_again_where_cells_are_under_way(slurm, grid):
    send(grid, partition="gpu")
    running = [f"100_{task}|RUNNING|None|n1" for task in (0, 1)]
    slurm.queue(*running, "101|PENDING|Dependency|")
    assert send(grid)[-1] == "Nothing to submit.", "it waits"
    slurm.queue(*running)
    before = written(grid)
    assert send(grid, dry_run=True)[2] == "  report: job <id of hpcseg-smoke-report>"
    assert "  report: job 102" in send(grid, mem=9.0)
    assert slurm.options("dependency")[-1] == "afterany:100" and slurm.options("partition")[-1] == "gpu"
    assert written(grid) == before
    slurm.queue(*running, "102|PENDING|Dependency|")
    assert send(grid)[-1] == "Nothing to submit."
    slurm.silent()
    assert send(grid)[-1] == "Nothing to submit.", "it may wait"


def test_a_report_job_behind_new_cells_waits_for_those_whose_own_is_gone(slurm, grid):
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1")
    send(grid)
    assert slurm.options("dependency")[-1] == "afterany:100:102"


def full_behind_one(slurm) -> str:
    """From now on sbatch takes one array and has no room for more; the sbatch that has."""
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    full = 'if [ -e 100.script ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi\n'
    slurm.command("sbatch", full + sbatch)
    return sbatch


def test_where_there_was_no_room_for_the_report_the_next_call_submits_it(slurm, grid):
    sbatch = full_behind_one(slurm)
    said = send(grid, cells_per_job=2)
    assert said[-3] == "Submitted 1 job." and said[-1] == "Run `hpcseg grid` again when there is some."
    slurm.queue("100|RUNNING|None|n1")
    assert send(grid)[-1] == "Run `hpcseg grid` again when there is some."
    slurm.command("sbatch", sbatch)
    assert "  report: job 101" in send(grid)


def test_where_the_room_that_was_made_for_the_report_is_gone_the_call_says_what_to_do(slurm, grid):
    sbatch = full_behind_one(slurm)
    said = send(grid)
    assert said[-3] == "Nothing to submit." and said[-1] == "Run `hpcseg grid` again when there is some."
    slurm.command("sbatch", sbatch)
    assert send(grid)[-1] == "Submitted 3 jobs."


def test_what_the_report_job_asks_for_is_its_own_need_and_not_that_of_a_cell(slurm, grid):
    send(grid, mem=0.06, time=6000)
    assert slurm.options("mem") == ["62M", "2048M"] and slurm.options("time") == ["6000", "30"]
