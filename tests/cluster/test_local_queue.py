"""The queue on this machine when something goes wrong: a rank that dies without a word, a cell that is cancelled."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit.local.local
from small_job import small_job
from terminal import session

from hpcseg.cluster import ledger, local, worker
from hpcseg.cluster.cancel import cancel_cells
from hpcseg.cluster.local import find_slots, run_locally
from hpcseg.cluster.processes import lives
from hpcseg.cluster.states import run_status
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze
from hpcseg.runs.grid import Cell, Grid, plan, write_plan
from hpcseg.runs.record import read_lines, write_json
from hpcseg.runs.state import State
from hpcseg.runs.wish import is_left_out, leave_out

# In the worker's place: notes when it ran; what a rank does is decided by the test. In the file "looks" the queue notes
# how many ranks it has seen alive at each look.
RANK = """
import json, os, signal, sys, time

behaviour, run, *cells = sys.argv[1:]

def note(word):
    with open(os.path.join(run, "cells", "log"), "a") as log:
        log.write(f"{word} {time.monotonic()}\\n")

def looks():
    try:
        with open(os.path.join(run, "cells", "looks")) as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []

def wait(holds):
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the queue has not looked for a minute")
        time.sleep(0.05)

def wait_for_a_look():
    before = len(looks())  # of which the last may be under way
    wait(lambda: len(looks()) >= before + 2)

note("start")
if behaviour == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "rank 1 dies" and os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
    wait(lambda: 2 in looks())
    os.kill(os.getpid(), signal.SIGKILL)
def fail():
    with open(os.path.join(run, "cells", cells[0], "failure.json"), "w") as failure:
        json.dump({"error": "ValueError: no", "rank": 0, "time": time.time()}, failure)

if behaviour == "first fails":
    fail()
    wait_for_a_look()
    print(f"== {cells[0]}: failed\\n== {cells[1]}: train", flush=True)
    wait_for_a_look()
    print(f"== {cells[1]}: finished", flush=True)
if behaviour == "rank 1 fails" and os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
    wait(lambda: 2 in looks())
    fail()
    sys.exit(1)
time.sleep(600 if behaviour.startswith("rank 1") else 1.5)
note("end")
"""


# Beyond the largest number that Linux gives.
NO_PROCESS = 2**22 + 1


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


class Stub:
    behaviour = "sleeps"

    @classmethod
    def command(cls, run: RunFolder, cells: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", RANK, cls.behaviour, str(run.path.resolve()), *cells]


@pytest.fixture
def grid(tmp_path) -> Grid:
    planned = plan(load_job(find_shipped("job", "demo")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    write_plan(planned)
    return planned


@pytest.fixture
def stub(monkeypatch, grid):
    ranks_of = local.ranks_of

    def noted(job_id: str) -> list[int] | None:
        alive = ranks_of(job_id)
        with (grid.run.path / "cells/looks").open("a") as file:
            file.write(f"{len(alive or [])}\n")
        return alive

    monkeypatch.setattr(local, "ranks_of", noted)
    monkeypatch.setattr(worker, "command", Stub.command)
    return Stub


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background of a script"])
def sigint(request):
    """What a shell has left SIGINT at: a script's `hpcseg grid &` ignores it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_rank_that_is_killed_does_not_leave_the_others_hanging(grid, stub, monkeypatch, sigint):
    monkeypatch.setattr(stub, "behaviour", "rank 1 dies")
    monkeypatch.setattr(local, "_SECONDS_BETWEEN_ENDS", 1.0)
    said = []
    started = time.monotonic()
    summary = run_locally(
        grid.cells[:1], grid.run, slots=[()], ranks=2, on_event=lambda kind, cell, details: said.append((kind, details))
    )
    assert time.monotonic() - started < 60
    assert summary == {grid.cells[0].id: State.FAILED}
    assert "ended without a word" in said[-1][1]["error"] and Path(said[-1][1]["log"]).exists()


def test_a_rank_that_fails_does_not_leave_the_others_hanging(grid, stub, monkeypatch):
    monkeypatch.setattr(stub, "behaviour", "rank 1 fails")
    monkeypatch.setattr(local, "_SECONDS_FOR_OTHER_RANKS", 0.5)
    started = time.monotonic()
    summary = run_locally(grid.cells[:1], grid.run, slots=[()], ranks=2, on_event=lambda *_: None)
    assert time.monotonic() - started < 60, "as long as after one that has left no word"
    assert summary == {grid.cells[0].id: State.FAILED}


def test_a_rank_that_has_ended_by_itself_keeps_nothing_from_being_killed(grid, stub, monkeypatch):
    monkeypatch.setattr(local, "ranks_of", lambda job_id: [NO_PROCESS])

    def second_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=second_ctrl_c)
    assert not lives(int(ledger.read(grid.run).jobs[grid.cells[0].id].job_id)), "its controller"


