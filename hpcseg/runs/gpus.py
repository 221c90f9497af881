"""The GPUs of this machine, as NVIDIA's driver and its tools show them. No torch, which may not see them."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
from pathlib import Path

from hpcseg.errors import ConfigError

ASKED = "HPCSEG_GPUS_PER_NODE"
"""In a job of ours: how many GPUs per node it asked for. The run's resources.json tells of the last submission only."""
# What the driver shows to processes; a container has the device files of its own GPUs, and often no tools.
_DEVICE_FILES = Path("/dev")
_DRIVER = Path("/proc/driver/nvidia")
_SECONDS = 30


def count() -> int:
    """How many GPUs this machine or container has, of one that is divided (MIG) its instances."""
    return len(devices())


@functools.cache
def devices() -> tuple[str, ...]:
    """Names of the GPUs in CUDA_VISIBLE_DEVICES: by nvidia-smi, where that tells none by the driver's files.

    A number, or of an instance of a GPU that is divided (MIG) its UUID, since it has no number.
    """
    found: list[list[str]] = []
    for line in _nvidia_smi("-L").splitlines():
        if line.startswith("GPU "):
            found.append([])
        elif found and (instance := re.search(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)):
            found[-1].append(instance[1])
    if found:
        return tuple(name for number, instances in enumerate(found) for name in instances or [str(number)])
    files = len(list(_DEVICE_FILES.glob("nvidia[0-9]*"))) or len(list((_DRIVER / "gpus").glob("*")))
    return tuple(map(str, range(files)))


def visible() -> tuple[str, ...]:
    """Those that this process may use: what CUDA_VISIBLE_DEVICES names, as it names them, where it is set.

    Like CUDA, which reads it up to the first that is none: numbers, and UUIDs or their beginnings.

    Raises:
        ConfigError: it names something else.
    """
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return devices()
    parts = [part.strip() for part in named.split(",")]
    found = tuple(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-[\w/-]+").fullmatch, parts))
    if not (found or hidden()):
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES is {named}, which names no GPU. Set it to numbers or UUIDs of `nvidia-smi -L`, "
            "such as 0,1."
        )
    return found


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all of them; "NoDevFiles" is what Slurm writes into a job without GPUs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")[0].strip() in ("", "-1", "NoDevFiles")


@functools.cache
def driver_version() -> str | None:
    """The version of NVIDIA's driver, such as "550.54.14"; None where it tells none."""
    try:
        text = (_DRIVER / "version").read_text(errors="replace")
    except OSError:
        text = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024"
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def _nvidia_smi(*options: str) -> str:
    """What nvidia-smi says; empty where it is not there or fails. On a node of eight GPUs it takes seconds."""
    command = ["nvidia-smi", *options]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
