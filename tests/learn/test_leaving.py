"""Ranks that are done end, however soon after their last exchange."""

from __future__ import annotations

from pathlib import Path

from rank_runner import run_ranks

TIMES = 25


def _times_left(folder: Path) -> int:
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.ranks import join

    for time in range(TIMES):
        with join(read_environment(), folder / str(time)) as ranks:
            for exchange in range(5):
                ranks.largest(exchange)
    return TIMES


def test_ranks_end_each_time(tmp_path):
    # With torch 2.6 a group that ended with Python's lock held waited for ever for a thread that waited for the lock.
    for time in range(TIMES):
        (tmp_path / str(time)).mkdir()
    assert run_ranks(2, _times_left, tmp_path, timeout=60) == [TIMES, TIMES]
