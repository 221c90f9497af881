"""How the ranks of a launch find each other: a store of torch's that all of them share.

torchrun has one. Other ranks meet through a file in a shared folder, in which rank 0 publishes a port that was free
when it took it: a port computed from the job id is taken when two jobs share a node.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from datetime import timedelta
from pathlib import Path

from torch.distributed import (  # type: ignore[attr-defined]  # missing in torch's annotations
    PrefixStore,
    Store,
    TCPStore,
    rendezvous,
)

from hpcseg.errors import HpcsegError
from hpcseg.files import write_bytes
from hpcseg.launch.environment import RankEnvironment, host

PATIENCE = timedelta(minutes=10)
"""Ranks that have not met by then give up, so that none holds a job to its limit."""
_MINUTES = PATIENCE.total_seconds() / 60
_meetings = itertools.count()


def meet(environment: RankEnvironment, folder: Path) -> tuple[Store, Store]:
    """Two connections to one store; a connection is taken while somebody waits at it.

    Called equally often by all ranks, once for each time that they work together.

    Args:
        environment: of this rank.
        folder: seen by all ranks; rank 0 publishes the address there, unless torchrun has one.

    Raises:
        HpcsegError: the others did not come within ten minutes, or the address cannot be written.
    """
    store = _torchruns() if environment.torchrun else _own(environment, folder)
    server = store
    while isinstance(server, PrefixStore):  # which torchrun's is in some versions of torch
        server = server.underlying_store
    assert isinstance(server, TCPStore)
    second = _connect(server.host, server.port, serves=False, timeout=PATIENCE)
    # A process meets the others for a training, then for its evaluation, and torchrun's store keeps all addresses.
    name = f"{environment.launch}/{next(_meetings)}"
    return PrefixStore(name, store), PrefixStore(name, second)


def _torchruns() -> Store:
    store: Store = next(rendezvous("env://", timeout=PATIENCE))[0]
    return store


def _own(environment: RankEnvironment, folder: Path) -> Store:
    """A store that all ranks of this launch share: rank 0 opens it, the others follow the published address."""
    meeting = folder / f".rendezvous-{environment.launch}.json"
    if environment.rank == 0:
        nonce = uuid.uuid4().hex
        store = _connect("0.0.0.0", 0, serves=True, timeout=PATIENCE)
        store.set("nonce", nonce)
        address = {"host": host(), "port": store.port, "nonce": nonce}
        write_bytes(meeting, json.dumps(address).encode(), durable=False)
        try:
            store.wait(["all are here"], PATIENCE)
        except RuntimeError:
            raise HpcsegError(
                f"Rank 0 waited {_MINUTES:.0f} minutes for the others. Are their nodes up, and may they open ports to "
                "this one? Their logs say more: `hpcseg logs CELL --rank 1`."
            ) from None
        finally:
            meeting.unlink(missing_ok=True)
        return store
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        # The file may be a crashed start's: only a store that answers with the published nonce is this start's.
        with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):
            address = json.loads(meeting.read_text())
            store = _connect(address["host"], address["port"], serves=False, timeout=timedelta(seconds=10))
            if store.get("nonce").decode() == address["nonce"]:
                store.set_timeout(PATIENCE)
                if store.add("here", 1) == environment.world_size - 1:
                    store.set("all are here", "")
                return store
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {environment.rank} waited {_MINUTES:.0f} minutes for rank 0 to publish its "
        f"address in {meeting.parent}. Is the run folder on a file system that all nodes see?"
    )


def _connect(host: str, port: int, *, serves: bool, timeout: timedelta) -> TCPStore:
    return TCPStore(host, port, is_master=serves, wait_for_workers=False, timeout=timeout)
