"""What a record says about the machine: process, job, device, memory. Never a path of it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from typing import Any

import torch

from hpcseg.learn.ranks import Ranks
from hpcseg.runs.provenance import slurm_job


def device_facts(device: torch.device) -> dict[str, Any]:
    """The processor's or GPU's name, and of a GPU the CUDA of torch and the driver."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return {"device": name, "cuda": torch.version.cuda, "driver": _driver_version()}
    return {"device": f"CPU, {torch.get_num_threads()} threads", "processor": _processor()}


def _processor() -> str | None:
    """The processor's name, where Linux tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return None


def describe_process(ranks: Ranks) -> dict[str, Any]:
    """Where this rank runs: host, process, Slurm job, device."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **slurm_job(),
        "world_size": ranks.world_size,
        "device": device_facts(ranks.device)["device"],
    }


def peak_memory_mib(ranks: Ranks) -> dict[str, int]:
    """The most memory that one rank has held so far, in MiB: of its host, and of its GPU. All ranks call it."""
    peak = {"host": ranks.largest(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)}
    if ranks.device.type == "cuda":
        peak["gpu"] = ranks.largest(torch.cuda.max_memory_reserved(ranks.device) // 2**20)
    return peak


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.splitlines()[0].strip() if answer.strip() else None
