"""The GPUs of this machine, as NVIDIA's driver and its tools show them. No torch, which may not see them."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

ASKED = "HPCSEG_GPUS_PER_NODE"
"""In a job of ours: how many GPUs per node it asked for. The run's resources.json tells of the last submission only."""
# What the driver shows to processes; a container has the device files of its own GPUs, and often no tools.
_DEVICE_FILES = Path("/dev")
_DRIVER = Path("/proc/driver/nvidia")
_SECONDS = 30


@functools.cache
def count() -> int:
    """How many GPUs this machine or container has: by nvidia-smi, where that tells none by the driver's files."""
    listing = _nvidia_smi("-L")
    listed = sum(line.startswith("GPU ") for line in listing.splitlines())
    return listed or len(list(_DEVICE_FILES.glob("nvidia[0-9]*"))) or len(list((_DRIVER / "gpus").glob("*")))


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
