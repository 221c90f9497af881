"""Ranks ask each other seldom, and still stop at one step, soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rank_runner import run_ranks

from hpcseg.learn.ranks import Agreement, Ranks

STEPS, WISHED_AT = 2000, 300


def _stopped_at(folder: Path, seconds_per_step: float, steps: int, wished_at: int) -> tuple[int, float, int]:
    """The step before which this rank stopped, seconds since rank 1 wanted it, and how often the ranks have asked."""
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.ranks import Agreement, join

    with join(read_environment(), folder) as ranks:
        asked = 0
        reduce = ranks.largest_each

        def counted(values):
            nonlocal asked
            asked += 1
            return reduce(values)

        ranks.largest_each = counted
        agree, wished = Agreement(ranks), 0.0
        for step in range(steps):
            if step == wished_at:
                wished = time.monotonic()
            if agree(2 if ranks.rank == 1 and step == wished_at else 0):
                return step, time.monotonic() - wished, asked
            time.sleep(seconds_per_step)
        raise AssertionError("nobody has stopped")


def test_short_steps_are_taken_without_asking_and_a_stop_comes_within_a_second(tmp_path):
    answers = run_ranks(2, _stopped_at, tmp_path, 0.002, STEPS, WISHED_AT)
    (first, seconds, asked), (second, _, _) = answers
    assert first == second >= WISHED_AT
    assert seconds < 1
    assert asked < WISHED_AT / 5


def test_long_steps_are_asked_about_each_time(tmp_path):
    assert [answer[0] for answer in run_ranks(2, _stopped_at, tmp_path, 0.3, 9, 4)] == [4, 4]


@pytest.mark.parametrize("wish", [0, 1, 2])
def test_one_rank_has_its_wish_at_once(wish):
    assert Agreement(Ranks())(wish) == wish
