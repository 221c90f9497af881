"""On which device a rank computes, and what the ranks do together: torch.distributed and nothing else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # missing in torch's annotations

from hpcseg.errors import HpcsegError
from hpcseg.launch.environment import RankEnvironment, host
from hpcseg.launch.meeting import PATIENCE, meet
from hpcseg.launch.network import gloo_between_nodes
from hpcseg.launch.watch import Watch
from hpcseg.memory import keep_freed_memory

# How long ranks go on without asking each other.
_SECONDS_ALONE = 0.25
_MOST_STEPS_ALONE = 100
_CPU = torch.device("cpu")
GO_ON, SAVE, STOP = 0, 1, 2
"""What a rank may wish before the next step, the more urgent the higher."""
# gloo counts the hours in which Slurm suspends a job as waiting. Whether the others live is the Watch's to say.
# (The gloo of torch 2.6 keeps the timeout that it began with.)
_LONGEST_SUSPENSION = timedelta(days=30)


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
        exchanged = torch.tensor(values)
        dist.all_reduce(exchanged, dist.ReduceOp.MAX)
        return [int(value) for value in exchanged]

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

    def __init__(self, ranks: Ranks, seconds_between_checkpoints: float) -> None:
        self._ranks = ranks
        self._seconds, self._saved_at = seconds_between_checkpoints, time.monotonic()
        self._wish = GO_ON
        self._steps = self._left = 1
        self._asked: float | None = None

    def __call__(self, *, stop: bool) -> int:
        """GO_ON, SAVE or STOP, the same on all ranks, which all call it before each step.

        Rank 0 alone looks whether it is time to save. A wish is kept until the next time that ranks ask each other.
        """
        late = self._ranks.is_main and time.monotonic() - self._saved_at > self._seconds
        self._wish = max(self._wish, STOP if stop else SAVE if late else GO_ON)
        return self._agreed()

    def saved(self) -> None:
        """Told when a checkpoint is on its way: the time to the next counts from there, so a slow disk has pauses."""
        self._saved_at = time.monotonic()

    def _agreed(self) -> int:
        if self._ranks.world_size == 1:
            agreed, self._wish = self._wish, GO_ON
            return agreed
        self._left -= 1
        if self._left:
            return GO_ON
        # Before the first step nobody knows how long one takes.
        seconds = _SECONDS_ALONE if self._asked is None else (time.monotonic() - self._asked) / self._steps
        agreed, slowest = self._ranks.largest_each([self._wish, int(1e6 * seconds)])
        self._steps = self._left = max(1, min(_MOST_STEPS_ALONE, int(1e6 * _SECONDS_ALONE / max(1, slowest))))
        self._wish, self._asked = GO_ON, time.monotonic()
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
    store, of_the_watch = meet(environment, folder)
    with Watch(of_the_watch, rank, world_size):
        on_gpu = device.type == "cuda"
        if on_gpu:
            _refuse_shared_gpu(store, rank, world_size, device)
        with contextlib.nullcontext() if environment.one_node else gloo_between_nodes(store, rank, world_size):
            dist.init_process_group(
                # Small things between ranks are on the CPU, whatever device they compute on.
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=PATIENCE,
                device_id=device if on_gpu else None,
            )
        gloo = _gloo()
        gloo._set_default_timeout(_LONGEST_SUSPENSION)
        ranks = Ranks(rank, world_size, device)
        yield ranks
        # Rank 0 writes its files last, and has the store that the others' watches need.
        ranks.wait()
    dist.destroy_process_group()
    # The last reference to gloo, which ends its threads. One of them may still need Python's lock, to let go of the
    # last tensor; where the group itself goes last, torch 2.6 holds that lock while it waits for them.
    del gloo


def _gloo() -> Any:  # what is called of it is missing in torch's annotations
    everyone = dist.group.WORLD
    assert everyone is not None
    return everyone._get_backend(_CPU)


def _refuse_shared_gpu(store: Store, rank: int, world_size: int, device: torch.device) -> None:
    """Raise HpcsegError where two ranks have the same GPU: NCCL would fail with words that say little."""
    store.set(f"device/{rank}", f"{host()}, {torch.cuda.get_device_properties(device).uuid}")
    places = [store.get(f"device/{other}").decode() for other in range(world_size)]
    if store.add("device/looked", 1) == world_size:
        store.set("device/all have looked", "")
    if rank == 0:
        store.get("device/all have looked")  # the store ends with this process
    first: dict[str, int] = {}
    for other, where in enumerate(places):
        if where in first:
            raise HpcsegError(
                f"Ranks {first[where]} and {other} of host {where.partition(',')[0]} use the same GPU. Start as many "
                "ranks per node as it has GPUs (--gpus-per-node, --ranks-per-node, torchrun's --nproc-per-node)."
            )
        first[where] = other
