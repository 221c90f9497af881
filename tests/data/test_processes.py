"""Work spread over processes: answers in order, nothing ahead of its turn, and nobody left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import process_work
import pytest
import tifffile

from hpcseg.data.processes import in_processes
from hpcseg.errors import HpcsegError


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process):
    """No such process, or one that nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("count", [1, 2, 11])
@pytest.mark.parametrize("processes", [2, 3])
def test_answers_come_in_order_from_processes_that_end(processes, count):
    numbers, by = zip(*in_processes(process_work.with_process, range(count), processes=processes), strict=True)
    assert numbers == tuple(range(count))
    assert len(set(by)) <= min(processes, count)
    assert os.getpid() not in by
    assert all(ended(process) for process in by)


@pytest.mark.parametrize("processes", [0, 1])
def test_one_process_is_this_one_and_does_what_is_asked_for_only(processes):
    begun = []

    def work(number):
        begun.append(number)
        return number

    answers = in_processes(work, range(5), processes=processes)
    assert [next(answers), next(answers)] == [0, 1]
    assert begun == [0, 1]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_the_work_arrives_in_its_turn(processes):
    answers = in_processes(process_work.refuse_seven, range(20), processes=processes)
    assert [next(answers) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven") as caught:
        next(answers)
    if processes > 1:
        assert "in refuse_seven" in str(caught.value.__cause__)


def test_a_process_that_is_killed_is_an_error_that_says_so():
    answers = in_processes(process_work.be_killed_at_seven, range(20), processes=2)
    with pytest.raises(HpcsegError, match=r"was ended, or could not begin.*too little memory"):
        list(answers)


def test_a_process_that_cannot_start_is_an_error_that_says_so(monkeypatch, capfd):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "process_work.py").exists()])
    answers = in_processes(process_work.with_process, range(20), processes=2)
    with pytest.raises(HpcsegError, match="could not begin; what it said is above"):
        list(answers)
    assert "No module named 'process_work'" in capfd.readouterr().err


def test_a_process_that_cannot_be_started_is_an_error_that_says_why(monkeypatch):
    def refuse(*_):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen", refuse)
    answers = in_processes(process_work.with_process, range(20), processes=2)
    with pytest.raises(HpcsegError, match="cannot be started: Resource temporarily unavailable"):
        next(answers)


def test_processes_find_modules_where_their_parent_does_and_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "tifffile.py").write_text("raise SystemExit('the one in the current folder')")
    monkeypatch.chdir(tmp_path)
    assert list(in_processes(process_work.where_tifffile_is, range(2), processes=2)) == [tifffile.__file__] * 2


def test_nothing_is_done_far_ahead_of_its_turn(tmp_path):
    answers = in_processes(process_work.leave_a_trace, [(str(tmp_path), number) for number in range(40)], processes=2)
    for taken in range(1, 6):
        next(answers)
        time.sleep(0.2)
        # Two for each process are done, or under way.
        assert len(list(tmp_path.iterdir())) <= taken + 2 * 2
    answers.close()


def test_who_takes_no_more_ends_the_processes():
    answers = in_processes(process_work.with_process, range(10_000), processes=2)
    by = {next(answers)[1] for _ in range(2)}
    answers.close()
    assert all(ended(process) for process in by)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent_whatever_ends_it(tmp_path, number):
    script = (
        f"import sys; sys.path[:] = {sys.path}; import process_work;"
        " from hpcseg.data.processes import in_processes;"
        "items = [(sys.argv[1], number) for number in range(10_000)];"
        "list(in_processes(process_work.wait_and_leave_a_trace, items, processes=2))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a shell has started behind & ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )

    def by():
        return {int(path.name.partition("-")[2]) for path in tmp_path.iterdir()}

    wait_for(lambda: len(by()) == 2)
    # The key on a terminal reaches all of them.
    (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == -number
    wait_for(lambda: all(ended(process) for process in by()))
    assert said.count("Traceback") == (number == signal.SIGINT)  # the parent's own
