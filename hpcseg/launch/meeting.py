"""How the ranks of a launch find each other: a store of torch's that all of them share.

torchrun has one. Other ranks meet through a file in a shared folder, in which rank 0 publishes a port that was free
when it took it: a port computed from the job id is taken when two jobs share a node. The file is for its owner alone,
and holds a secret under which all is kept in the store, so that nobody who does not know it is counted as a rank. What
a store of torch's does not protect is in slurm/SECURITY.md.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import secrets
import socket
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import (  # type: ignore[attr-defined]  # missing in torch's annotations
    PrefixStore,
    Store,
    TCPStore,
    rendezvous,
)

from hpcseg.errors import HpcsegError
from hpcseg.files import read_regular, write_bytes
from hpcseg.launch.environment import RankEnvironment, host

PATIENCE = timedelta(minutes=10)
"""Ranks that have not met by then give up, so that none holds a job to its limit."""
_MINUTES = PATIENCE.total_seconds() / 60
_MOST_BYTES = 10_000
_meetings = itertools.count()


def meet(environment: RankEnvironment, folder: Path) -> tuple[PrefixStore, PrefixStore]:
    """Two connections to one store; a connection is taken while somebody waits at it.

    Called equally often by all ranks, once for each time that they work together.

    Args:
        environment: of this rank.
        folder: seen by all ranks; rank 0 publishes the address there, unless torchrun has one.

    Raises:
        HpcsegError: the others did not come within ten minutes, or the address cannot be written.
    """
    if environment.torchrun:
        server, secret = _torchruns(), ""
    else:
        server, secret = _own(environment, folder)
    second = _connect(server.host, server.port, timeout=PATIENCE)
    # A process meets the others for a training, then for its evaluation, and torchrun's store keeps all addresses.
    name = f"{secret}/{environment.launch}/{next(_meetings)}"
    return PrefixStore(name, server), PrefixStore(name, second)


def _torchruns() -> TCPStore:
    store: Store = next(rendezvous("env://", timeout=PATIENCE))[0]
    while isinstance(store, PrefixStore):  # which torchrun's is in some versions of torch
        store = store.underlying_store
    assert isinstance(store, TCPStore)
    return store


def _own(environment: RankEnvironment, folder: Path) -> tuple[TCPStore, str]:
    """A store that all ranks of this launch share, and its secret: rank 0 opens it, the others follow its address."""
    meeting = folder / f".rendezvous-{environment.launch}.json"
    if environment.rank == 0:
        secret = secrets.token_hex(16)
        server, reached = _serve(one_node=environment.one_node)
        store = PrefixStore(secret, server)
        store.set("open", "")
        address = {"host": reached, "port": server.port, "secret": secret}
        write_bytes(meeting, json.dumps(address).encode(), durable=False, private=True)
        try:
            store.wait(["all are here"], PATIENCE)
        except RuntimeError:
            raise HpcsegError(
                f"Rank 0 waited {_MINUTES:.0f} minutes for the others. Are their nodes up, and may they open ports to "
                "this one? Their logs say more: `hpcseg logs CELL --rank 1`."
            ) from None
        finally:
            meeting.unlink(missing_ok=True)
        return server, secret
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        # The file may be a crashed start's: only a store that knows the published secret is this start's.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
            address = json.loads(read_regular(meeting, _MOST_BYTES))
            server = _connect(address["host"], address["port"], timeout=timedelta(seconds=10))
            store = PrefixStore(address["secret"], server)
            if store.check(["open"]):
                server.set_timeout(PATIENCE)
                if store.add("here", 1) == environment.world_size - 1:
                    store.set("all are here", "")
                return server, address["secret"]
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {environment.rank} waited {_MINUTES:.0f} minutes for rank 0 to publish its "
        f"address in {meeting.parent}. Is the run folder on a file system that all nodes see?"
    )


def _serve(*, one_node: bool) -> tuple[TCPStore, str]:
    """A store at a free port, and the host at which the others reach it.

    Args:
        one_node: all ranks are here, and nobody else has to reach it.
    """
    listening, address = _listen(one_node)
    store = TCPStore(
        address or "127.0.0.1",
        listening.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=PATIENCE,
        master_listen_fd=listening.detach(),  # the store closes it
        # libuv's store of an older torch takes no socket. This compares as versions, not as text.
        use_libuv=torch.__version__ >= "2.8",
    )
    return store, address or host()


def _listen(one_node: bool) -> tuple[socket.socket, str | None]:
    """A socket that listens at a free port, and at which address alone; None: at all that this node has."""
    with contextlib.suppress(OSError):
        address = "127.0.0.1" if one_node else socket.gethostbyname(host())
        if one_node or not ipaddress.ip_address(address).is_loopback:
            return socket.create_server((address, 0)), address
    # The node does not know its own name, or as one that means every node to itself.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True), None
    return socket.create_server(("", 0)), None


def _connect(host: str, port: int, *, timeout: timedelta) -> TCPStore:
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
