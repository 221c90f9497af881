"""Turns, medians and ratios of contenders, with clocks that the test winds."""

from __future__ import annotations

import pytest

from hpcseg.bench.measure import Rates, rate, take_turns


def test_every_contender_has_one_turn_per_round_and_each_goes_first():
    turns = []

    def contender(name):
        return lambda: turns.append(name) or 1.0

    rates = take_turns({name: contender(name) for name in "abc"}, rounds=3)
    assert "".join(turns) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(found) for name, found in rates.rounds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_first_round_does_not_count():
    cold = iter((1.0, 10.0, 12.0))
    assert take_turns({"a": lambda: next(cold)}, rounds=2).rounds == {"a": (10.0, 12.0)}


def test_a_machine_that_drifts_does_not_change_a_ratio():
    # Half as fast in each round as before; the one is always 3 times the other.
    rates = Rates({"ours": (300, 150, 75, 37.5, 18.75), "other": (100, 50, 25, 12.5, 6.25)})
    assert rates.ratio("ours", "other") == 3
    assert rates.median("other") == 25
    assert rates.spread("other") > 1


def test_the_spread_of_equal_rounds_is_nothing_and_of_two_is_not_known():
    assert Rates({"a": (7.0, 7.0, 7.0)}).spread("a") == 0
    assert Rates({"a": (7.0, 70.0)}).spread("a") == 0


def test_a_rate_is_units_by_seconds(monkeypatch):
    clock = iter((10.0, 14.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert rate(20, lambda: None) == pytest.approx(5)
