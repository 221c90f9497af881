"""Contenders are processes of their own: what they answer, and what is told when one dies."""

from __future__ import annotations

import contextlib
import os

import pytest

from hpcseg.bench.contender import Contender, started
from hpcseg.errors import HpcsegError


@contextlib.contextmanager
def number(value):
    """A piece that prints, as work does."""

    def piece(steps):
        print("42 tiles, says the work")
        return 100 * steps + value

    yield piece


@contextlib.contextmanager
def mortal():
    """A piece that ends its process."""
    yield lambda steps: os._exit(3)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def test_a_piece_is_a_turn_in_another_process():
    contenders = {name: Contender("test_contender:number", {"value": value}) for name, value in (("a", 1), ("b", 5))}
    with started(contenders) as pieces:
        assert [pieces["a"](1), pieces["b"](1), pieces["a"](3)] == [101, 105, 301]


def test_a_contender_that_dies_is_named():
    dead = pytest.raises(HpcsegError, match='contender "mortal" of the bench has died')
    with dead, started({"mortal": Contender("test_contender:mortal", {})}) as pieces:
        pieces["mortal"](1)
        pieces["mortal"](1)
