"""Ranks ask each other seldom, and still stop at one step, soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rank_runner import run_ranks

from hpcseg.learn import ranks as learn_ranks
from hpcseg.learn.ranks import GO_ON, SAVE, STOP, Agreement, Ranks

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
        agree, wished = Agreement(ranks, 1e9), 0.0
        for step in range(steps):
            if step == wished_at:
                wished = time.monotonic()
            if agree(stop=ranks.rank == 1 and step == wished_at):
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


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What `time.monotonic` says to the agreement, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(learn_ranks.time, "monotonic", lambda: now[0])
    return now


def test_one_rank_saves_when_the_last_time_is_long_enough_ago_and_stops_at_once(clock):
    agree = Agreement(Ranks(), 30)
    # Seconds since the start, whether it is told to stop, and what it does.
    for after, stop, action in [
        (0, False, GO_ON),
        (30, False, GO_ON),
        (31, False, SAVE),
        (71, False, GO_ON),
        (101, False, GO_ON),
        (102, True, STOP),
    ]:
        clock[0] = 100.0 + after
        assert agree(stop=stop) == action, after
        if action == SAVE:
            clock[0] += 40  # a slow disk: the next 30 s are for steps all the same
            agree.saved()


def test_with_nothing_between_checkpoints_each_step_is_saved(clock):
    agree = Agreement(Ranks(), 0)
    for step in range(3):
        clock[0] += 0.001
        assert agree(stop=False) == SAVE, step
        agree.saved()


@pytest.mark.parametrize(("rank", "action"), [(0, SAVE), (1, GO_ON)])
def test_rank_0_alone_looks_at_the_clock(clock, rank, action):
    ranks = Ranks(rank, 2)
    ranks.largest_each = list  # nobody else wishes anything
    agree = Agreement(ranks, 30)
    clock[0] += 31
    assert agree(stop=False) == action
