"""Small tensors between ranks: in order, of any size, and with an error instead of a wait for a rank that has ended."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from hpcseg.learn import exchange
from hpcseg.learn.exchange import Exchange, connect


def _connect(store: dist.Store, rank: int, world_size: int, seconds: float) -> Exchange:
    return connect(store, rank=rank, world_size=world_size, host="localhost", patience=timedelta(seconds=seconds))


@contextlib.contextmanager
def _ranks(world_size: int, *, patience: float = 20) -> Iterator[list[Exchange]]:
    store = dist.HashStore()
    with ThreadPoolExecutor(world_size) as pool, contextlib.ExitStack() as stack:
        ranks = list(pool.map(lambda rank: _connect(store, rank, world_size, patience), range(world_size)))
        for rank in ranks:
            stack.callback(rank.close)
        yield ranks


def _gather_all(ranks: list[Exchange], tensors: list[torch.Tensor], late: float = 0) -> list[torch.Tensor]:
    def gather(rank: int) -> torch.Tensor:
        if rank == 0:
            time.sleep(late)
        return ranks[rank].gather(tensors[rank])

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(gather, range(len(ranks))))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_rank_gets_every_tensor_in_the_order_of_the_ranks(world_size):
    with _ranks(world_size) as ranks:
        # The last are larger than what a connection takes before the other side listens.
        for shape, dtype in (((), torch.int64), ((3, 16), torch.float64), ((300, 5000), torch.float32)):
            own = [torch.full(shape, rank + 1, dtype=dtype) for rank in range(world_size)]
            for answer in _gather_all(ranks, own):
                assert torch.equal(answer, torch.stack(own))
                assert answer.dtype == dtype


def test_a_late_rank_is_waited_for_without_burning_a_core():
    with _ranks(2) as ranks:
        used = time.process_time()
        answers = _gather_all(ranks, [torch.tensor(1.0), torch.tensor(2.0)], late=1)
        assert time.process_time() - used < 0.5
    assert [answer.tolist() for answer in answers] == [[1.0, 2.0], [1.0, 2.0]]


def test_a_rank_that_has_ended_is_an_error_that_names_it_and_no_wait():
    with _ranks(3) as ranks:
        ranks[2].close()
        for rank in (0, 1):
            with pytest.raises(ConnectionError, match=f"Rank 2 has ended before rank {rank} was done"):
                ranks[rank].gather(torch.zeros(1))


def test_a_rank_that_does_not_come_is_waited_for_as_long_as_was_said():
    with _ranks(2, patience=0.3) as ranks, pytest.raises(ConnectionError, match=r"Rank 0 waited .* for rank 1"):
        ranks[0].gather(torch.zeros(1))


def test_a_rank_that_cannot_be_reached_or_does_not_knock_is_named():
    store = dist.HashStore()
    with socket.create_server(("localhost", 0)) as closed:
        port = closed.getsockname()[1]
    store.set("exchange-0", json.dumps({"host": "localhost", "port": port, "token": ""}))
    with pytest.raises(ConnectionError, match=f"Rank 1 cannot reach rank 0 at localhost, port {port}"):
        _connect(store, 1, 2, 5)
    with pytest.raises(ConnectionError, match=r"Rank 0 waited .* for rank 1"):
        _connect(store, 0, 2, 0.2)


def test_a_rank_that_ends_before_it_has_left_its_address_is_named():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(ConnectionError, match=r"Rank 1 was told no address by rank 0 \(.*[tT]imeout"):
        _connect(store, 1, 2, 5)


def test_who_else_knocks_is_sent_away(monkeypatch):
    monkeypatch.setattr(exchange, "_SECONDS_TO_GREET", 0.2)
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_connect, store, 0, 2, 20)
        address = json.loads(store.get("exchange-0"))
        where = (address["host"], address["port"])
        with socket.create_connection(where) as silent, socket.create_connection(where) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: everything\r\n\r\n")
            with socket.create_connection(where):
                pass  # hangs up without a word
            second = _connect(store, 1, 2, 20)
            with contextlib.closing(first.result(timeout=20)) as first_rank, contextlib.closing(second) as second_rank:
                answers = _gather_all([first_rank, second_rank], [torch.tensor(5), torch.tensor(6)])
            assert silent.recv(1) == b""
    assert [answer.tolist() for answer in answers] == [[5, 6], [5, 6]]
