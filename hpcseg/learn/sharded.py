"""One copy of the weights for the ranks of a host, each of which updates its share of them. For ranks on CPUs.

    backward -> put the gradients of the others' shares where they see them -> add theirs to one's own -> update

With DistributedDataParallel every rank updates every weight, and all gradients go through the kernel to the other
ranks and back. A rank on a CPU often has a single thread for both. Sharing out the update is the first stage of ZeRO
(Rajbhandari et al. 2020); in memory that all ranks see, nobody has to be told the new weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
from pathlib import Path

import torch
from torch import nn

from hpcseg.learn.ranks import Ranks

_ALIGNED_FLOATS = 16  # a line of the processor's cache, which no two ranks then write to


class ShardedUpdate:
    """Takes the place of an optimizer in a step: sums the gradients over ranks, and updates all weights once.

    Args:
        memory: zeros that all ranks see, with room for `_floats_needed`.
        parameters: of the model; they move into the memory, where rank 0's are everybody's.
        optimizer: Adam over the same; its moments move too, so that any rank can save all of them.
        ranks: all of them on this host.
    """

    def __init__(
        self, memory: mmap.mmap, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, ranks: Ranks
    ) -> None:
        self._parameters = parameters
        self._optimizer = optimizer
        self._ranks = ranks
        self._owners = _share_out([parameter.numel() for parameter in parameters], ranks.world_size)
        room = _Room(memory)
        for parameter in parameters:
            shared = {
                "step": room.like(torch.zeros(())),
                "exp_avg": room.like(parameter),
                "exp_avg_sq": room.like(parameter),
            }
            weights = room.like(parameter)
            if ranks.is_main:
                weights.copy_(parameter.detach())
                # Empty before the first step, and full after a checkpoint.
                for name, value in optimizer.state[parameter].items():
                    shared[name].copy_(value)
            parameter.data = weights
            optimizer.state[parameter] = shared
        self._gradients = [[room.like(parameter) for parameter in parameters] for _ in range(ranks.world_size)]
        ranks.wait()

    def step(self) -> None:
        """Update all weights by the sum over ranks of the gradients that the backward pass has left."""
        own = self._ranks.rank
        for owner, parameter, shown in zip(self._owners, self._parameters, self._gradients[own], strict=True):
            if owner != own:
                assert parameter.grad is not None
                shown.copy_(parameter.grad)
                # The optimizer passes over what has no gradient.
                parameter.grad = None
        self._ranks.wait()
        for rank, gradients in enumerate(self._gradients):
            if rank != own:
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if parameter.grad is not None:
                        parameter.grad.add_(gradient)
        self._optimizer.step()
        self._ranks.wait()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()


def share_update(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, ranks: Ranks
) -> ShardedUpdate | None:
    """The update that all ranks share, or None on all of them where they do not see the same memory.

    That memory has no name in a file system: it is there for as long as one of them is, whatever ends them.
    """
    if ranks.device.type != "cpu":
        return None
    hosts = ranks.gather(torch.frombuffer(bytearray(_host()), dtype=torch.uint8))
    if (hosts != hosts[0]).any():
        return None
    size = 4 * _floats_needed(parameters, ranks.world_size)
    file = _create(size) if ranks.is_main else -1
    creator, created = ranks.gather(torch.tensor([os.getpid(), file]))[0].tolist()
    if not ranks.is_main and created >= 0:
        file = _open(f"/proc/{creator}/fd/{created}")
    with contextlib.ExitStack() as stack:
        if file >= 0:
            stack.callback(os.close, file)
        if ranks.largest(int(file < 0)):
            return None
        memory = mmap.mmap(file, size)
    return ShardedUpdate(memory, parameters, optimizer, ranks)


def _floats_needed(parameters: list[nn.Parameter], world_size: int) -> int:
    """For weights, two moments and steps, and the gradients of every rank."""
    each = sum(_aligned(parameter.numel()) for parameter in parameters)
    return (3 + world_size) * each + len(parameters) * _aligned(1)


def _host() -> bytes:
    """Equal for processes of one host that know each other by the same ids, SHA-256; else different."""
    try:
        seen = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")
    except OSError:
        seen = (os.urandom(16).hex(), "")
    return hashlib.sha256("".join(seen).encode()).digest()


def _create(size: int) -> int:
    """A file descriptor of memory; -1 where there is no such thing."""
    try:
        file = os.memfd_create("hpcseg")
    except (AttributeError, OSError):
        return -1
    os.ftruncate(file, size)
    return file


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return -1


class _Room:
    """Deals out a memory in float32, each piece on cache lines of its own."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._dealt = 0

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the same shape and the same order in memory."""
        # With a storage of its own: a file with the tensor in it holds all of its storage.
        piece = torch.frombuffer(self._memory, dtype=torch.float32, count=tensor.numel(), offset=4 * self._dealt)
        self._dealt += _aligned(tensor.numel())
        return piece.as_strided(tensor.shape, tensor.stride())


def _aligned(floats: int) -> int:
    return math.ceil(floats / _ALIGNED_FLOATS) * _ALIGNED_FLOATS


def _share_out(sizes: list[int], world_size: int) -> list[int]:
    """The rank that updates each parameter, such that all have about as much to do."""
    load = [0] * world_size
    owners = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += sizes[index]
    return owners
