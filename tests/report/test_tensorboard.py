"""`hpcseg tensorboard`: the epochs of a run as files that TensorBoard shows, brought up to date by each call."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from test_report_records import OWN_JOB, tiny_run
from typer.testing import CliRunner, Result

from hpcseg.cli.app import app
from hpcseg.runs.grid import Cell, Grid
from hpcseg.runs.record import append_event


@pytest.fixture
def grid(tmp_path) -> Grid:
    pytest.importorskip("tensorboardX", reason="needs the extra hpcseg[tensorboard]")
    return tiny_run(tmp_path / "run", OWN_JOB + "train.epochs = 4\n")


def export(grid: Grid, *options: str | Path) -> Result:
    return CliRunner().invoke(app, ["tensorboard", str(grid.run.path), *map(str, options)])


def file_of(cell: Cell, folder: Path) -> Path:
    (file,) = (folder / cell.id).iterdir()
    assert "tfevents" in file.name, "TensorBoard knows its files by that"
    return file


def events(file: Path) -> list[Any]:
    """The events of a file, by the format's lengths."""
    from tensorboardX.proto.event_pb2 import Event

    found, content = [], file.read_bytes()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return found


def curves(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(file):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def keep(cell: Cell, epochs: int) -> str:
    """Let a cell have only so many epochs; returns what its metrics.jsonl was."""
    whole = cell.folder.metrics_file.read_text()
    cell.folder.metrics_file.write_text("".join(whole.splitlines(keepends=True)[:epochs]))
    cell.folder.evaluation_file.unlink(missing_ok=True)
    cell.folder.training_file.unlink(missing_ok=True)
    return whole


def test_every_cell_has_loss_and_accuracy_of_every_epoch_and_its_settings(grid):
    for cell in grid.cells:
        for epoch in range(1, 5):
            append_event(cell.folder.events_file, "epoch", epoch=epoch)
    said = export(grid)
    assert said.exit_code == 0 and f"{len(grid.cells)} cells written" in said.output, said.output
    for cell in grid.cells:
        file = file_of(cell, grid.run.tensorboard)
        lines = [json.loads(line) for line in cell.folder.metrics_file.read_text().splitlines()]
        # tiny_run has 990 right pixels of 1000 in every validation.
        wanted = {
            "loss/train": [line["train_loss"] for line in lines],
            "loss/validation": [line["validation_loss"] for line in lines],
            "accuracy/train": [line["train_accuracy"] for line in lines],
            "accuracy/validation": [0.99] * 4,
        }
        found = curves(file)
        assert found.keys() == wanted.keys()
        for tag, values in wanted.items():
            assert [step for step, _ in found[tag]] == [1, 2, 3, 4]
            assert [value for _, value in found[tag]] == pytest.approx(values, rel=1e-6)
        first, *rest = events(file)
        assert first.file_version == "brain.Event:2"
        times = [json.loads(line)["time"] for line in cell.folder.events_file.read_text().splitlines()[1:]]
        assert [event.wall_time for event in rest if event.step] == times
        assert f'"train.noise_fraction": {cell.config.train.noise_fraction}' in settings(rest)


def settings(found: list[Any]) -> str:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    (start,) = (one for event in found for one in event.summary.value if one.tag == "_hparams_/session_start_info")
    of = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info.hparams
    return json.dumps({name: of[name].number_value for name in of})


def test_new_epochs_stand_behind_the_old_ones_each_once_and_what_is_right_is_left_alone(grid):
    first, *others = grid.cells
    whole = keep(first, 2)
    export(grid)
    before = {cell.id: file_of(cell, grid.run.tensorboard) for cell in grid.cells}
    short = before[first.id].read_bytes()
    for file in before.values():
        os.utime(file, (0, 0))
    first.folder.metrics_file.write_text(whole)
    said = export(grid)
    assert f"1 cell written to {grid.run.tensorboard}, {len(others)} as they were" in said.output
    # A TensorBoard that is looking has this very file open.
    assert before[first.id].read_bytes().startswith(short)
    assert [step for step, _ in curves(file_of(first, grid.run.tensorboard))["loss/train"]] == [1, 2, 3, 4]
    assert all(before[cell.id].stat().st_mtime == 0 for cell in others)


def test_a_file_of_another_training_or_one_that_was_cut_or_is_a_link_becomes_right(grid, tmp_path):
    export(grid)
    right = file_of(grid.cells[0], grid.run.tensorboard)
    content = right.read_bytes()
    for spoilt in (content[:-9], content[:60] + b"\0" + content[61:], content * 2):
        right.write_bytes(spoilt)
        export(grid)
        assert file_of(grid.cells[0], grid.run.tensorboard).read_bytes() == content
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    right.unlink()
    right.symlink_to(elsewhere)
    export(grid)
    assert elsewhere.read_text() == "mine" and right.read_bytes() == content and not right.is_symlink()


def test_a_cell_without_an_epoch_has_no_file_and_damage_in_one_cell_is_no_end(grid):
    keep(grid.cells[0], 4)
    export(grid)
    grid.cells[0].folder.metrics_file.write_text('{"epoch": 1}\n')
    grid.cells[1].folder.events_file.write_text('\0\n{"event": "epoch", "epoch": [], "time": 1e400}\n7\n')
    said = export(grid)
    assert said.exit_code == 0 and "1 without an epoch" in said.output, said.output
    grid.cells[1].folder.events_file.unlink()
    grid.cells[1].folder.events_file.mkdir()
    assert export(grid).exit_code == 0
    assert list((grid.run.tensorboard / grid.cells[0].id).iterdir()) == []
    assert len(curves(file_of(grid.cells[1], grid.run.tensorboard))["loss/train"]) == 4


def test_a_run_of_somebody_else_is_read_and_not_written_to(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    said = export(grid)
    assert said.exit_code == 2 and "--out" in said.output and not grid.run.tensorboard.exists()
    assert export(grid, "--out", tmp_path / "mine").exit_code == 0
    assert curves(file_of(grid.cells[0], tmp_path / "mine"))
    assert not grid.run.tensorboard.exists()


def test_where_the_library_is_missing_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = export(grid)
    assert said.exit_code == 2 and "pip install 'hpcseg[tensorboard]'" in " ".join(said.output.split())
    assert "tensorboardX:" in said.output and not grid.run.tensorboard.exists()
