"""A run folder of somebody else, or one that leads elsewhere: what its user may read, and what is never done for it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from fake_slurm import send
from typer.testing import CliRunner, Result

from hpcseg.cli.app import app
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import why_foreign
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import append_event, write_json


@pytest.fixture
def grid(slurm, tmp_path, tiny_dataset) -> Grid:
    """A run that was submitted, with a failed cell, and a line of shell that it brings along."""
    planned = plan(load_job(find_shipped("job", "smoke")), RunFolder(tmp_path / "run"), tiny_dataset, "0" * 64)
    write_plan(planned)
    send(planned, setup=("touch pwned",))
    slurm.queue()
    failed = planned.cells[0].folder
    append_event(failed.events_file, "start")
    write_json(failed.failure_file, {"error": "ValueError: no", "rank": 0, "host": "n1", "time": 1.0})
    return planned


@pytest.fixture
def foreign(grid, monkeypatch) -> Grid:
    """The same, as another user of the machine sees it."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    return grid


def hpcseg(verb: str, grid: Grid, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [verb, "--run", str(grid.run.path), *map(str, arguments)])


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


ACTING = ["retry", "cancel", "clean", "follow-up", "grid", "train"]


def arguments(verb: str, dataset: Path) -> list[str | Path]:
    options = {"grid": ["--slurm"], "train": ["*"]}.get(verb, [])
    return [*options, "--job", "smoke", "--data", dataset] if verb in ("grid", "train") else options


@pytest.mark.parametrize("verb", ACTING)
def test_nothing_is_done_for_a_run_of_another_user(foreign, slurm, tiny_dataset, verb):
    before, scripts = files(foreign.run.path), slurm.scripts()
    said = hpcseg(verb, foreign, *arguments(verb, tiny_dataset))
    assert said.exit_code == 2 and said.stdout == "", said.output
    assert f"{foreign.run.path} belongs to {foreign.run.path.owner()}" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert files(foreign.run.path) == before and slurm.scripts() == scripts
    assert not (slurm.folder / "cancelled").exists()


@pytest.mark.parametrize("verb", ACTING)
def test_nor_for_one_that_others_may_change(grid, slurm, tiny_dataset, verb):
    grid.run.logs.chmod(0o777)
    before, scripts = files(grid.run.path), slurm.scripts()
    said = hpcseg(verb, grid, *arguments(verb, tiny_dataset))
    assert said.exit_code == 2 and f"`chmod -R go-w {grid.run.path}`" in said.stderr, said.output
    assert files(grid.run.path) == before and slurm.scripts() == scripts


