"""Which rank this process is, as its launcher says: the only reader of RANK, SLURM_PROCID and the like.

Launchers that are understood: none (one process), torchrun, submitit's local executor, and srun.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass


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
    one_node: bool = False
    """All ranks are known to be on this node."""
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
            one_node=True,
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
            one_node=environ.get("SLURM_STEP_NUM_NODES") == "1",
        )
    return RankEnvironment(threads=max(1, min(cores, limit)))


def host() -> str:
    """This node's name for its peers: the scheduler's where there is one, since a host may not know its own alias."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
