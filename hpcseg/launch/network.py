"""Over which network the ranks of several nodes talk: for each node the one that leads to the others.

gloo takes what a node's own name resolves to, and many a node maps that to itself (127.0.1.1 in /etc/hosts), where no
other node comes. NCCL looks for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from torch.distributed import (  # type: ignore[attr-defined]  # missing in torch's annotations
    PrefixStore,
    TCPStore,
)

_WISH = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915


@contextlib.contextmanager
def gloo_between_nodes(store: PrefixStore, rank: int, world_size: int) -> Iterator[None]:
    """A block in which gloo, when it begins, takes the network between the nodes, unless somebody has said which.

    Called by all ranks. Where they are all on one node, or have no IPv4 in common, gloo is left to itself.

    Args:
        store: over the TCPStore at which they have met.
        rank: of this process.
        world_size: number of ranks.
    """
    own = None if _WISH in os.environ else _own_address(store, rank, world_size)
    name = _interface(own) if own else None
    if name is None:
        yield
        return
    os.environ[_WISH] = name
    try:
        yield
    finally:
        del os.environ[_WISH]


def _own_address(store: PrefixStore, rank: int, world_size: int) -> str | None:
    """The IPv4 of this node under which another one finds it; None where there is none."""
    server = store.underlying_store
    assert isinstance(server, TCPStore)
    own = _address_towards(server.host, server.port)
    store.set(f"address/{rank}", own or "")
    for other in range(world_size):
        if own is not None:
            break
        # On the node of rank 0, which knows nothing of the way by which the others came.
        if theirs := store.get(f"address/{other}").decode():
            own = _address_towards(theirs, server.port)
    return own


def _address_towards(host: str, port: int) -> str | None:
    """The address that this node has on the way to another; None where there is no way, or it stays on this node."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((host, port))  # which sends nothing
        address: str = asking.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            return address
    return None


def _interface(address: str) -> str | None:
    """The name of the network interface that has an address; None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
