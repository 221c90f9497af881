"""A run folder that was copied, moved or is reached by a link while its jobs are in the queue."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_slurm import FakeSlurm, send
from finished_cells import beat
from slice_folder import hpcseg

from hpcseg.cluster import ledger
from hpcseg.cluster.ledger_place import tag
from hpcseg.cluster.missing import find_missing
from hpcseg.cluster.sender import tidy_up
from hpcseg.cluster.states import run_status
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, read_grid
from hpcseg.runs.record import append_event


@pytest.fixture
def submitted(grid, slurm) -> Grid:
    """Both cells run in one array, 100, behind which 101 is the report."""
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1", "101|PENDING|Dependency|")
    return grid


def copied(grid: Grid) -> RunFolder:
    there = grid.run.path.with_name("copy")
    shutil.copytree(grid.run.path, there)
    return RunFolder(there)


def moved(grid: Grid) -> RunFolder:
    return RunFolder(grid.run.path.rename(grid.run.path.with_name("moved")))


def cancelled(slurm: FakeSlurm) -> list[str]:
    file = slurm.folder / "cancelled"
    return file.read_text().split()[1:] if file.exists() else []


def without_paths(run: RunFolder) -> None:
    """As an earlier hpcseg has written the ledger."""
    lines = [json.loads(line) for line in run.submissions_file.read_text().splitlines()]
    for line in lines:
        del line["run"]
    run.submissions_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_jobs_of_a_copied_run_are_not_the_copys_and_not_ended_by_it(submitted, slurm):
    copy = copied(submitted)
    found = run_status(copy)
    assert [(cell.state, cell.job_id) for cell in found.status] == [("missing", None)] * 2
    (note,) = found.notes
    assert f"is a copy of {submitted.run.path}" in note and "(100, 101)" in note
    assert "None of these cells waits or runs" in hpcseg("cancel", "--run", copy.path).stdout
    assert cancelled(slurm) == []
    assert len(find_missing(read_grid(copy), resubmit=False).cells) == 2, "it may run cells of its own"
    assert [cell.state for cell in run_status(submitted.run).status] == ["running"] * 2
    assert hpcseg("cancel", "--run", submitted.run.path).exit_code == 0
    assert set(cancelled(slurm)) == {"100_0", "100_1", "101"}


def test_what_a_copy_has_submitted_itself_is_its_own(submitted, slurm):
    copy = copied(submitted)
    send(read_grid(copy))
    slurm.queue(*(f"{job}_{task}|RUNNING|None|n1" for job in (100, 102) for task in (0, 1)), "103|PENDING|Dependency|")
    assert [(cell.state, cell.job_id) for cell in run_status(copy).status] == [("running", f"102_{i}") for i in (0, 1)]
    assert [cell.tries for cell in run_status(copy).status] == [1, 1]
    assert hpcseg("cancel", "--run", copy.path).exit_code == 0
    assert set(cancelled(slurm)) == {"102_0", "102_1", "103"}


def test_a_heartbeat_that_was_copied_is_none_of_the_copys(submitted):
    folder = submitted.cells[0].folder
    append_event(folder.events_file, "start")
    beat(folder, job_id="100_0")
    assert run_status(submitted.run).status[0].state == "running"
    assert run_status(copied(submitted)).status[0].state == "stopped"


def test_an_announcement_that_was_copied_is_taken_back_by_nobody(submitted, slurm):
    token = ledger.announce(submitted.run, "cells", [[cell.id] for cell in submitted.cells])
    slurm.queue(f"300|{token}")
    tidy_up(copied(submitted))
    assert cancelled(slurm) == []
    tidy_up(submitted.run)
    assert cancelled(slurm) == ["300"]


@pytest.mark.parametrize("path", ["known", "not known"])
def test_a_moved_run_keeps_sight_of_its_jobs_and_leaves_their_end_to_the_user(submitted, slurm, path):
    before, run = submitted.run.path, moved(submitted)
    if path == "not known":
        without_paths(run)
    found = run_status(run)
    assert [(cell.state, cell.job_id) for cell in found.status] == [("running", "100_0"), ("running", "100_1")]
    (note,) = found.notes
    assert "was moved or copied" in note and "`scancel 100 101`" in note
    assert (str(before) in note) == (path == "known")
    said = hpcseg("cancel", "--run", run.path)
    assert said.exit_code == 4 and "`scancel 100_0 100_1 101`" in said.stderr
    assert cancelled(slurm) == []
    assert find_missing(read_grid(run), resubmit=False).cells == [], "nothing is doubled"


def test_a_copy_by_an_earlier_hpcseg_ends_nothing_either(submitted, slurm):
    copy = copied(submitted)
    without_paths(copy)
    assert hpcseg("cancel", "--run", copy.path).exit_code == 4
    assert cancelled(slurm) == []


def test_a_run_that_is_reached_by_a_link_or_left_one_behind_keeps_its_jobs(submitted, slurm, tmp_path):
    (tmp_path / "link").symlink_to(submitted.run.path)
    assert tag(RunFolder(tmp_path / "link")) == tag(submitted.run)
    run = moved(submitted)
    submitted.run.path.symlink_to(run.path)
    assert run_status(run).notes == ()
    assert hpcseg("cancel", "--run", run.path).exit_code == 0
    assert set(cancelled(slurm)) == {"100_0", "100_1", "101"}


def test_what_the_report_job_submits_on_a_node_that_has_another_name_for_the_folder_is_the_runs_own(grid, slurm):
    here = str(grid.run.path.parent)
    send(grid, paths=(f"{here}=/cluster/home/ann",))
    lines = grid.run.submissions_file.read_text()
    # Submitted on a node, and read here; the tokens are of its name of the folder.
    for name, moved in (("/cluster/home/ann/run", False), ("/cluster/home/eve/run", True)):
        changed = lines.replace(f'"run": "{grid.run.path}"', f'"run": "{name}"')
        grid.run.submissions_file.write_text(changed.replace(tag(grid.run), "hpcseg-00000000-"))
        found = ledger.read(grid.run)
        assert bool(found.moved) == moved and [job.job_id for job in found.handed] == ["100_0", "100_1"]
