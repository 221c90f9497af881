"""A rank that dies, fails or hangs ends the others within a minute, and they say which it was."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from rank_runner import run_ranks, start_ranks

SECONDS = 60


def _what_the_others_say(folder: Path, trouble: str) -> str | None:
    from hpcseg.errors import HpcsegError
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.ranks import join

    try:
        with join(read_environment(), folder) as ranks:
            ranks.wait()
            if ranks.rank == 1:
                if trouble == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise HpcsegError("rank 1 has no disk left")
            # In the middle of a step, whose exchange the other never enters.
            ranks.sum_(torch.zeros(1000))
    except (ConnectionError, HpcsegError) as error:
        return str(error)
    return None


@pytest.mark.parametrize(("trouble", "dies"), [("killed", 1), ("failed", None)])
def test_a_rank_that_ends_is_named_by_all_others(tmp_path, trouble, dies):
    started = time.monotonic()
    said = run_ranks(3, _what_the_others_say, tmp_path, trouble, dies=dies)
    assert time.monotonic() - started < SECONDS
    if trouble == "failed":
        assert said.pop(1) == "rank 1 has no disk left"
    assert said == [f"Rank 1 has ended before rank {rank} was done. Its log says why." for rank in (0, 2)]


def _waits_where_python_cannot_interrupt(folder: Path) -> None:
    from hpcseg.launch import watch
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.ranks import join

    watch._SECONDS_PER_SIGN, watch._SECONDS_TO_LEAVE = 0.5, 1.0

    with join(read_environment(), folder) as ranks:
        ranks.wait()
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(10 * SECONDS)


def test_a_rank_that_waits_for_a_silent_one_is_ended(tmp_path, capfd):
    started, spawn = time.monotonic(), multiprocessing.get_context("spawn")
    (waiting, silent), _ = start_ranks(2, _waits_where_python_cannot_interrupt, tmp_path, context=spawn)
    waiting.join(2 * SECONDS)
    took = time.monotonic() - started
    silent.kill()
    silent.join()
    assert waiting.exitcode == 1 and took < SECONDS + 15, "the libraries of both are loaded first"
    assert "error: Rank 1 has ended before rank 0 was done" in capfd.readouterr().err


PATIENCE = 4


def _waits_for_the_other(folder: Path) -> str:
    from datetime import timedelta

    from hpcseg.launch.environment import read_environment
    from hpcseg.learn import ranks

    ranks.PATIENCE = timedelta(seconds=PATIENCE)
    with ranks.join(read_environment(), folder) as joined:
        if joined.rank == 1:
            (folder / "joined").touch()
            time.sleep(PATIENCE / 2)
        joined.wait()
    return "waited"


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="its gloo keeps the timeout that it began with")
def test_ranks_that_are_suspended_for_longer_than_their_patience_go_on(tmp_path):
    processes, answers = start_ranks(2, _waits_for_the_other, tmp_path)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "joined").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(PATIENCE / 4)
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2 * PATIENCE)
    # The one that waits goes on first, and finds that much time is gone and nothing has come.
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.5)
    for process in processes:
        process.join(SECONDS)
    assert sorted(answers.get() for _ in processes) == [(0, True, "waited"), (1, True, "waited")]