def test_it_can_be_read_and_its_report_goes_elsewhere(foreign, tmp_path):
    before = files(foreign.run.path)
    assert "error: ValueError: no" in hpcseg("status", foreign).stdout
    assert "ValueError: no" in hpcseg("logs", foreign, "--failed").stdout
    refused = hpcseg("report", foreign)
    assert refused.exit_code == 2 and "is not yours" in refused.stderr and "--out" in refused.stderr
    assert hpcseg("report", foreign, "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "report.html").exists()
    compared = CliRunner().invoke(app, ["compare", str(foreign.run.path), "-o", str(tmp_path / "compared")])
    assert compared.exit_code == 0, compared.output
    assert files(foreign.run.path) == before


def test_baselines_that_are_missing_are_not_written_to_it(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr("hpcseg.runs.tested.missing_baselines", lambda _: True)
    said = hpcseg("report", foreign, "-o", tmp_path / "out")
    assert said.exit_code == 0 and "There are no baselines" in said.stdout, said.output
    assert not foreign.run.baselines.exists()


def test_nor_are_they_through_a_link(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("hpcseg.runs.tested.missing_baselines", lambda _: True)
    (tmp_path / "home").mkdir()
    grid.run.baselines.symlink_to(tmp_path / "home")
    said = hpcseg("report", grid)
    assert said.exit_code == 0 and "There are no baselines" in said.stdout, said.output


def test_a_report_is_not_written_through_a_link(grid, tmp_path):
    (home := tmp_path / "home").mkdir()
    (home / "report.html").write_text("precious")
    (home / "table1.csv").write_text("precious")
    grid.run.report.symlink_to(home)
    said = hpcseg("report", grid)
    assert said.exit_code == 2 and "is a link" in said.stderr
    assert {path.name: path.read_text() for path in home.iterdir()} == dict.fromkeys(
        ("report.html", "table1.csv"), "precious"
    )


def test_cleaning_does_not_follow_a_link_out_of_the_run(grid, tmp_path):
    grid.run.logs.rename(tmp_path / "documents")
    grid.run.logs.symlink_to(tmp_path / "documents")
    for name in ("letter.odt", "99_0_log.out", "99_submitted.pkl"):
        (tmp_path / "documents" / name).touch()
        os.utime(tmp_path / "documents" / name, (0, 0))
    there = set((tmp_path / "documents").iterdir())
    said = hpcseg("clean", grid)
    assert said.exit_code == 2 and "logs is a link" in said.stderr
    assert set((tmp_path / "documents").iterdir()) == there


def test_cleaning_takes_what_submitit_has_written_and_nothing_else(grid, tmp_path):
    logs = grid.run.logs
    gone = [
        *(
            "99_0_log.out",
            "99_1_log.err",
            "99_7_0_log.out",
            "99_submitted.pkl",
            "99_7_submitted.pkl",
            "99_0_result.pkl",
        ),
        *("99_7_1_result.pkl", "99_submission.sh", "f" * 32 + ".pkl", ".submission_file_0a.sh"),
    ]
    kept = ["notes.txt", "99_0_log.out.txt", "99.pkl", "letter_submitted.pkl", "99_0_log.out~", "thesis.odt"]
    for name in (*gone[:-1], *kept):
        (logs / name).touch()
        os.utime(logs / name, (0, 0))
    (logs / "99_8_submitted.pkl").mkdir()
    os.utime(logs / "99_8_submitted.pkl", (0, 0))
    (tmp_path / "target").touch()
    (logs / gone[-1]).symlink_to(tmp_path / "target")  # as submitit leaves one of a script
    os.utime(logs / gone[-1], (0, 0), follow_symlinks=False)
    removed = json.loads(hpcseg("clean", grid, "--json").stdout)["files"]
    assert sorted(removed) == sorted(str(logs / name) for name in gone)
    assert (tmp_path / "target").exists() and all((logs / name).exists() for name in kept)


def test_a_ledger_that_is_a_link_is_not_written_to(grid, tmp_path):
    (tmp_path / "bashrc").write_text("precious")
    grid.run.submissions_file.unlink()
    grid.run.submissions_file.symlink_to(tmp_path / "bashrc")
    for verb in ("cancel", "retry"):
        assert hpcseg(verb, grid).exit_code == 2
    assert (tmp_path / "bashrc").read_text() == "precious"


@pytest.mark.parametrize("name", ["grid.json", "submissions.jsonl"])
@pytest.mark.parametrize("verb", ["status", "report", "logs"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_in_place_of_a_record_ends_in_a_sentence(grid, name, verb, make):
    (grid.run.path / name).unlink()
    make(grid.run.path / name)
    said = hpcseg(verb, grid)
    assert said.exit_code == 5 and len(said.stderr.splitlines()) == 1
    assert re.search(rf"{name} cannot be read: it is (no regular file|a link, and not a file)\. Put back ", said.stderr)


def test_a_run_that_is_submitted_is_ones_own_under_any_umask(slurm, tmp_path):
    planned = plan(
        load_job(find_shipped("job", "smoke")), RunFolder(tmp_path / "new" / "run"), tmp_path / "data.h5", "0" * 64
    )
    before = os.umask(0)
    try:
        assert send(planned)[-1] == "Submitted 3 jobs."
    finally:
        os.umask(before)
    assert why_foreign(planned.run) == ""
    assert planned.run.logs.stat().st_mode & 0o777 == 0o700
