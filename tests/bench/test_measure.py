"""Turns, medians and ratios of contenders, with clocks that the test winds."""

from __future__ import annotations

import pytest

from hpcseg.bench.measure import Rates, rate, take_turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that contenders wind; it stands still otherwise."""
    hands = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: hands[0])
    return hands


@pytest.fixture
def contender(clock):
    """Makes contenders that take so many seconds per step, and note their turns."""
    turns = []

    def make(name, seconds_per_step):
        def piece(steps):
            turns.append((name, steps))
            clock[0] += steps * seconds_per_step
            return 1 / seconds_per_step

        return piece

    make.turns = turns
    return make


def test_every_contender_has_one_turn_per_round_and_each_goes_first(contender):
    rates = take_turns({name: contender(name, 5.0) for name in "abc"}, seconds=1, rounds=4)
    counted = contender.turns[6:]  # two of each to find the number of steps
    assert "".join(name for name, _ in counted) == "abc" + "bca" + "cab" + "abc"
    assert rates.rounds == {name: (0.2,) * 4 for name in "abc"}


def test_turns_are_about_as_long_as_wanted_whatever_a_step_takes(contender):
    take_turns({"quick": contender("quick", 0.01), "slow": contender("slow", 0.7)}, seconds=4, rounds=1)
    assert contender.turns[-2:] == [("quick", 400), ("slow", 6)]


@pytest.mark.parametrize(("seconds_per_step", "found_out_in"), [(10.0, 2), (60.0, 1)])
def test_a_step_that_is_longer_than_a_turn_is_a_turn(contender, seconds_per_step, found_out_in):
    take_turns({"a": contender("a", seconds_per_step)}, seconds=4, rounds=2)
    assert contender.turns == [("a", 1)] * (found_out_in + 2)


def test_a_machine_that_drifts_does_not_change_a_ratio():
    # Half as fast in each round as before; the one is always 3 times the other.
    rates = Rates({"ours": (300, 150, 75, 37.5, 18.75), "other": (100, 50, 25, 12.5, 6.25)})
    assert rates.ratio("ours", "other") == 3
    assert rates.median("other") == 25
    assert rates.quartile_distance("other") > 1


def test_the_spread_of_equal_rounds_is_nothing_and_of_two_is_not_known():
    assert Rates({"a": (7.0, 7.0, 7.0)}).quartile_distance("a") == 0
    assert Rates({"a": (7.0, 70.0)}).quartile_distance("a") == 0


def test_a_rate_is_units_by_seconds(clock):
    def work():
        clock[0] += 4

    assert rate(20, work) == pytest.approx(5)
