"""Whether a run is the user's own, and what hpcseg makes, whatever the umask."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs import frozen
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze
from hpcseg.runs.gate import require_own, why_foreign
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import append_event, write_json


def planned(folder: Path) -> Grid:
    grid = plan(load_job(find_shipped("job", "smoke")), RunFolder(folder), folder.parent / "data.h5", "0" * 64)
    write_plan(grid)
    return grid


@pytest.fixture
def grid(tmp_path) -> Grid:
    return planned(tmp_path / "run")


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


def linked(path: Path) -> None:
    """Moves what is there elsewhere and links it."""
    elsewhere = path.parents[1] / f"elsewhere-{path.name}"
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.mkdir()
    path.symlink_to(elsewhere)


def cell(grid: Grid) -> Path:
    return grid.cells[0].folder.path


SPOILT = {
    "a logs folder that is a link": (lambda grid: linked(grid.run.logs), "logs is a link"),
    "a cells folder that is a link": (lambda grid: linked(grid.run.cells), "cells is a link"),
    "a cell that is a link": (lambda grid: linked(cell(grid)), "is a link"),
    "a ledger that is a link": (lambda grid: linked(grid.run.submissions_file), "submissions.jsonl is a link"),
    "a pipe for a lock": (lambda grid: os.mkfifo(grid.run.lock_file), "lock is no regular file"),
    "a run that its group may change": (lambda grid: grid.run.path.chmod(0o775), "can be written to by its group"),
    "a cell that all may change": (lambda grid: cell(grid).chmod(0o777), "can be written to by everybody"),
    "a plan that its group may change": (lambda grid: grid.run.grid_file.chmod(0o664), "grid.json can be written to"),
    "lines of shell that all may change": (
        lambda grid: (write_json(grid.run.resources_file, {}), grid.run.resources_file.chmod(0o666)),
        "resources.json can be written to by everybody",
    ),
    "code that all may change": (lambda grid: freeze(grid.run).chmod(0o777), "can be written to by everybody"),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT)
def test_what_others_may_change_or_where_a_link_leads_is_not_ones_own(grid, spoil, told, monkeypatch):
    monkeypatch.setattr(frozen, "package_files", lambda: {"__init__.py": b""})
    assert why_foreign(grid.run) == ""
    spoil(grid)
    with pytest.raises(ConfigError) as refused:
        require_own(grid.run)
    assert told in str(refused.value) and "can be read, but nothing is started, ended or deleted" in str(refused.value)
    with pytest.raises(ConfigError):
        run_cell(grid.cells[0].folder, "train", should_stop=lambda: False)
    assert not grid.cells[0].folder.failure_file.exists() and not grid.cells[0].folder.lock_file.exists()


CODE = {
    "a file": (lambda code: (code / "runs/gate.py").chmod(0o666), "can be written to by everybody"),
    "a folder": (lambda code: (code / "runs").chmod(0o775), "can be written to by its group"),
    "a link to a file": (lambda code: linked(code / "runs/gate.py"), "gate.py is a link"),
    "a link to a folder": (lambda code: linked(code / "runs"), "runs is a link"),
    "a module too many": (lambda code: os.mkfifo(code / "gate.so"), "gate.so is no regular file"),
}


@pytest.mark.parametrize(("spoil", "told"), CODE.values(), ids=CODE)
def test_frozen_code_is_ones_own_to_its_last_file_or_nothing_is_started(grid, spoil, told, monkeypatch):
    monkeypatch.setattr(frozen, "package_files", lambda: {"runs/gate.py": b""})
    code = freeze(grid.run) / "hpcseg"
    assert freeze(grid.run) == code.parent
    spoil(code)
    with pytest.raises(ConfigError, match=told):
        freeze(grid.run)


def test_a_run_of_another_user_is_named_with_its_owner(grid, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert f"belongs to {grid.run.path.owner()}" in why_foreign(grid.run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_cell_that_belongs_to_another_is_found_among_ones_own(grid):
    os.chown(cell(grid), 65534, -1)
    assert why_foreign(grid.run).startswith(f"{cell(grid)} belongs to ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_of_another_user_is_followed_by_nobody(grid, tmp_path):
    (tmp_path / "here").symlink_to(grid.run.path)
    os.lchown(tmp_path / "here", 65534, -1)
    assert why_foreign(RunFolder(tmp_path / "here")).startswith(f"{tmp_path / 'here'} is a link.")


def test_the_advice_makes_a_run_ones_own(grid):
    for path in (grid.run.path, *grid.run.path.rglob("*")):
        path.chmod(path.stat().st_mode | 0o022)
    advice = why_foreign(grid.run).split("`")[1]
    assert advice == f"chmod -R go-w {grid.run.path}"
    subprocess.run(advice, shell=True, check=True)
    assert why_foreign(grid.run) == ""


def test_a_run_on_another_disk_may_be_reached_by_a_link_of_ones_own(grid, tmp_path):
    (tmp_path / "here").symlink_to(grid.run.path)
    assert why_foreign(RunFolder(tmp_path / "here")) == ""
    grid.run.path.chmod(0o777)
    assert "everybody" in why_foreign(RunFolder(tmp_path / "here"))


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_what_is_made_is_ones_own_whatever_the_umask_and_no_wider(tmp_path, umask, mask, monkeypatch):
    monkeypatch.setattr(frozen, "package_files", lambda: {"cli/__init__.py": b""})
    umask(mask)
    grid = planned(tmp_path / "runs" / "new")
    freeze(grid.run)
    append_event(grid.run.submissions_file, "withdrawn", token="x")
    write_json(grid.run.resources_file, {})
    assert why_foreign(grid.run) == ""
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "runs").rglob("*")}
    assert modes.pop(grid.run.logs) == 0o700
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o755 & ~mask}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o644 & ~mask}


def test_a_linked_lock_of_a_cell_keeps_what_is_in_the_file(grid, tmp_path):
    precious = tmp_path / "notes.txt"
    precious.write_text("precious")
    grid.cells[0].folder.lock_file.symlink_to(precious)
    with pytest.raises((HpcsegError, OSError)):
        run_cell(grid.cells[0].folder, "train", should_stop=lambda: False)
    assert precious.read_text() == "precious"
