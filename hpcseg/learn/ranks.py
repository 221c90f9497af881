"""Which rank this process is, on which device, and how the ranks meet. The only reader of RANK, SLURM_* and the like.

Launchers that are understood: none (one process), torchrun, submitit's local executor, and srun. torchrun has a store
where its ranks meet. The others meet through a file in a shared folder, in which rank 0 publishes a port that was free
when it took it: a port computed from the job id is taken when two jobs share a node.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]  # missing in torch's annotations
    PrefixStore,
    Store,
    TCPStore,
    rendezvous,
)

from hpcseg.errors import HpcsegError
from hpcseg.learn.watch import Watch
from hpcseg.memory import keep_freed_memory

# A rank that waits longer than this for others that live gives up, so that none holds a job to its limit.
PATIENCE = timedelta(minutes=10)
# How long ranks go on without asking each other.
_SECONDS_ALONE = 0.25
_MOST_STEPS_ALONE = 100
_CPU = torch.device("cpu")
_groups = itertools.count()


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
    torchrun: bool = False
    """torchrun says where the ranks meet (MASTER_ADDR and the like)."""


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
            torchrun=True,
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
    """The ranks of one cell as its code sees them: who am I, and the few things that all do together.

    Args:
        rank: of this process, from 0.
        world_size: number of ranks; with more than one the process group is there.
        device: on which this rank computes.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device = _CPU) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest of all ranks' values. Goes over the CPU, so it does not wait for a GPU."""
        return self.largest_each([value])[0]

    def largest_each(self, values: Sequence[int]) -> list[int]:
        """`largest` of several values, each for itself."""
        if self.world_size == 1:
            return list(values)
        every = torch.tensor(values)
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return [int(value) for value in every]

    def wait(self) -> None:
        """Wait until all ranks are here; on the CPU, as `largest` is."""
        self.largest(0)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place; returns it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


class Agreement:
    """What all ranks do before the next step: the most urgent wish of any, told to all at the same step.

    They ask each other every few steps, several times a second or at each step where one takes longer: often enough for
    a stop, and seldom enough that a GPU always has work in its queue. One rank alone has its wish at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._wish = 0
        self._steps = self._left = 1
        self._asked = time.monotonic()

    def __call__(self, wish: int) -> int:
        """Called by every rank before each step; the answer is the same on all of them.

        Args:
            wish: 0 to go on, more for what is more urgent. It is kept until the next time that ranks ask each other.
        """
        if self._ranks.world_size == 1:
            return wish
        self._wish = max(self._wish, wish)
        self._left -= 1
        if self._left:
            return 0
        microseconds_per_step = int(1e6 * (time.monotonic() - self._asked) / self._steps)
        agreed, slowest = self._ranks.largest_each([self._wish, microseconds_per_step])
        self._steps = self._left = max(1, min(_MOST_STEPS_ALONE, int(1e6 * _SECONDS_ALONE / max(1, slowest))))
        self._wish, self._asked = 0, time.monotonic()
        return agreed


@contextlib.contextmanager
def join(environment: RankEnvironment, folder: Path) -> Iterator[Ranks]:
    """Meet the other ranks and leave them again.

    On an error the process group is left standing: destroying it waits for ranks that are waiting for this one.

    Args:
        environment: from `read_environment`.
        folder: seen by all ranks; rank 0 publishes the address there, unless torchrun has one.

    Raises:
        HpcsegError: the others did not come within ten minutes, or two ranks have one GPU.
        ConnectionError: another rank has ended before this one was done.
    """
    torch.set_num_threads(environment.threads)
    keep_freed_memory()
    device = choose_device(environment.local_rank)
    rank, world_size = environment.rank, environment.world_size
    if world_size == 1:
        yield Ranks(device=device)
        return
    meeting = folder / f".rendezvous-{environment.launch}.json"
    found = _torchruns_store() if environment.torchrun else _meet(environment, meeting)
    # A process joins for its training and again for its evaluation, and torchrun's store keeps the first's addresses.
    name = f"{environment.launch}/{next(_groups)}"
    store = PrefixStore(name, found)
    with Watch(PrefixStore(name, _second_connection(found)), rank, world_size):
        on_gpu = device.type == "cuda"
        if on_gpu:
            _refuse_shared_gpu(store, rank, world_size, device)
        dist.init_process_group(
            # Small things between ranks are on the CPU, whatever device they compute on.
            "cpu:gloo,cuda:nccl" if on_gpu else "cpu:gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=PATIENCE,
            device_id=device if on_gpu else None,
        )
        if rank == 0:
            meeting.unlink(missing_ok=True)
        ranks = Ranks(rank, world_size, device)
        yield ranks
        # Rank 0 writes its files last, and has the store that the others' watches need.
        ranks.wait()
    dist.destroy_process_group()


def _refuse_shared_gpu(store: Store, rank: int, world_size: int, device: torch.device) -> None:
    """Raise HpcsegError where two ranks have the same GPU: NCCL would fail with words that say little."""
    store.set(f"device/{rank}", f"{_host()}, {torch.cuda.get_device_properties(device).uuid}")
    first: dict[str, int] = {}
    for other in range(world_size):
        where = store.get(f"device/{other}").decode()
        if where in first:
            raise HpcsegError(
                f"Ranks {first[where]} and {other} of host {where.partition(',')[0]} use the same GPU. Start as many "
                "ranks per node as it has GPUs (--gpus-per-node, --ranks-per-node, torchrun's --nproc-per-node)."
            )
        first[where] = other


def _host() -> str:
    """This node's name for its peers: the scheduler's where there is one, since a host may not know its own alias."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _torchruns_store() -> Store:
    store: Store = next(rendezvous("env://", timeout=PATIENCE))[0]
    return store


def _second_connection(store: Store) -> TCPStore:
    while isinstance(store, PrefixStore):  # which torchrun's is in some versions of torch
        store = store.underlying_store
    assert isinstance(store, TCPStore)
    return _tcp_store(store.host, store.port, serves=False, timeout=PATIENCE)


def _meet(environment: RankEnvironment, meeting: Path) -> Store:
    """A store that all ranks of this launch share: rank 0 opens it, the others follow the published address."""
    if environment.rank == 0:
        nonce = uuid.uuid4().hex
        store = _tcp_store("0.0.0.0", 0, serves=True, timeout=PATIENCE)
        store.set("nonce", nonce)
        aside = meeting.with_suffix(".tmp")
        aside.write_text(json.dumps({"host": _host(), "port": store.port, "nonce": nonce}))
        aside.replace(meeting)
        return store
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        # The file may be a crashed start's: only a store that answers with the published nonce is this start's.
        with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):
            address = json.loads(meeting.read_text())
            store = _tcp_store(address["host"], address["port"], serves=False, timeout=timedelta(seconds=10))
            if store.get("nonce").decode() == address["nonce"]:
                store.set_timeout(PATIENCE)
                return store
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {environment.rank} waited {PATIENCE.total_seconds() / 60:.0f} minutes for rank 0 to publish its "
        f"address in {meeting.parent}. Is the run folder on a file system that all nodes see?"
    )


def _tcp_store(host: str, port: int, *, serves: bool, timeout: timedelta) -> TCPStore:
    return TCPStore(host, port, is_master=serves, wait_for_workers=False, timeout=timeout)
