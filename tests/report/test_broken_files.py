"""Any file of a cell may be broken: no command ends with a traceback, and status and report name the same cause."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from finished_cells import beat
from slice_folder import hpcseg

from hpcseg.records.collect import collect
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.record import append_event, write_json

ERROR = "OutOfMemoryError: CUDA out of memory"


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link(file: Path) -> None:
    file.rename(file.with_name("real"))
    file.symlink_to("real")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "emptied": lambda file: file.write_bytes(b""),
    "random bytes": lambda file: file.write_bytes(random.Random(0).randbytes(500)),
    "a list": lambda file: file.write_text("[]\n"),
    "a number": lambda file: file.write_text("3\n"),
    "an empty object": lambda file: file.write_text("{}\n"),
    "numbers in place of texts": lambda file: file.write_text(f'{{"error": 1, "host": [], "time": 1{"0" * 400}}}\n'),
    "nested deeply": lambda file: file.write_text('{"a":' * 10_000 + "3" + "}" * 10_000 + "\n"),
    "a FIFO": fifo,
    "a folder": folder,
    "a link": link,
}
QUICK = (["status", "--json"], ["logs", "*"], ["retry", "--dry-run"])
# What takes longer, or reads the same, meets some of the damage.
SLOW = {
    "random bytes": (["compare"], ["cancel", "--dry-run"]),
    "an empty object": (["export", "*p000*", "--force"], ["clean", "--dry-run"]),
    "numbers in place of texts": (["logs", "--failed"], ["cancel", "--dry-run"]),
    "a FIFO": (["status"], ["report"], ["logs", "--failed"]),
    "a folder": (["cancel", "--dry-run"], ["clean", "--dry-run"], ["status"]),
}


class Seen(NamedTuple):
    """A cell in `status --json`, and the reason for its hole in a report, "" without one."""

    state: str
    epoch: int
    validation: float | None
    note: str
    hole: str


@pytest.fixture
def spoil(finished, tmp_path, monkeypatch) -> Callable[[str, str, str], tuple[Seen, Seen]]:
    """Damages a file of a cell in a copy of a run, and calls all commands; returns the other cell and this one."""

    monkeypatch.chdir(tmp_path)

    def spoiled(what: str, name: str, damage: str) -> tuple[Seen, Seen]:
        run = RunFolder(tmp_path / damage / "run")
        shutil.copytree(finished.path, run.path, ignore=shutil.ignore_patterns("code", "report"))
        shutil.copy(finished.path.parents[1] / "dataset.h5", tmp_path)  # where the run looks for it
        cell = run.cell_folders()[0 if what == "finished" else 1]
        if what != "finished":
            unfinished(cell, running=what == "running")
        DAMAGE[damage](cell.path / name)
        answers = {}
        for command in (*QUICK, *SLOW.get(damage, ())):
            answers[" ".join(command)] = answer(run, finished.path.parents[1] / "dataset.h5", command)
        cells = json.loads(answers["status --json"].stdout)["cells"]
        keys = ("state", "epoch", "validation_accuracy", "note")
        holes = [row.hole.reason if row.hole else "" for row in collect(run).rows]
        seen = [Seen(*(one[key] for key in keys), hole) for one, hole in zip(cells, holes, strict=True)]
        return (seen[1], seen[0]) if what == "finished" else (seen[0], seen[1])

    return spoiled


def unfinished(cell: CellFolder, *, running: bool) -> None:
    """Makes a finished cell one whose last training has failed, and which perhaps trains again."""
    done = ("training.json", "evaluation.json", "slices.jsonl", "examples.npz", "extremes.npz", "model.pt")
    for name in done:
        (cell.path / name).unlink()
    failed = time.time() - 50
    write_json(cell.failure_file, {"stage": "train", "error": ERROR, "rank": 0, "host": "n7", "time": failed})
    append_event(cell.events_file, "start", host="n7")
    if running:
        beat(cell, host=socket.gethostname(), pid=os.getpid(), note="")


def answer(run: RunFolder, dataset: Path, command: list[str]):
    verb, *options = command
    where = [run.path] if verb == "compare" else ["--run", run.path]
    data = ["--data", dataset] if verb in ("report", "export") else []
    out = ["-o", run.path.parent / "model.safetensors"] if verb == "export" else []
    result = hpcseg(verb, *options, *where, *data, *out)
    assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
    if result.exit_code:
        assert verb == "export", (command, result.output)
        assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
        assert str(run.cells) in result.stderr
    return result


FINISHED = Seen("finished", 2, pytest.approx(0.278, abs=0.3), "", "")


@pytest.mark.parametrize("name", ["config.json", "training.json", "evaluation.json", "slices.jsonl"])
def test_a_finished_cell_whose_record_is_broken_has_failed_with_the_cause_of_its_hole(spoil, name):
    for damage in DAMAGE:
        other, cell = spoil("finished", name, damage)
        assert other == FINISHED, damage
        assert cell.hole.startswith("its ") and name in cell.hole, (damage, cell)
        assert (cell.state, cell.note.partition(" Delete ")[0]) == ("failed", f"damaged record: {cell.hole}"), damage


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_finished_cell_whose_other_files_are_broken_is_finished_with_its_numbers(spoil, name):
    for damage in DAMAGE:
        assert spoil("finished", name, damage) == (FINISHED, FINISHED), damage


@pytest.mark.parametrize("name", ["config.json", "events.jsonl", "failure.json", "metrics.jsonl"])
def test_a_failed_cell_has_the_cause_of_its_hole_whatever_else_is_broken(spoil, name):
    for damage in DAMAGE:
        other, cell = spoil("failed", name, damage)
        assert other == FINISHED, damage
        error, epoch, more = ERROR, 2, ""
        if name == "failure.json":
            error = "its failure.json cannot be read"
        if name == "metrics.jsonl":
            epoch, more = 0, "; its metrics.jsonl cannot be read"
        kind = "error" if name == "failure.json" else "out of GPU memory"
        assert cell[:2] == ("failed", epoch), damage
        assert cell[3:] == (f"{kind}: {error}{more}", f"its last attempt failed: {error}."), damage


@pytest.mark.parametrize("name", ["failure.json", "metrics.jsonl", "progress.json"])
def test_a_running_cell_runs_whatever_is_broken_but_its_heartbeat(spoil, name):
    for damage in DAMAGE:
        other, cell = spoil("running", name, damage)
        assert other == FINISHED, damage
        if name == "progress.json":
            assert cell[:2] == ("failed", 2) and ERROR in cell.note and ERROR in cell.hole, damage
        else:
            unread = name == "metrics.jsonl"
            assert cell[:2] == ("running", 0 if unread else 2), damage
            assert cell.note == ("its metrics.jsonl cannot be read" if unread else ""), damage
