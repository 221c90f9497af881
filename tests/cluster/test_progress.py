"""What a user sees of cells that run: the local queue in a terminal of 80 columns and in a pipe, epochs in the logs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from finished_cells import beat
from slice_folder import hpcseg
from small_job import small_job
from terminal import hpcseg_in_terminal

from hpcseg.cli.queue_view import QueueView
from hpcseg.cluster import ledger
from hpcseg.data.store import read_info
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, plan, write_plan
from hpcseg.runs.names import short_names
from hpcseg.runs.record import read_json, write_json
from hpcseg.runs.state import State
from hpcseg.runs.told import read_progress

JOB = small_job('data.tiles = ["1x1", "2x2"]')
# Some seconds on any machine, in which heartbeats come every half a second.
EPOCHS = 30


@pytest.fixture
def job(tmp_path):
    (tmp_path / "tiny.toml").write_text(JOB)
    return tmp_path


def cells_of(job, dataset, *overrides) -> tuple[Cell, ...]:
    grid = plan(
        load_job(job / "tiny.toml", overrides), RunFolder(job / "runs/tiny"), dataset, read_info(dataset).data_sha256
    )
    write_plan(grid)
    return grid.cells


def expected(metrics_file) -> list[tuple[str, str]]:
    """Loss and validation accuracy of each epoch, from the counts in metrics.jsonl."""
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    matrices = [np.array(line["validation_confusion"]) for line in lines]
    right = [np.trace(matrix) / matrix.sum() for matrix in matrices]
    return [(f"{line['train_loss']:.4f}", f"{share:.4f}") for line, share in zip(lines, right, strict=True)]


def test_a_terminal_of_80_columns_shows_every_cell_under_a_short_name_with_the_numbers_of_the_epoch_it_names(
    job, tiny_dataset
):
    seen = hpcseg_in_terminal(
        *("grid", "--local", "--job", "tiny.toml", "--data", tiny_dataset, "--set", f"train.epochs={EPOCHS}"), cwd=job
    )
    assert seen.code == 0, seen.last
    assert seen.wrapped == 0, "no line is longer than the terminal"
    cells = sorted((job / "runs/tiny/cells").iterdir())
    assert not any(cell.name in screen for cell in cells for screen in seen.screens), "no id on any screen"

    first, second = (expected(cell / "metrics.jsonl") for cell in cells)
    ending = r"finished in \d+ (s|min), loss {}, validation {}"
    lines = seen.last.splitlines()
    assert lines[0] == "tiny: 2 cells in runs/tiny (2 missing)"
    assert re.fullmatch("1x1: " + ending.format(*first[-1]), lines[1])
    assert re.fullmatch("2x2: " + ending.format(*second[-1]), lines[2])
    assert lines[3:5] == ["2 cells finished, 0 failed.", "Next: hpcseg report"], "the table is gone"

    row = re.compile(r"^(1x1|2x2) +[━╸╺ ]+ +(\d+)/30 +(?:([\d.]+) +([\d.]+))? *(\S.*)?$", re.MULTILINE)
    rows = [found.groups() for screen in seen.screens for found in row.finditer(screen)]
    numbered = {(name, int(epoch), loss, validation) for name, epoch, loss, validation, _ in rows if validation}
    assert {name for name, *_ in numbered} == {"1x1", "2x2"}, "both were seen in the middle of their training"
    for name, epoch, loss, validation in numbered:
        assert (loss, validation) == (first if name == "1x1" else second)[epoch - 1], f"epoch {epoch} of {name}"
    assert any(re.fullmatch(r"\d+ s", left or "") for *_, left in rows), "time left, as a person reads it"
    assert any("0 of 2 cells done" in screen for screen in seen.screens)
    assert any(
        re.search(r"1 of 2 cells done, about \d+ (s|min) left", screen) and "1x1: finished" in screen
        for screen in seen.screens
    )


def test_a_pipe_gets_whole_lines_of_the_same(job, tiny_dataset):
    command = [sys.executable, "-m", "hpcseg", "grid", "--local", "--job", "tiny.toml", "--data", tiny_dataset]
    done = subprocess.run(
        [*command, "--set", "train.epochs=2"], cwd=job, capture_output=True, text=True, check=True, timeout=240
    )
    wanted = []
    for cell in sorted((job / "runs/tiny/cells").iterdir()):
        name, numbers = cell.name[:3], expected(cell / "metrics.jsonl")
        texts = [f"loss {loss}, validation {validation}" for loss, validation in numbers]
        wanted += [f"{name}: training", *(f"{name}: epoch {n}/2, {text}" for n, text in enumerate(texts, start=1))]
        wanted += [f"{name}: evaluating", f"{name}: finished in N s, {texts[-1]}"]
    assert re.sub(r"in \d+ s", "in N s", done.stderr).splitlines() == wanted


def test_watching_through_a_pipe_glues_no_lines(job, tiny_dataset, monkeypatch):
    cells_of(job, tiny_dataset)
    monkeypatch.setattr("hpcseg.cli.watching._SECONDS_BETWEEN_LOOKS", 0)
    said = hpcseg("status", "--watch", "--run", job / "runs/tiny")
    plain = hpcseg("status", "--run", job / "runs/tiny")
    assert said.output.splitlines() == ["2 missing", *plain.output.splitlines()]
    assert "2 missing" in plain.output.splitlines()


def test_a_training_in_this_process_says_its_epochs(job, tiny_dataset):
    command = ("train", "1x1-*", "--job", job / "tiny.toml", "--data", tiny_dataset, "--run", job / "runs/tiny")
    said = hpcseg(*command, "--set", "train.epochs=2")
    (cell,) = (job / "runs/tiny/cells").glob("1x1-*")
    texts = [f"loss {loss}, validation {validation}" for loss, validation in expected(cell / "metrics.jsonl")]
    epochs = [f"epoch {number}/2, {text}" for number, text in enumerate(texts, start=1)]
    assert said.stderr.splitlines() == [f"{cell.name}: training", *epochs, f"{cell.name}: evaluating"]
    # It left no log, and its epochs are shown all the same.
    assert hpcseg("logs", cell.name, "--run", job / "runs/tiny").output.splitlines()[1:] == epochs


def epoch_line(number: int, right: int) -> str:
    """A line of metrics.jsonl with a loss of 1 / number, and so many right pixels of 100."""
    confusion = [[right, 100 - right], [0, 0]]
    train = {"epoch": number, "train_loss": 1 / number, "train_accuracy": 0.5}
    return json.dumps({**train, "validation_loss": 0.5, "validation_confusion": confusion}) + "\n"


@pytest.fixture
def alive(job, tiny_dataset) -> Cell:
    """A cell that runs in this process, with one epoch behind it and a log as submitit begins it."""
    cell = cells_of(job, tiny_dataset, "train.epochs=10")[0]
    cell.folder.metrics_file.write_text(epoch_line(1, 60))
    cell.folder.events_file.write_text('{"time": 1, "event": "start"}\n')
    beat(cell.folder, age=-60, epoch=2, epochs=10, steps_per_epoch=4, host=socket.gethostname(), pid=os.getpid())
    run = RunFolder(job / "runs/tiny")
    run.logs.mkdir()
    ledger.book_local(run, [cell.id], "17")
    (run.logs / "17_0_log.out").write_text("submitit INFO (2026) - Loading pickle: x.pkl\nUserWarning: of torch's\n")
    return cell


def test_the_log_of_a_cell_that_is_well_has_its_epochs_and_nothing_of_submitits(job, alive):
    run = ("--run", job / "runs/tiny")
    said = hpcseg("logs", alive.id, *run).output.splitlines()
    assert said[1:] == ["epoch 1/10, loss 1.0000, validation 0.6000", "UserWarning: of torch's"]
    assert "Loading pickle" in hpcseg("logs", alive.id, "--rank", 0, *run).output, "who asks for a rank gets its log"


def test_following_shows_epochs_as_they_come_until_the_cell_ends(job, alive, monkeypatch):
    monkeypatch.setattr("hpcseg.cli.watching._SECONDS_BETWEEN_QUESTIONS", 0)

    def go_on() -> None:
        time.sleep(1.5)
        alive.folder.metrics_file.write_text(epoch_line(1, 60) + epoch_line(2, 80))
        time.sleep(1.5)
        alive.folder.progress_file.unlink()

    cell = threading.Thread(target=go_on)
    cell.start()
    said = hpcseg("logs", alive.id, "--follow", "--run", job / "runs/tiny")
    cell.join()
    assert said.output.splitlines()[1:] == [
        "epoch 1/10, loss 1.0000, validation 0.6000",
        "UserWarning: of torch's",
        "epoch 2/10, loss 0.5000, validation 0.8000",
        f"{alive.id}: stopped",
    ]


def test_epochs_of_an_earlier_start_are_no_news(alive, capsys):
    with QueueView([alive], [alive]) as view:
        view.show(State.STARTED, alive, {"stage": "train"})
        alive.folder.metrics_file.write_text(epoch_line(1, 60) + epoch_line(2, 80))
        view.show(State.STARTED, alive, {"stage": "evaluate"})
    assert capsys.readouterr().err.splitlines() == [
        "1x1: training",
        "1x1: epoch 2/10, loss 0.5000, validation 0.8000",
        "1x1: evaluating",
    ]


def test_a_cell_that_begins_again_says_why_on_the_queues_screen_and_in_status(job, alive, capsys):
    note = "its last checkpoint cannot be used, so it begins at epoch 1"
    write_json(alive.folder.progress_file, {**read_json(alive.folder.progress_file), "note": note})
    with QueueView([alive], [alive]) as view:
        view.show(State.STARTED, alive, {"stage": "train"})
        for _ in range(2):
            view.show(State.RUNNING, alive, {"beat": read_progress(alive.folder)})
    assert capsys.readouterr().err.splitlines() == ["1x1: training", f"1x1: {note}"]
    assert note in hpcseg("status", "--run", job / "runs/tiny").output


@pytest.mark.parametrize("job_name", ["demo", "paper", "seeds", "readings", "noise-models", "more-data", "segment"])
def test_short_names_tell_the_cells_of_every_shipped_job_apart(job_name, tmp_path):
    grid = plan(load_job(find_shipped("job", job_name)), RunFolder(tmp_path), tmp_path / "data.h5", "0" * 64)
    names = short_names(grid.cells)
    assert list(names) == [cell.id for cell in grid.cells]
    assert len(set(names.values())) == len(names)
    assert all(len(name) < len(cell_id) - 9 for cell_id, name in names.items()), "shorter than the id without its hash"


def test_an_only_cell_has_a_short_name_too(job, tiny_dataset):
    assert list(short_names(cells_of(job, tiny_dataset)[:1]).values()) == ["1x1"]
