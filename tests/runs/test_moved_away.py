"""A run that is moved or removed while a cell of it runs: the cell stops with a sentence, and makes no folder anew."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from hpcseg.errors import HpcsegError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs import there
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, plan, write_plan

ENDLESS = ["train.epochs=100000", "train.width=2"]


@pytest.fixture
def cell(tmp_path, tiny_dataset, monkeypatch) -> Cell:
    """A cell whose training writes a checkpoint behind every step, and never ends."""
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0")
    grid = plan(
        load_job(find_shipped("job", "smoke"), ENDLESS), RunFolder(tmp_path / "run"), tiny_dataset, _hash(tiny_dataset)
    )
    write_plan(grid)
    return grid.cells[0]


def _hash(dataset: Path) -> str:
    from hpcseg.data.store import read_info

    return read_info(dataset).data_sha256


def _goes(cell: Cell, what: str) -> None:
    run = cell.folder.path.parents[1]
    match what:
        case "the run is moved":
            run.rename(run.with_name("moved"))
        case "the run is removed":
            # At one moment: a write under way would keep its folder from being removed.
            shutil.rmtree(run.rename(run.with_name("moved")))
        case "grid.json":
            (run / "grid.json").unlink()
        case "config.json":
            cell.folder.config_file.unlink()


@pytest.mark.parametrize(
    ("what", "looks"),
    [
        *((what, "at once") for what in ("the run is moved", "the run is removed", "grid.json", "config.json")),
        # Long before the next look a write meets it. Of a file alone that is gone no write takes note.
        *((what, "at a write") for what in ("the run is moved", "the run is removed")),
    ],
)
def test_a_cell_whose_plan_is_gone_stops_with_a_sentence_and_makes_nothing_anew(cell, monkeypatch, what, looks):
    monkeypatch.setattr(there, "_SECONDS_BETWEEN_LOOKS", 0.0 if looks == "at once" else 1e9)
    run, asked = cell.folder.path.parents[1], 0

    def steps() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            _goes(cell, what)
        assert asked < 200, "it trains on"
        return False

    with pytest.raises(HpcsegError, match=r"run was moved or removed while this cell ran: (grid|config)\.json is gone"):
        run_cell(cell.folder, "train", should_stop=steps)
    if "the run" in what:
        assert not run.exists()
    else:
        assert not cell.folder.failure_file.exists() and not cell.folder.training_file.exists()


def test_a_file_that_is_not_shown_once_ends_nothing(cell, monkeypatch):
    monkeypatch.setattr(there, "_SECONDS_BETWEEN_LOOKS", 0.0)
    look, hidden = there.StillThere(cell.folder), cell.folder.path.with_name("hidden")
    cell.folder.config_file.rename(hidden)
    look.check()
    hidden.rename(cell.folder.config_file)
    look.check()
    cell.folder.config_file.rename(hidden)
    look.check()
    with pytest.raises(HpcsegError, match=r"config\.json is gone"):
        look.check()


def test_a_look_is_no_more_than_a_glance_at_the_clock(cell):
    look = there.StillThere(cell.folder)
    cell.folder.config_file.unlink()
    began = time.monotonic()
    for _ in range(1000):
        look.check()
    assert time.monotonic() - began < 1.0
