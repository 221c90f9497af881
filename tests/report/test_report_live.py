"""`hpcseg report --live`: a page that is written again while cells run, and an ordinary one when they have ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from finished_cells import beat
from test_report_records import OWN_JOB, finish, tiny_run
from typer.testing import CliRunner, Result

from hpcseg.cli.app import app
from hpcseg.report.build import build_report
from hpcseg.runs.grid import Grid

RELOADS = re.compile(r'<meta http-equiv="refresh" content="(\d+)">')


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Grid:
    """A run of which one cell trains and the others are finished."""
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    grid.cells[0].folder.evaluation_file.unlink()
    grid.cells[0].folder.training_file.unlink()
    beat(grid.cells[0].folder)
    return grid


def live(grid: Grid, monkeypatch, between: list[Callable[[], None]], *options: str) -> Result:
    """The command, which does one thing of `between` where it would sleep."""
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: between.pop(0)())
    monkeypatch.setattr("hpcseg.cli.watching.time", clock)
    out = grid.run.path.parent / "out"
    return CliRunner().invoke(app, ["report", "--run", str(grid.run.path), "-o", str(out), "--live", *options])


def test_the_page_reloads_and_says_what_runs_and_at_the_end_is_the_ordinary_one(runs, tmp_path, monkeypatch):
    pages: list[str] = []

    def keep() -> None:
        pages.append((tmp_path / "out/report.html").read_text())
        beat(runs.cells[0].folder)

    def end() -> None:
        keep()
        runs.cells[0].folder.progress_file.unlink()
        finish(runs.cells[0], lambda config, sigma: 900)

    said = live(runs, monkeypatch, [keep, end], "--every", "7")
    assert said.exit_code == 0, said.output
    finished = len(runs.cells) - 1
    for page in pages:
        assert RELOADS.findall(page) == ["7"] and "<script" not in page
        assert re.search(rf"Written 2\d\d\d-\d\d-\d\d [\d:]+ .*: {finished} finished, 1 running\.", page)
    assert len(pages) == 2
    page = (tmp_path / "out/report.html").read_text()
    build_report(runs.run, tmp_path / "out")
    assert page == (tmp_path / "out/report.html").read_text() and not RELOADS.search(page)
    assert f"{finished} finished, 1 running" in said.output and "report.html" in said.output


def test_holes_of_cells_that_run_say_so_and_figures_that_nothing_is_evaluated_yet(runs):
    for cell in runs.cells[1:]:
        cell.folder.evaluation_file.unlink()
    out = ("-o", str(runs.run.path.parent / "out"))
    said = CliRunner().invoke(app, ["report", "--run", str(runs.run.path), *out]).stdout
    wait = "  Wait for it: `hpcseg status` shows how far it is.\n"
    assert f"{wait}    {runs.cells[0].id}: it runs, or waits for it.\n" in said
    assert "best_and_worst: no cell has been evaluated yet.\n" in said


def test_ctrl_c_ends_it_with_a_sentence_and_a_page_that_reloads_no_more(runs, tmp_path, monkeypatch):
    def interrupt() -> None:
        assert RELOADS.search((tmp_path / "out/report.html").read_text())
        raise KeyboardInterrupt

    said = live(runs, monkeypatch, [interrupt])
    assert said.exit_code == 130 and "Stopped by you." in said.output
    page = (tmp_path / "out/report.html").read_text()
    assert not RELOADS.search(page) and "1 running" not in page


def test_where_nothing_runs_there_is_only_the_ordinary_page(tmp_path, monkeypatch):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    said = live(grid, monkeypatch, [])
    assert said.exit_code == 0, said.output
    assert not RELOADS.search((tmp_path / "out/report.html").read_text())


def test_a_run_that_goes_on_is_not_published(runs, tmp_path, monkeypatch):
    said = live(runs, monkeypatch, [], "--publish", str(tmp_path / "published"))
    assert said.exit_code == 2 and "--publish" in said.output
    assert not Path(tmp_path / "published").exists() and not (tmp_path / "out").exists()
