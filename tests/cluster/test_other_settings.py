"""A run whose job file was changed between two `hpcseg grid`: jobs of both settings are in the queue."""

from __future__ import annotations

import os
import re

import pytest
from fake_slurm import FakeSlurm, send
from slice_folder import hpcseg

from hpcseg.cluster.states import other_jobs, run_status
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.grid import Grid, plan, read_grid

BOTH = ("100_0|RUNNING|None|n1", "100_1|PENDING|Priority|", "101|PENDING|Dependency|")
ALL = (*BOTH, "102_0|PENDING|Priority|", "102_1|PENDING|Priority|", "103|PENDING|Dependency|")


@pytest.fixture
def older(grid, slurm) -> Grid:
    """Cells of earlier settings are the array 100 with the report 101; those of the last plan are 102 and 103."""
    send(grid)
    changed = plan(
        load_job(find_shipped("job", "smoke"), ["train.epochs=3"]), grid.run, grid.data_file, grid.data_sha256
    )
    send(changed)
    slurm.queue(*ALL)
    return grid


def cancelled(slurm: FakeSlurm) -> set[str]:
    file = slurm.folder / "cancelled"
    return set(re.findall(r"[\d_]+", file.read_text())) if file.exists() else set()


def test_status_shows_the_jobs_of_earlier_settings_as_long_as_they_wait_or_run(older, slurm):
    found = run_status(older.run)
    assert [(cell.job_id, cell.state) for cell in found.status] == [
        *(("102_0", "queued"), ("102_1", "queued")),
        *sorted((("100_0", "running"), ("100_1", "queued")), key=lambda job: older.cells[int(job[0][-1])].id),
    ]
    assert found.unplanned == {cell.id for cell in older.cells}
    assert [cell.note.startswith("of settings that the last `hpcseg grid`") for cell in found.status] == [False] * 2 + [
        True
    ] * 2
    assert hpcseg("status", older.cells[0].id, "--run", older.run.path).exit_code == 0
    slurm.queue(*ALL[3:])
    assert [cell.job_id for cell in run_status(older.run).status] == ["102_0", "102_1"]
    assert run_status(older.run).unplanned == frozenset()


def test_cancel_of_the_whole_run_ends_the_jobs_of_all_settings_and_all_reports(older, slurm):
    said = hpcseg("cancel", "--run", older.run.path)
    assert "Cancelled 4 cells" in said.stdout
    assert cancelled(slurm) == {"100_0", "100_1", "101", "102_0", "102_1", "103"}


def test_cancel_knows_a_cell_of_earlier_settings_by_a_pattern(older, slurm):
    assert hpcseg("cancel", older.cells[0].id[:-4] + "*", "--run", older.run.path).exit_code == 0
    assert cancelled(slurm) == {"100_0"}


def test_cancel_of_the_others_ends_what_the_last_grid_does_not_have(older, slurm):
    said = " ".join(hpcseg("cancel", "--others", "--run", older.run.path).stdout.split())
    assert "Cancelled 2 cells" in said
    assert cancelled(slurm) == {"100_0", "100_1"}
    # `retry` knows the last plan alone, and says so.
    assert "hpcseg retry" not in said and "They go on where they are with: hpcseg grid --job smoke" in said
    refused = hpcseg("retry", older.cells[0].id, "--run", older.run.path)
    assert refused.exit_code == 2 and "of other settings than the last `hpcseg grid`" in refused.stderr


def test_what_of_earlier_settings_has_ended_is_not_cancelled(older, slurm):
    slurm.queue(*ALL[3:])
    assert hpcseg("cancel", "--run", older.run.path).exit_code == 0
    assert cancelled(slurm) == {"102_0", "102_1", "103"}


def test_where_slurm_is_silent_cancel_ends_what_was_handed_out_for_any_settings(older, slurm):
    slurm.silent()
    assert hpcseg("cancel", "--run", older.run.path).exit_code == 0
    assert cancelled(slurm) == {"100_0", "100_1", "101", "102_0", "102_1", "103"}


def test_grid_says_that_jobs_of_other_settings_go_on_and_what_ends_them(tmp_path, slurm, tiny_dataset):
    run = tmp_path / "run"
    way = ("grid", "--slurm", "--job", "smoke", "--data", tiny_dataset, "--run", run)
    assert "other settings" not in hpcseg(*way).stderr
    slurm.queue(*BOTH)
    assert "other settings" not in hpcseg(*way).stderr, "the same once more"
    said = " ".join(hpcseg(*way, "--set", "train.epochs=3").stderr.split())
    assert "2 cells of other settings of this run still wait or run (job 100)" in said
    assert f"`hpcseg cancel --others --run {run}`" in said


def test_other_jobs_are_none_of_the_plan_and_none_that_have_ended(older, slurm):
    planned = {cell.id for cell in read_grid(older.run).cells}
    assert {job.job_id for job in other_jobs(older.run, planned).values()} == {"100_0", "100_1"}
    slurm.queue("100_1|RUNNING|None|n1")
    assert [job.job_id for job in other_jobs(older.run, planned).values()] == ["100_1"]


def test_clean_keeps_what_a_job_of_any_settings_needs_until_slurm_has_ended_it(older, slurm):
    logs = older.run.logs
    for path in logs.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)

    def left() -> set[str]:
        assert hpcseg("clean", "--run", older.run.path).exit_code == 0
        return {path.name.split("_")[0] for path in logs.iterdir() if path.name[0].isdigit()}

    assert left() == {"100", "101", "102", "103"}
    slurm.queue("100_1|RUNNING|None|n1", *ALL[3:])
    assert left() == {"100", "102", "103"}
    slurm.queue(*ALL[3:])
    assert left() == {"102", "103"}
