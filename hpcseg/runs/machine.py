"""What a record says about the machine: process, job, device, memory. Never a path of it."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from typing import Any

import torch

from hpcseg.errors import HpcsegError, IncompleteError
from hpcseg.learn.ranks import Ranks
from hpcseg.memory import forget_peak, peak_bytes
from hpcseg.runs import gpus
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.provenance import slurm_job
from hpcseg.runs.record import read_as
from hpcseg.runs.schema import Memory, Plan


def device_facts(device: torch.device) -> dict[str, Any]:
    """The processor's or GPU's name, and of a GPU the CUDA of torch and the driver."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return {"device": name, "cuda": torch.version.cuda, "driver": gpus.driver_version()}
    return {"device": f"CPU, {torch.get_num_threads()} threads", "processor": _processor()}


@functools.cache
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


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mib` tell of what comes from now on, and not of earlier cells of this process."""
    forget_peak()
    if device.type == "cuda":
        # What torch keeps of an earlier cell is held as well.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(ranks: Ranks) -> Memory:
    """The most memory that one rank has held since `forget_peak_memory`, in MiB: of its host, and of its GPU.

    All ranks call it.
    """
    host = ranks.largest(peak_bytes() // 2**20)
    if ranks.device.type != "cuda":
        return Memory(host=host)
    return Memory(host=host, gpu=ranks.largest(torch.cuda.max_memory_reserved(ranks.device) // 2**20))


def refuse_unmeant_cpu(run: RunFolder, device: torch.device) -> None:
    """Raise HpcsegError where a cell would train on the CPU though it was to have a GPU: that may take weeks.

    In a job that asked Slurm for GPUs that is always so. Elsewhere a machine without any GPU, and an empty
    CUDA_VISIBLE_DEVICES, say that the CPU is meant.
    """
    refuse_missing_gpu(device)
    if device.type == "cuda" or os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return
    if not gpus.hidden() and gpus.count() and _wants_gpus(run):
        raise HpcsegError(
            f"This machine has {gpus.count()} GPUs, but {_no_gpu()} finds none of them. Install one that fits the "
            f"driver ({gpus.driver_version() or 'of unknown version'}). If a CPU is meant, set CUDA_VISIBLE_DEVICES to "
            "nothing (`CUDA_VISIBLE_DEVICES= hpcseg ...`)."
        )


def refuse_missing_gpu(device: torch.device) -> None:
    """Raise HpcsegError in a job that asked a cluster for GPUs and computes on the CPU."""
    if device.type != "cuda" and os.environ.get(gpus.ASKED, "0") != "0":
        raise HpcsegError(
            f"This job asked for GPUs, but {_no_gpu()} finds none on this node. Look at `nvidia-smi` there, at the "
            "driver's version and at gpu_syntax in the profile; --gpus-per-node 0 is for CPUs."
        )


def _no_gpu() -> str:
    """This torch, and for which CUDA it is."""
    return f"torch {torch.__version__} " + (f"(CUDA {torch.version.cuda})" if torch.version.cuda else "(without CUDA)")


def _wants_gpus(run: RunFolder) -> bool:
    """Whether the job of a run asks for GPUs."""
    try:
        return bool(read_as(Plan, run.grid_file).needs.get("gpus"))
    except IncompleteError:
        return False
