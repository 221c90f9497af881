"""Where tiles have room: on the device, in the memory of the host, or in the packed file alone."""

from __future__ import annotations

import math
import os
from enum import StrEnum

import torch

from hpcseg.errors import ConfigError
from hpcseg.launch.environment import read_environment
from hpcseg.memory import free_host_bytes

# The rest is for the network and its passes, and for what else runs there.
_SHARE_OF_DEVICE = 0.5
_SHARE_OF_HOST = 0.8
_MIB = 2**20


class Place(StrEnum):
    """Where the tiles of a set are kept."""

    DEVICE = "device"
    HOST = "host"
    FILE = "file"


class Room:
    """Gives each set of tiles its place; which one is a matter of time, and of no bit of the result.

    HPCSEG_TILES_ON_DEVICE and HPCSEG_TILES_IN_MEMORY set by hand how many MiB tiles may take there.

    Args:
        device: that computes.

    Raises:
        ConfigError: one of these is no number from 0.
    """

    def __init__(self, device: torch.device) -> None:
        started = read_environment()
        # All ranks of a node look at the same memory before any has taken its part.
        shared = started.world_size if started.one_node else 1
        self._on_host = _limit("HPCSEG_TILES_IN_MEMORY", _SHARE_OF_HOST * free_host_bytes() / shared)
        # A CPU has no other memory than the host's.
        self._is_host = device.type != "cuda"
        free = math.inf if self._is_host else _SHARE_OF_DEVICE * free_bytes(device)
        self._on_device = _limit("HPCSEG_TILES_ON_DEVICE", free)

    def place(self, *, kept: int, made: int) -> Place:
        """Where the next set is to be kept.

        Args:
            kept: bytes that its tiles take there.
            made: bytes that the host needs to make them all at once.
        """
        place = Place.DEVICE if kept <= self._on_device else Place.HOST
        of_host = kept if self._is_host or place is Place.HOST else 0
        if max(made, of_host) > self._on_host:
            return Place.FILE
        self._on_host -= of_host
        if place is Place.DEVICE:
            self._on_device -= kept
        return place


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take: of its GPU, or of the host and of its control group."""
    if device.type == "cuda":
        # What torch holds for tensors to come is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return free_host_bytes()


def _limit(name: str, otherwise: float) -> float:
    """Bytes, from a variable of the environment in MiB."""
    wish = os.environ.get(name)
    if wish is None:
        return otherwise
    try:
        mib = float(wish)
    except ValueError:
        mib = math.nan
    if not 0 <= mib < math.inf:
        raise ConfigError(f'{name} is "{wish}", but it must be a number from 0: MiB that tiles may take there.')
    return mib * _MIB
