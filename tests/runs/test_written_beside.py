"""Checkpoints and the records of epochs are written while the steps go on: on a slow disk, and on one that is full."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_warm_process import make_cell

from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.learn.ranks import GO_ON, SAVE, STOP, Agreement
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import read_lines

STEPS = 7  # of an epoch


@pytest.fixture
def cell(tmp_path, tiny_dataset) -> Cell:
    return make_cell(tmp_path, tiny_dataset, epochs=3)


@pytest.fixture
def disk(monkeypatch) -> Callable[..., None]:
    """Gives the file of a name another fsync: a call that comes before the real one."""
    real, others = os.fsync, dict[str, Callable[[], object]]()

    def fsync(file: int) -> None:
        open_now = Path(f"/proc/self/fd/{file}").readlink().name
        for name, other in others.items():
            if name in open_now:
                other()
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return others.__setitem__


def train(cell: Cell, monkeypatch, wish: Callable[[int], int] | None = None) -> str:
    """Train with a wish for each question, counted from 1; it is asked before each step."""
    with monkeypatch.context() as patch:
        if wish is not None:
            questions = itertools.count(1)
            patch.setattr(Agreement, "__call__", lambda *_, **__: wish(next(questions)))
        return run_cell(cell.folder, "train", should_stop=lambda: False)


def places(cell: Cell) -> list[int]:
    """Steps that the checkpoints of a cell hold, the newest first."""
    files = (cell.folder.checkpoint_file, cell.folder.previous_checkpoint_file)
    positions = [checkpoint.load(file)["position"] for file in files if file.exists()]
    return [position["epoch"] * STEPS + position["step"] for position in positions]


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl", "events.jsonl"])
def test_steps_go_on_while_a_slow_disk_writes_and_a_stop_waits_for_it(
    tmp_path, tiny_dataset, cell, monkeypatch, disk, file
):
    written = threading.Event()

    def wish(question: int) -> int:
        if question == 3:
            disk(file, lambda: pytest.fail("steps wait for the disk") if not written.wait(20) else None)
        if question == 2 * STEPS + 2:
            threading.Timer(0.5, written.set).start()
        return {3: SAVE, 2 * STEPS + 2: STOP}.get(question, GO_ON)

    assert train(cell, monkeypatch, wish) == "stopped"
    assert written.is_set()
    assert places(cell) == [2 * STEPS + 1, 2]
    assert [line["event"] for line in read_lines(cell.folder.events_file)] == ["start", "epoch", "epoch", "stop"]
    assert train(cell, monkeypatch) == "finished"
    whole = make_cell(tmp_path / "whole", tiny_dataset, epochs=3)
    assert train(whole, monkeypatch) == "finished"
    assert cell.folder.metrics_file.read_bytes() == whole.folder.metrics_file.read_bytes()
    models = [checkpoint.weights_sha256(checkpoint.load(one.folder.model_file)) for one in (cell, whole)]
    assert models[0] == models[1]


@pytest.mark.parametrize("ends", ["with a step", "with a stop", "by itself", "with the next checkpoint"])
def test_a_disk_that_is_full_ends_the_training_and_leaves_the_checkpoint_of_before(cell, monkeypatch, disk, ends):
    failed = threading.Event()

    def full() -> None:
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    then = {"with a stop": STOP, "with the next checkpoint": SAVE}.get(ends, GO_ON)
    first = 3 * STEPS if ends == "by itself" else 5
    asked = []

    def wish(question: int) -> int:
        asked.append(question)
        if question == first:
            disk("checkpoint.pt", full)
        if question == first + 1 and ends == "with a step":
            assert failed.wait(20)
        return {2: SAVE, first: SAVE, first + 1: then}.get(question, GO_ON)

    with pytest.raises(HpcsegError, match=r"checkpoint\.pt cannot be written: No space left on device"):
        train(cell, monkeypatch, wish)
    assert len(asked) < 3 * STEPS or ends == "by itself"
    assert places(cell) == [1]
    assert not cell.folder.training_file.exists() and cell.folder.failure_file.exists()


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl"])
def test_a_record_of_an_epoch_that_cannot_be_written_ends_the_training(cell, monkeypatch, disk, file):
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wish(question: int) -> int:
        if question == STEPS:
            disk(file, full)
        return GO_ON

    with pytest.raises((HpcsegError, OSError), match="No space left on device"):
        train(cell, monkeypatch, wish)
    assert not cell.folder.training_file.exists() and cell.folder.failure_file.exists()


_KILLED = """
import os, signal, sys
from pathlib import Path
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import CellFolder

owner, name, wanted = os if sys.argv[2] == "fsync" else Path, sys.argv[2], int(sys.argv[3])
real, calls = getattr(owner, name), 0

def strike(one, *rest):
    global calls
    calls += "checkpoint" in (os.readlink(f"/proc/self/fd/{one}") if name == "fsync" else str(one))
    if calls == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(one, *rest)

setattr(owner, name, strike)
run_cell(CellFolder(Path(sys.argv[1])), "train", should_stop=lambda: False)
"""


# A checkpoint is flushed twice; then the one before gets its other name, and the new one its own.
@pytest.mark.parametrize(
    ("call", "number"), [("fsync", 1), ("fsync", 6), ("replace", 2), ("replace", 4), ("replace", 5)]
)
def test_a_kill_in_the_midst_of_a_write_leaves_a_whole_checkpoint(tmp_path, tiny_dataset, monkeypatch, call, number):
    whole, cell = (make_cell(tmp_path / name, tiny_dataset, epochs=2) for name in ("whole", "struck"))
    assert train(whole, monkeypatch) == "finished"
    environment = {**os.environ, "HPCSEG_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-c", _KILLED, str(cell.folder.path), call, str(number)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert bool(places(cell)) == ((call, number) != ("fsync", 1)), "and each can be read"
    assert train(cell, monkeypatch) == "finished"
    assert cell.folder.metrics_file.read_bytes() == whole.folder.metrics_file.read_bytes()
    assert not [line for line in read_lines(cell.folder.events_file) if line["event"] == "damaged"]
