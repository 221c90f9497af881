"""A run that is watched: the losses of what trains as curves below the table, and how it ends."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from terminal import Screen
from test_states import beat
from typer.testing import CliRunner

from hpcseg.cli import console
from hpcseg.cli.app import app
from hpcseg.cli.curves import LossCurves, curve
from hpcseg.runs import told
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.grid import Grid, write_plan

REST = {"train_accuracy": 0.5, "validation_loss": 0.5}


def line(epoch: int, loss: str) -> str:
    """A line of metrics.jsonl whose loss may be anything."""
    whole = json.dumps({"epoch": epoch, "train_loss": 0, **REST, "validation_confusion": []})
    return whole.replace('"train_loss": 0', f'"train_loss": {loss}') + "\n"


def write_losses(folder: CellFolder, *losses: float) -> None:
    lines = [
        {"epoch": number, "train_loss": loss, **REST, "validation_confusion": [[90, 10], [0, 0]]}
        for number, loss in enumerate(losses, start=1)
    ]
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def trains(grid, monkeypatch) -> Grid:
    """A run whose first cell trains until the watch has slept once, and watching that does not sleep."""
    write_plan(grid)
    beat(grid)
    progress = grid.cells[0].folder.progress_file
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: progress.unlink(missing_ok=True))
    monkeypatch.setattr("hpcseg.cli.watching.time", clock)
    return grid


def watched(grid: Grid, monkeypatch, encoding: str) -> list[str]:
    """The first screen of 80 columns that `status --watch` shows."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    terminal = type(console.stdout)(
        file=file, force_terminal=True, color_system=None, width=80, height=24, highlight=False, soft_wrap=True
    )
    monkeypatch.setattr(console, "stdout", terminal)
    said = CliRunner().invoke(app, ["status", "--watch", "--run", str(grid.run.path)])
    assert said.exit_code == 1, "its cells are not finished"
    file.flush()
    first, ends, _ = file.buffer.getvalue().decode(encoding).partition("\x1b[2K")
    assert ends, "a second screen took the place of the first"
    screen = Screen(80)
    screen.feed(first.replace("\n", "\r\n"))
    assert screen.wrapped == 0
    return [line.rstrip() for line in screen.lines]


def test_ctrl_c_ends_a_watch_with_what_was_seen_last_and_the_code_of_a_stop(trains, monkeypatch):
    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcseg.cli.watching.time", SimpleNamespace(monotonic=time.monotonic, sleep=press))
    said = CliRunner().invoke(app, ["status", "--watch", "--run", str(trains.run.path)])
    assert said.exit_code == 130 and "running" in said.stdout


@pytest.mark.parametrize(("encoding", "drawn"), [("utf-8", "█▆▅▃▁"), ("ascii", "#+=-_")])
def test_a_terminal_shows_the_loss_of_a_cell_that_trains_as_far_as_it_can_draw(trains, monkeypatch, encoding, drawn):
    # Each half of the one before: a straight line of logarithms, in five steps from 7 to 0, 1.75 each.
    write_losses(trains.cells[0].folder, 0.8, 0.4, 0.2, 0.1, 0.05)
    lines = watched(trains, monkeypatch, encoding)
    at = next(number for number, line in enumerate(lines) if line.startswith("Cell") and "Loss" in line)
    assert lines[at + 1].split()[-3:] == [drawn, "0.8000", "0.0500"]
    assert lines[at - 1] == "" and any("running" in line for line in lines[:at])


def test_without_two_epochs_there_is_no_curve_and_the_table_is_as_ever(trains, monkeypatch):
    write_losses(trains.cells[0].folder, 0.8)
    lines = watched(trains, monkeypatch, "utf-8")
    assert not any("Loss" in line for line in lines) and any("running" in line for line in lines)


def test_a_long_training_is_drawn_in_the_width_that_there_is_and_an_even_one_is_flat():
    drawn = curve([2.0**-epoch for epoch in range(1000)], 8, ascii_only=False)
    assert drawn == "█▇▆▅▄▃▂▁"
    assert curve([0.5] * 4, 8, ascii_only=False) == "▁▁▁▁"
    # A loss below zero has no logarithm.
    assert curve([-1.0, 0.0, 6.0], 8, ascii_only=False) == "▁▂█"


@pytest.mark.parametrize(
    "text",
    [
        line(1, '"no"'),
        line(1, "1" + "0" * 400),
        line(1, "NaN") + line(2, "1e308"),
        "no epochs",
    ],
)
def test_losses_that_are_none_draw_no_curve(tmp_path, text):
    folder = CellFolder(tmp_path)
    folder.metrics_file.write_text(text)
    assert LossCurves().table({"a": folder}) is None


def test_only_a_file_that_has_changed_is_read_again(tmp_path, monkeypatch):
    folders = {name: CellFolder(tmp_path / name) for name in ("a", "b")}
    for folder in folders.values():
        write_losses(folder, 0.5, 0.4)
    read: list[Path] = []
    from hpcseg.cli import curves

    def finished_epochs(folder):
        read.append(folder.path)
        return told.finished_epochs(folder)

    monkeypatch.setattr(curves, "finished_epochs", finished_epochs)
    shown = LossCurves()
    assert shown.table(folders).row_count == 2
    write_losses(folders["b"], 0.5, 0.4, 0.3)
    assert shown.table(folders).row_count == 2
    assert read == [tmp_path / "a", tmp_path / "b", tmp_path / "b"]
