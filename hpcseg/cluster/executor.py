"""Resources in, a submitit Slurm executor out, with the flags that submitit and Slurm need but do not set."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster.profile import Resources
from hpcseg.runs.frozen import shell_lines
from hpcseg.runs.gpus import ASKED
from hpcseg.text import refuse_controls

# submitit counts down every job that reached its time limit, and gives up at 0; a cell may need many limits.
_MOST_TIMEOUTS = 1000
# Time for the last step, the checkpoint and the requeue, before Slurm ends the job.
_MOST_SIGNAL_SECONDS = 120


def cell_executor(
    folder: Path,
    code: Path,
    resources: Resources,
    *,
    name: str,
    throttle: int | None,
    comment: str,
) -> submitit.SlurmExecutor:
    """An executor for the tasks of one array.

    Args:
        folder: for scripts, logs and pickles; seen by all nodes.
        code: a frozen copy of the package, which the job runs.
        resources: of one task.
        name: of the job, as squeue shows it.
        throttle: array tasks that may run at once; None: no limit of ours.
        comment: of the job, by which the ledger finds it.
    """
    additional: dict[str, Any] = {"requeue": True}
    gpus = resources.gpus_per_node
    if gpus and resources.gpu_syntax == "gpus-per-node":
        additional["gpus-per-node"] = gpus
    elif gpus and resources.gpu_syntax == "gres":
        additional["gres"] = f"gpu:{gpus}"
    elif gpus and resources.gpu_syntax == "gpus-per-task":
        additional["gpus-per-task"] = math.ceil(gpus / resources.ranks_per_node)
    return _executor(
        folder,
        code,
        resources,
        name=name,
        comment=comment,
        dependency=None,
        gpus=gpus,
        nodes=resources.nodes,
        ntasks_per_node=resources.ranks_per_node,
        cpus_per_task=resources.cpus_per_task,
        mem=_memory(resources.memory_gib),
        srun_args=[
            # srun does not inherit it since Slurm 22.05, and every rank would get one core.
            f"--cpus-per-task={resources.cpus_per_task}",
            # Else the other ranks wait for a dead one until the time limit.
            "--kill-on-bad-exit=1",
        ],
        additional=additional,
        # submitit's default would let 256 tasks run at once.
        array_parallelism=throttle or sys.maxsize,
    )


def report_executor(
    folder: Path, code: Path, resources: Resources, *, name: str, comment: str, dependency: str
) -> submitit.SlurmExecutor:
    """An executor for the report of a run: one core, no GPU asked for, the same partition and account."""
    return _executor(
        folder,
        code,
        resources,
        name=name,
        comment=comment,
        dependency=dependency,
        gpus=0,
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=1,
        mem=_memory(min(2.0, resources.memory_gib)),
        srun_args=["--cpus-per-task=1"],
        additional={"requeue": True},
    )


def _executor(
    folder: Path,
    code: Path,
    resources: Resources,
    *,
    name: str,
    dependency: str | None,
    gpus: int,
    additional: dict[str, Any],
    **own: Any,
) -> submitit.SlurmExecutor:
    parameters = {
        "job_name": name,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "dependency": dependency,
        # The limit must be submitit's own parameter, since it decides by it whether a job timed out.
        "time": resources.minutes,
        "signal_delay_s": min(_MOST_SIGNAL_SECONDS, resources.minutes * 60 // 4),
        # Ours come last: the site's may set a path of their own, and name files of the folder of submission.
        "setup": [*resources.setup, f"export {ASKED}={gpus}", *shell_lines(code)],
        "stderr_to_stdout": True,
        "additional_parameters": additional,
        **own,
    }
    # Whatever they come from: quotes do not keep a line of #SBATCH in one piece.
    for option, value in {"The folder of the logs": str(folder), **parameters}.items():
        if isinstance(value, str):
            refuse_controls(value, option)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_MOST_TIMEOUTS)
    # None must be said aloud: the default writes a wckey that clusters without it refuse.
    executor.update_parameters(wckey=None, **{key: value for key, value in parameters.items() if value is not None})
    return executor


def _memory(gib: float) -> str:
    return f"{math.ceil(gib * 1024)}M"
