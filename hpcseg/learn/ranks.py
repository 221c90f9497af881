"""Which rank this process is, on which device, and how the ranks meet. The only reader of RANK, SLURM_* and the like.

Launchers that are understood: none (one process), torchrun, submitit's local executor, and srun. The ranks meet
through a file in a shared folder, in which rank 0 publishes a port that was free when it took it: a port computed
from the job id is taken when two jobs share a node, and torchrun's own store still holds the addresses of an earlier
group.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hpcseg.errors import HpcsegError
from hpcseg.learn.exchange import Exchange, connect
from hpcseg.memory import keep_freed_memory

# A rank that waits longer than this for the others gives up, so that a dead rank never holds a job to its limit.
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """What a launcher told this process about itself."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    threads: int = 1
    """Threads for this rank's arithmetic."""
    launch: str = "single"
    """Names this start of this job: the same on all its ranks, different for every requeue."""


def read_environment(environ: Mapping[str, str] = os.environ) -> RankEnvironment:
    """The rank environment that the launcher described in environment variables."""
    cores = len(os.sched_getaffinity(0))
    # OpenMP takes a list, one number per level of nesting; ours is the first.
    wish = (environ.get("OMP_NUM_THREADS") or "").split(",")[0].strip()
    limit = int(wish) if wish.isdigit() and int(wish) else cores
    if "TORCHELASTIC_RUN_ID" in environ:
        local = int(environ["LOCAL_WORLD_SIZE"])
        return RankEnvironment(
            rank=int(environ["RANK"]),
            local_rank=int(environ["LOCAL_RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            # torchrun sets OMP_NUM_THREADS=1 unasked, so it is no wish of the user's.
            threads=max(1, cores // local),
            launch=f"torchrun-{environ['TORCHELASTIC_RUN_ID']}-{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        )
    if environ.get("SUBMITIT_EXECUTOR") == "local":
        world_size = int(environ["SUBMITIT_LOCAL_NTASKS"])
        return RankEnvironment(
            rank=int(environ["SUBMITIT_LOCAL_GLOBALID"]),
            local_rank=int(environ["SUBMITIT_LOCAL_LOCALID"]),
            world_size=world_size,
            threads=max(1, min(cores // world_size, limit)),
            launch=f"local-{environ['SUBMITIT_LOCAL_JOB_ID']}",
        )
    # A batch script or an salloc shell has SLURM_PROCID too; only a step of srun has as many processes as ranks.
    if "SLURM_STEP_NUM_TASKS" in environ and environ.get("SLURM_STEP_ID", "batch").isdigit():
        # Without a task plugin that binds, the affinity mask is the whole node's.
        granted = int(environ.get("SLURM_CPUS_PER_TASK", cores))
        return RankEnvironment(
            rank=int(environ["SLURM_PROCID"]),
            local_rank=int(environ["SLURM_LOCALID"]),
            world_size=int(environ["SLURM_STEP_NUM_TASKS"]),
            threads=max(1, min(cores, granted, limit)),
            launch="-".join(environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "RESTART_COUNT", "STEP_ID")),
        )
    return RankEnvironment(threads=max(1, min(cores, limit)))


def choose_device(local_rank: int) -> torch.device:
    """This rank's device: the local-rank-th of the GPUs that the launcher left visible, or the only one, or the CPU.

    The list in CUDA_VISIBLE_DEVICES is the scheduler's word and is used as it is: it may hold one GPU per rank
    (--gpus-per-task) or all of the node's (--gpus-per-node).

    Raises:
        HpcsegError: there are GPUs, but fewer than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if visible > 1 and local_rank >= visible:
        raise HpcsegError(
            f"Rank {local_rank} of this node finds {visible} GPUs. Start as many ranks per node as it has GPUs "
            "(--gpus-per-node, --ranks-per-node)."
        )
    device = torch.device("cuda", local_rank if visible > 1 else 0)
    torch.cuda.set_device(device)
    return device


class Ranks:
    """The ranks of one cell as its code sees them: who am I, and the few things that all do together."""

    def __init__(self, environment: RankEnvironment, device: torch.device, exchange: Exchange | None) -> None:
        self.rank = environment.rank
        self.world_size = environment.world_size
        self.device = device
        self._exchange = exchange

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest of all ranks' values. Goes over the CPU, so it does not wait for a GPU."""
        return int(self.gather(torch.tensor(value)).max())

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """A small CPU tensor of every rank, (world size, *shape of one); raises ConnectionError if one has ended."""
        return own.unsqueeze(0) if self._exchange is None else self._exchange.gather(own)

    def wait(self) -> None:
        """Wait until all ranks are here; on the CPU, as `largest` is."""
        self.largest(0)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place; returns it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


@contextlib.contextmanager
def join(environment: RankEnvironment, folder: Path) -> Iterator[Ranks]:
    """Meet the other ranks and leave them again.

    On an error the process group is left standing: destroying it waits for ranks that are waiting for this one.

    Args:
        environment: from `read_environment`.
        folder: seen by all ranks; rank 0 publishes the address there.

    Raises:
        HpcsegError: the others did not come within ten minutes.
    """
    torch.set_num_threads(environment.threads)
    keep_freed_memory()
    device = choose_device(environment.local_rank)
    if environment.world_size == 1:
        yield Ranks(environment, device, None)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    meeting = folder / f".rendezvous-{environment.launch}.json"
    store = _meet(environment, meeting)
    dist.init_process_group(
        backend,
        store=store,
        rank=environment.rank,
        world_size=environment.world_size,
        timeout=_PATIENCE,
    )
    exchange = connect(
        store, rank=environment.rank, world_size=environment.world_size, host=_host(), patience=_PATIENCE
    )
    if environment.rank == 0:
        meeting.unlink(missing_ok=True)
    yield Ranks(environment, device, exchange)
    exchange.close()
    dist.destroy_process_group()


def _host() -> str:
    """This node's name for its peers: the scheduler's where there is one, since a host may not know its own alias."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _meet(environment: RankEnvironment, meeting: Path) -> Any:
    """A store that all ranks of this launch share: rank 0 opens it, the others follow the published address."""
    if environment.rank == 0:
        nonce = uuid.uuid4().hex
        store = _tcp_store("0.0.0.0", 0, serves=True, timeout=_PATIENCE)
        store.set("nonce", nonce)
        aside = meeting.with_suffix(".tmp")
        aside.write_text(json.dumps({"host": _host(), "port": store.port, "nonce": nonce}))
        aside.replace(meeting)
        return store
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        # The file may be a crashed start's: only a store that answers with the published nonce is this start's.
        with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):
            address = json.loads(meeting.read_text())
            store = _tcp_store(address["host"], address["port"], serves=False, timeout=timedelta(seconds=10))
            if store.get("nonce").decode() == address["nonce"]:
                store.set_timeout(_PATIENCE)
                return store
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {environment.rank} waited {_PATIENCE.total_seconds() / 60:.0f} minutes for rank 0 to publish its "
        f"address in {meeting.parent}. Is the run folder on a file system that all nodes see?"
    )


def _tcp_store(host: str, port: int, *, serves: bool, timeout: timedelta) -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]  # missing in torch's annotations
        host, port, is_master=serves, wait_for_workers=False, timeout=timeout
    )
