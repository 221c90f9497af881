"""Ctrl-C, SIGTERM and a closed terminal: local cells stop with a checkpoint, and the same command goes on from it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rank_runner import run_cell_stage, run_ranks
from slice_folder import hpcseg
from terminal import session

from hpcseg.cluster.local import ranks_of
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import write_plan
from hpcseg.runs.record import read_json, read_lines

JOB = """
[data]
tile_size = 64
tiles = "1x2"
[train]
width = 4
depth = 2
epochs = EPOCHS
batch_size = 4
precision = "fp32"
noise_fraction = 0.5
noise_sigma_max = "42 %"
[evaluate]
whole_slices = false
[needs]
gpus = 0
"""


def as_from_a_shell() -> None:
    """The tests themselves may run under nohup or behind a `&`, which a new process would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def in_a_terminal() -> None:
    as_from_a_shell()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Place:
    """A folder with a job of one cell over the tiny data set, and the commands on it."""

    def __init__(self, folder: Path, dataset: Path, epochs: int) -> None:
        (folder / "study.toml").write_text(JOB.replace("EPOCHS", str(epochs)))
        self._folder, self._dataset = folder, dataset

    def command(self, verb: str, *arguments: str, run: str = "run") -> list[str]:
        """`hpcseg VERB ... --run RUN`; of `grid` and `train` with the job."""
        job = ["--job", str(self._folder / "study.toml"), "--data", str(self._dataset)]
        planned = {"grid": ["--local", *job], "train": ["*", *job]}.get(verb, [])
        return [sys.executable, "-m", "hpcseg", verb, *planned, *arguments, "--run", str(self._folder / run)]

    def run(self, verb: str, *arguments: str, run: str = "run", code: int = 0) -> str:
        """What a command prints that ends by itself."""
        answer = subprocess.run(self.command(verb, *arguments, run=run), capture_output=True, text=True, timeout=240)
        assert answer.returncode == code, answer.stderr
        return answer.stdout + answer.stderr

    def leave_alone(self, ranks: int, *, run: str) -> None:
        """Do the cell in ranks that nobody disturbs, and that need no queue."""
        planned = plan_run(str(self._folder / "study.toml"), self._dataset, self._folder / run, ())
        write_plan(planned)
        for stage in ("train", "evaluate"):
            assert set(run_ranks(ranks, run_cell_stage, planned.cells[0].folder.path, stage)) == {"finished"}

    def cell(self, run: str = "run") -> Path:
        (cell,) = (self._folder / run / "cells").iterdir()
        return cell

    def events(self) -> list[str]:
        return [event["event"] for event in read_lines(self.cell() / "events.jsonl") if event["event"] != "epoch"]

    def wait_for_epoch(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while not list(self._folder.glob("run/cells/*/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def hold_ranks(self) -> list[int]:
        """Hold the ranks still that run, as if their step took an hour; returns their processes."""
        job_id = read_lines(self._folder / "run/submissions.jsonl")[-1]["job"]
        ranks = ranks_of(job_id) or []
        for rank in ranks:
            os.kill(rank, signal.SIGSTOP)
        return ranks

    def is_stopped(self) -> None:
        """All that is to be true of the cell once its command has ended."""
        cell = self.cell()
        # Of a rank that had not come so far there is none.
        with (cell / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a rank is still alive
        assert not (cell / "failure.json").exists()
        # Not of the process that was stopped: those need none of their own.
        run = ("--run", self._folder / "run")
        (status,) = json.loads(hpcseg("status", "--json", *run).stdout)["cells"]
        assert (status["state"], status["note"]) == ("stopped", "stopped by you")
        said = hpcseg("logs", "--failed", *run)
        assert said.exit_code == 0, said.output
        logs = said.output
        assert "stopped by you" in logs and "memory" not in logs and "MaxRSS" not in logs
        assert all("Traceback" not in log.read_text() for log in cell.parents[1].glob("logs/*.out"))

    def stopped_with_a_checkpoint(self) -> None:
        self.is_stopped()
        assert self.events() == ["start", "stop"] and (self.cell() / "checkpoint.pt").exists()


@pytest.fixture
def endless(tmp_path, tiny_dataset) -> Place:
    return Place(tmp_path, tiny_dataset, 100_000)


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, of which nothing is left alive."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=as_from_a_shell,
    ) as process:  # fmt: skip
        yield process
    assert session(process.pid) == []


class Terminal:
    """A command on a terminal of its own, as a user has it before them."""

    def __init__(self, command: list[str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, text=True, start_new_session=True,
            preexec_fn=in_a_terminal,
        )  # fmt: skip
        os.close(slave)
        self.screen, self._closing = b"", False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while not self._closing:
                # A read that waits would keep the terminal open.
                if select.select([self._master], [], [], 0.1)[0]:
                    self.screen += os.read(self._master, 65536)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows it."""
        deadline = time.monotonic() + 60
        while text.encode() not in self.screen:
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        self._closing = True
        self._reader.join()
        os.close(self._master)

    def wait(self) -> str:
        """The screen when the command has ended."""
        self.process.wait(60)
        self._reader.join(10)
        return self.screen.decode()


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("grid", signal.SIGINT),
        ("grid", signal.SIGTERM),
        ("grid", signal.SIGHUP),
        ("train", signal.SIGINT),
        ("train", signal.SIGTERM),
    ],
)
def test_a_signal_stops_with_a_checkpoint_and_says_that_the_same_command_goes_on(endless, verb, number):
    with started(endless.command(verb)) as process:
        endless.wait_for_epoch(process)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in said
    assert said.count("Stopped by you. The same command goes on where it was.\n") == 1
    endless.stopped_with_a_checkpoint()


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_on_a_terminal_stops_and_the_next_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path, tiny_dataset, ranks, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the ranks have it that are left alone
    place = Place(tmp_path, tiny_dataset, 12)
    options = ("--ranks-per-node", str(ranks))
    terminal = Terminal(place.command("grid", *options))
    place.wait_for_epoch(terminal.process)
    held = place.hold_ranks()  # so that twelve epochs are enough on any machine
    terminal.press_ctrl_c()
    terminal.wait_for("Ctrl-C again ends at once.")
    time.sleep(0.5)
    for rank in held:
        os.kill(rank, signal.SIGCONT)
    screen = terminal.wait()
    assert terminal.process.returncode == 130 and "Traceback" not in screen
    assert screen.count("Stopped by you. The same command goes on where it was.") == 1
    assert session(terminal.process.pid) == []
    place.stopped_with_a_checkpoint()
    reached = len(read_lines(place.cell() / "metrics.jsonl"))

    assert "1 cell finished, 0 failed" in place.run("grid", *options)
    assert place.events() == ["start", "stop", "resume", "trained", "evaluate", "evaluated"]
    epochs = [event["epoch"] for event in read_lines(place.cell() / "events.jsonl") if event["event"] == "epoch"]
    assert reached and epochs == list(range(1, len(epochs) + 1)), "no epoch was trained twice"
    place.leave_alone(ranks, run="undisturbed")
    for file in ("metrics.jsonl", "slices.jsonl"):
        assert (place.cell() / file).read_bytes() == (place.cell("undisturbed") / file).read_bytes()
    model = [read_json(place.cell(run) / "training.json")["model_sha256"] for run in ("run", "undisturbed")]
    assert model[0] == model[1]


def test_a_closed_terminal_stops_with_a_checkpoint(endless):
    terminal = Terminal(endless.command("grid"))
    endless.wait_for_epoch(terminal.process)
    terminal.close()
    terminal.process.wait(60)
    assert session(terminal.process.pid) == []
    endless.stopped_with_a_checkpoint()


def test_it_stops_with_a_checkpoint_also_where_nobody_reads_what_it_says(endless):
    """`hpcseg grid 2>&1 | tee log` in a terminal that is closed: tee is gone first."""
    with started(endless.command("grid")) as process:
        endless.wait_for_epoch(process)
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(signal.SIGHUP)
        process.wait(60)
    endless.stopped_with_a_checkpoint()


def test_a_second_ctrl_c_ends_at_once(endless):
    terminal = Terminal(endless.command("grid"))
    endless.wait_for_epoch(terminal.process)
    endless.hold_ranks()
    terminal.press_ctrl_c()
    terminal.wait_for("Ctrl-C again ends at once.")
    with pytest.raises(subprocess.TimeoutExpired):
        terminal.process.wait(2)
    terminal.press_ctrl_c()
    screen = terminal.wait()
    assert terminal.process.returncode == 130 and "Traceback" not in screen
    assert screen.count("Stopped by you. The same command goes on where it was.") == 1
    assert session(terminal.process.pid) == []
    endless.is_stopped()


def test_ctrl_c_before_the_first_step_leaves_a_cell_that_the_same_command_begins(tmp_path, tiny_dataset):
    place = Place(tmp_path, tiny_dataset, 2)
    terminal = Terminal(place.command("grid"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/submissions.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    terminal.press_ctrl_c()
    screen = terminal.wait()
    assert terminal.process.returncode == 130 and "Traceback" not in screen and "Stopped by you" in screen
    place.is_stopped()
    assert "1 cell finished, 0 failed" in place.run("grid")


def test_retry_goes_on_with_what_was_stopped_and_is_stopped_in_the_same_way(endless):
    with started(endless.command("grid")) as process:
        endless.wait_for_epoch(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    with started(endless.command("retry")) as process:
        deadline = time.monotonic() + 60
        while endless.events()[-1] != "resume":
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "stopped by you. The same command goes on" in said and "memory" not in said
    assert endless.events() == ["start", "stop", "resume", "stop"]
    endless.is_stopped()