def test_where_the_system_does_not_tell_of_ranks_none_is_missed(grid, stub, monkeypatch):
    monkeypatch.setattr(local, "_SECONDS_BETWEEN_ENDS", 0.0)
    tells = local.ranks_of
    assert tells(str(os.getpid())) is not None
    monkeypatch.setattr(local, "ranks_of", lambda job_id: tells(str(NO_PROCESS)))
    run_locally(grid.cells[:1], grid.run, slots=[()], ranks=2, on_event=lambda *_: None)
    assert (grid.run.path / "cells/log").read_text().count("end") == 2


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
def test_a_cell_ends_as_ever_where_nobody_reads_what_is_said_of_it(grid, stub, error):
    def nobody_reads(*_: object) -> None:
        raise error

    summary = run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=nobody_reads)
    assert summary == {grid.cells[0].id: State.FAILED}
    assert (grid.run.path / "cells/log").read_text().count("end") == 1


def test_a_log_that_somebody_removes_ends_no_queue(grid, stub):
    def remove(state: str, *_: object) -> None:
        if state != "started":
            return
        deadline = time.monotonic() + 60
        while not (found := list(grid.run.logs.glob("*_log.out"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for log in found:
            log.unlink()

    summary = run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=remove)
    assert summary == {grid.cells[0].id: State.FAILED}


def test_no_pickle_that_somebody_has_left_in_the_logs_is_loaded(tmp_path, grid, stub, monkeypatch):
    """Numbers of processes can be guessed: here is one for the next job, and a killed rank writes none of its own."""
    start, canary = submitit.local.local.start_controller, tmp_path / "canary"

    def start_beside_a_pickle(*arguments, **options):
        process = start(*arguments, **options)
        for name in ("0_result", "submitted"):
            (grid.run.logs / f"{process.pid}_{name}.pkl").write_bytes(pickle.dumps(Canary(canary)))
        return process

    monkeypatch.setattr(submitit.local.local, "start_controller", start_beside_a_pickle)
    monkeypatch.setattr(stub, "behaviour", "dies")
    summary = run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=lambda *_: None)
    assert summary == {grid.cells[0].id: State.FAILED} and not canary.exists()


def test_no_more_cells_run_at_once_than_there_are_slots(grid, stub):
    run_locally(grid.cells, grid.run, slots=[(), ()], ranks=1, cells_per_job=1, on_event=lambda *_: None)
    lines = [line.split() for line in (grid.run.path / "cells/log").read_text().splitlines()]
    at_once, most = 0, 0
    for kind, _ in sorted(lines, key=lambda line: float(line[1])):
        at_once += 1 if kind == "start" else -1
        most = max(most, at_once)
    assert len(lines) == 2 * len(grid.cells) == 8 and most == 2


def hpcseg(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hpcseg", *arguments, "--run", str(folder / "run")]


@contextlib.contextmanager
def endless_grid(folder: Path, dataset: Path, seeds: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`hpcseg grid --local` of cells that never end, in a session of its own."""
    (folder / "endless.toml").write_text(small_job(f"train.seed = {seeds}", epochs=100_000))
    command = hpcseg(folder, "grid", "--local", "--job", str(folder / "endless.toml"), "--data", str(dataset))
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # or a test that fails would wait for it for ever


def wait_for_cells(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("run/cells/*/metrics.jsonl"))) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("cells_per_job", ["1", "3"])
def test_cancelling_a_local_run_ends_its_queue_and_one_cell_is_followed_by_the_next(
    tmp_path, tiny_dataset, cells_per_job
):
    with endless_grid(tmp_path, tiny_dataset, "[0, 1, 2]", "--cells-per-job", cells_per_job) as process:
        wait_for_cells(process, tmp_path, 1)
        subprocess.run(hpcseg(tmp_path, "cancel", "*-s0-*"), check=True, stdout=subprocess.DEVNULL)
        wait_for_cells(process, tmp_path, 2)
        subprocess.run(hpcseg(tmp_path, "cancel"), check=True, stdout=subprocess.DEVNULL)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Stopped by you" in said
    assert len(list(tmp_path.glob("run/cells/*/metrics.jsonl"))) == 2, "the third was never begun"
    assert session(process.pid) == []


def test_cancel_tells_a_local_cell_that_has_no_heartbeat_yet(grid, monkeypatch):
    monkeypatch.setattr("hpcseg.cluster.cancel.queue_of", lambda job_id: NO_PROCESS)  # it has ended since
    told = []

    def cancel(kind: str, cell: Cell, details: object) -> None:
        if kind == "started":
            told.append(cancel_cells(run_status(grid.run), [cell.id], with_report=True, dry_run=False))

    run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=cancel)
    job = ledger.read(grid.run).jobs[grid.cells[0].id]
    assert told == [{grid.cells[0].id: f"process {job.job_id} on this machine"}]
    assert is_left_out(grid.cells[0].folder, job.job_id)


def test_a_process_that_dies_takes_no_cell_with_it_whose_turn_had_not_come(grid, stub, monkeypatch):
    """The next process takes those; each of these dies at its first cell."""
    monkeypatch.setattr(stub, "behaviour", "dies")
    summary = run_locally(grid.cells, grid.run, slots=[()], ranks=1, on_event=lambda *_: None)
    assert summary == {cell.id: State.FAILED for cell in grid.cells}
    handed_out = [line["cells"] for line in read_lines(grid.run.submissions_file)]
    ids = [cell.id for cell in grid.cells]
    assert handed_out == [[ids], [ids[1:]], [ids[2:]], ids[3:]]


def test_a_process_of_one_rank_goes_on_when_a_cell_has_failed(grid, stub, monkeypatch):
    """Of several ranks the others would wait for the failed one."""
    monkeypatch.setattr(stub, "behaviour", "first fails")
    monkeypatch.setattr(local, "_SECONDS_FOR_OTHER_RANKS", 0.0)
    summary = run_locally(grid.cells[:2], grid.run, slots=[()], ranks=1, on_event=lambda *_: None)
    assert summary == {grid.cells[0].id: State.FAILED, grid.cells[1].id: State.FINISHED}
    assert len(read_lines(grid.run.submissions_file)) == 1, "in one process"


def test_a_process_gets_no_more_cells_than_a_command_line_holds(grid, stub, monkeypatch):
    monkeypatch.setattr(stub, "behaviour", "dies")
    monkeypatch.setattr(local, "MOST_CELLS_OF_A_JOB", 2)
    run_locally(grid.cells, grid.run, slots=[()], ranks=1, on_event=lambda *_: None)
    one, two, three, four = (cell.id for cell in grid.cells)
    handed_out = [line["cells"] for line in read_lines(grid.run.submissions_file)]
    assert handed_out == [[[one, two]], [[two, three]], [[three, four]], [four]]


def test_several_slots_share_the_cells_in_jobs_that_end_together(grid, stub):
    run_locally(grid.cells, grid.run, slots=[(), ()], ranks=1, on_event=lambda *_: None)
    assert [len(line["cells"]) for line in read_lines(grid.run.submissions_file)] == [1] * len(grid.cells)


def test_gpus_are_shared_out_in_groups_and_workers_may_share_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert find_slots(None, 1) == [("2",), ("3",), ("5",), ("7",)]
    assert find_slots(None, 2) == [("2", "3"), ("5", "7")]
    assert find_slots(1, 2) == [("2", "3")]
    assert find_slots(6, 1) == [("2",), ("3",), ("5",), ("7",), ("2",), ("3",)]
    with pytest.raises(ConfigError, match="One cell wants 5 GPUs, but 4"):
        find_slots(None, 5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_slots(None, 1) == [()] and find_slots(3, 1) == [(), (), ()]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert find_slots(None, 0) == [()], "told to use none"


def test_what_failed_before_is_no_failure_of_the_attempt_that_runs(grid, stub, monkeypatch):
    monkeypatch.setattr(local, "_SECONDS_FOR_OTHER_RANKS", 0.0)
    cell = grid.cells[0]
    write_json(cell.folder.failure_file, {"error": "of yesterday", "rank": 0, "time": time.time() - 100})
    told = []
    run_locally([cell], grid.run, slots=[()], ranks=2, on_event=lambda kind, of, details: told.append(details))
    assert (cell.folder.path.parent / "log").read_text().count("end") == 2, "they were not ended by us"
    assert "of yesterday" not in str(told)


def test_a_process_that_has_the_number_of_an_earlier_one_has_neither_its_log_nor_its_wishes(grid, stub, monkeypatch):
    """As in a container, where the numbers begin anew at each start of it."""
    first, second = grid.cells[:2]
    log = grid.run.logs / "15_0_log.out"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"== {first.id}: failed\n")
    for cell, job in ((first, "15"), (second, "16")):
        cell.folder.path.mkdir(parents=True, exist_ok=True)
        leave_out(cell.folder, job)
    monkeypatch.setattr(submitit.local.local, "start_controller", lambda *_, **__: SimpleNamespace(pid=15))
    begun = local._start([first, second], grid.run, freeze(grid.run), (), 1)
    assert not is_left_out(first.folder, "15") and is_left_out(second.folder, "16")
    told, summary = [], dict[str, State]()
    local._read_log(begun, summary, lambda *of: told.append(of))
    assert (told, summary) == ([], {})
    with log.open("a") as file:
        file.write(f"== {first.id}: finished\n")
    local._read_log(begun, summary, lambda *of: told.append(of))
    assert summary == {first.id: State.FINISHED}


def test_a_full_disk_on_which_nothing_can_be_written_down_is_called_that(grid, stub, monkeypatch):
    """As with 24 KiB left: room for the log's first lines, and none for what has ended the process."""
    disk = os.statvfs(grid.run.path)
    full = os.statvfs_result((disk.f_bsize, disk.f_frsize, disk.f_blocks, 2, 2, *disk[5:10]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    said = []
    run_locally(
        grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=lambda kind, cell, details: said.append(details)
    )
    assert "the disk is full" in said[-1]["error"]
