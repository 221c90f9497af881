"""Small tensors from every rank to every other, over sockets of their own.

gloo hands an exchange to threads of its own and lets the caller sleep, so a few hundred bytes take one to two
milliseconds between cores that were busy. On CPU ranks a training step has dozens of such exchanges, one behind the
other (batch normalisation), and everything waits for them. Here the caller sends and listens itself, and stays awake as
long as a rank that is not late needs. Large tensors, such as gradients, go other ways.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_AWAKE_SECONDS = 0.02
_TOKEN_BYTES = 16
_RANK_DIGITS = 8
_SECONDS_TO_GREET = 5.0


class Exchange:
    """One connection to each other rank. All ranks call the same methods in the same order.

    Args:
        rank: this one.
        peers: a connected socket per other rank.
        patience: how long to wait for the others.
    """

    def __init__(self, rank: int, peers: dict[int, socket.socket], patience: timedelta) -> None:
        self._rank = rank
        self._peers = peers
        self._patience = patience.total_seconds()
        for connection in peers.values():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Every rank's tensor, (world size, *shape of one), in the order of the ranks.

        Args:
            own: on the CPU; of the same shape and dtype on all ranks.

        Raises:
            ConnectionError: another rank has ended, or did not come in time.
        """
        every = own.new_empty(len(self._peers) + 1, *own.shape)
        every[self._rank] = own
        content = every[self._rank].numpy().data.cast("B")
        to_send = dict.fromkeys(self._peers, content)
        to_come = {peer: every[peer].numpy().data.cast("B") for peer in self._peers}
        started = time.monotonic()
        while to_send or to_come:
            moved = self._move(to_send, socket.socket.send) | self._move(to_come, socket.socket.recv_into)
            if moved:
                continue
            waited = time.monotonic() - started
            if waited > self._patience:
                raise _too_late(self._rank, min(to_come or to_send), self._patience)
            if waited < _AWAKE_SECONDS:
                os.sched_yield()
            else:
                self._sleep(to_send, to_come, self._patience - waited)
        return every

    def _move(self, left: dict[int, memoryview], transfer: Callable[[socket.socket, memoryview], int]) -> bool:
        """Send or receive what can be without waiting; says whether anything was. `left` loses what is done."""
        moved = False
        for peer, content in list(left.items()):
            try:
                count = transfer(self._peers[peer], content)
            except BlockingIOError:
                continue
            except OSError:
                count = 0
            if not count:
                raise ConnectionError(f"Rank {peer} has ended before rank {self._rank} was done. Its log says why.")
            moved = True
            left[peer] = content[count:]
            if not left[peer]:
                del left[peer]
        return moved

    def _sleep(self, to_send: dict[int, memoryview], to_come: dict[int, memoryview], seconds: float) -> None:
        poll = select.poll()
        for peer in to_send.keys() | to_come.keys():
            events = (select.POLLOUT if peer in to_send else 0) | (select.POLLIN if peer in to_come else 0)
            poll.register(self._peers[peer], events)
        poll.poll(1000 * seconds)

    def __deepcopy__(self, memo: dict[int, Any]) -> Exchange:
        """A copy of a network that is synchronised speaks over the same connections."""
        return self

    def close(self) -> None:
        """Hang up."""
        for connection in self._peers.values():
            connection.close()


def connect(
    store: dist.Store,  # type: ignore[name-defined]  # missing in torch's annotations
    *,
    rank: int,
    world_size: int,
    host: str,
    patience: timedelta,
) -> Exchange:
    """Connect this rank with every other one; all ranks do it together.

    Args:
        store: in which they leave their addresses; it waits for them as long as it was told.
        rank: this one.
        world_size: how many there are.
        host: this node's name, as the other nodes know it.
        patience: how long to wait for the others, here and later.

    Raises:
        ConnectionError: another rank cannot be reached, or did not come in time.
    """
    peers: dict[int, socket.socket] = {}
    # Whoever else knocks does not know the token.
    token = secrets.token_hex(_TOKEN_BYTES)
    deadline = time.monotonic() + patience.total_seconds()
    with socket.create_server(("", 0), backlog=world_size) as listener:
        store.set(f"exchange-{rank}", json.dumps({"host": host, "port": listener.getsockname()[1], "token": token}))
        for peer in range(rank):
            try:
                address = json.loads(store.get(f"exchange-{peer}"))
            except RuntimeError as error:  # torch's own, after the store's patience or when it is gone
                reason = str(error).partition("\n")[0]
                raise ConnectionError(f"Rank {rank} was told no address by rank {peer} ({reason}).") from None
            where = address["host"], address["port"]
            try:
                peers[peer] = socket.create_connection(where, patience.total_seconds())
                peers[peer].sendall(f"{address['token']}{rank:0{_RANK_DIGITS}}".encode())
            except OSError as error:
                raise ConnectionError(
                    f"Rank {rank} cannot reach rank {peer} at {where[0]}, port {where[1]} ({error}). Do the nodes of a "
                    "job know each other's names, and may they open ports to each other?"
                ) from None
        while missing := set(range(world_size)) - {rank} - peers.keys():
            listener.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except (TimeoutError, BlockingIOError):
                raise _too_late(rank, min(missing), patience.total_seconds()) from None
            said = _greeting(connection)
            if said.startswith(token):
                peers[int(said.removeprefix(token))] = connection
            else:
                connection.close()
    return Exchange(rank, peers, patience)


def _too_late(rank: int, peer: int, seconds: float) -> ConnectionError:
    return ConnectionError(f"Rank {rank} waited {seconds / 60:.0f} minutes for rank {peer}.")


def _greeting(connection: socket.socket) -> str:
    """What a rank says first; less of it if the other side hangs up or is silent, as a port scanner is."""
    said = b""
    connection.settimeout(_SECONDS_TO_GREET)
    with contextlib.suppress(OSError):
        while left := 2 * _TOKEN_BYTES + _RANK_DIGITS - len(said):
            if not (more := connection.recv(left)):
                break
            said += more
    return said.decode(errors="replace")
