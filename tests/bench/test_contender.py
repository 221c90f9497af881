"""Contenders are processes of their own: what they answer, and what is told when one dies."""

from __future__ import annotations

import contextlib
import os

import pytest

from hpcseg.bench.contender import Contender, started
from hpcseg.errors import HpcsegError


@contextlib.contextmanager
def number(value):
    """A piece that prints, as work does, and answers with its rank as well."""

    def piece(steps):
        print("42 tiles, says the work")
        return 100 * steps + value + int(os.environ["RANK"]) + 10 * int(os.environ["WORLD_SIZE"])

    yield piece


@contextlib.contextmanager
def mortal():
    """A piece that ends its process."""
    yield lambda steps: os._exit(3)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def test_a_piece_is_a_turn_in_another_process_and_rank_0_answers():
    with started({"one": Contender("test_contender:number", {"value": 1}), "two": _two_ranks()}) as pieces:
        assert [pieces["one"](1), pieces["two"](1), pieces["one"](3)] == [111, 125, 311]


def _two_ranks():
    return Contender("test_contender:number", {"value": 5}, world_size=2)


def test_a_contender_that_dies_is_named():
    dead = pytest.raises(HpcsegError, match='contender "mortal" of the bench has died')
    with dead, started({"mortal": Contender("test_contender:mortal", {})}) as pieces:
        pieces["mortal"](1)
        pieces["mortal"](1)
