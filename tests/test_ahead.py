"""Work by threads on a long list: in order, and with a bounded part of it in memory."""

from __future__ import annotations

import time

import pytest

from hpcseg.ahead import ahead


@pytest.mark.parametrize("at_most", [1, 2, 4])
def test_few_are_in_memory_however_slow_the_reader_is(monkeypatch, at_most):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    begun = []

    def work(number):
        begun.append(number)
        return -number

    in_memory, answers = [], []
    for taken, answer in enumerate(ahead(work, range(30), at_most=at_most)):
        time.sleep(0.02)
        answers.append(answer)
        in_memory.append(len(begun) - taken)
    assert answers == [-number for number in range(30)]
    assert max(in_memory) == at_most


def test_an_error_arrives_in_its_turn_and_nothing_more_is_begun():
    begun = []

    def work(number):
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    answers = ahead(work, range(1000), at_most=2)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(answers)
    assert len(begun) < 8
