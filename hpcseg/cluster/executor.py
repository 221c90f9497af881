"""Resources in, a submitit Slurm executor out, with the flags that submitit and Slurm need but do not set."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths

from hpcseg.cluster.profile import GPU_OPTIONS, MEMORY_OPTIONS, Resources, without_gpus
from hpcseg.runs.frozen import shell_lines
from hpcseg.runs.gpus import ASKED
from hpcseg.text import refuse_controls

# submitit counts down every job that reached its time limit, and gives up at 0; a cell may need many limits.
_MOST_TIMEOUTS = 1000
# Time for the last step, the checkpoint and the requeue, before Slurm ends the job.
_MOST_SIGNAL_SECONDS = 120
# What the job behind all others needs is its own, whatever a cell is given.
_REPORT_MINUTES = 30
_REPORT_GIB = 2.0
# What a report may have otherwise than the cells.
_WISHES = ("partition", "account", "qos", "constraint")
# Of the variables of a user, which to sbatch have the last word over a script, those that would change each of ours.
_SBATCH = frozenset(
    {"ARRAY_INX", "ERROR", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TIMELIMIT", "WAIT"}
    | {"MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"}
)

# Where the controller is, and who asks it.
_HOW_TO_REACH = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}


def cell_executor(
    folder: Path, code: Path, resources: Resources, *, name: str, comment: str, dependency: str | None = None
) -> submitit.SlurmExecutor:
    """An executor for the tasks of one array.

    Args:
        folder: for scripts, logs and pickles; seen by all nodes.
        code: a frozen copy of the package, which the job runs.
        resources: of one task.
        name: of the job, as squeue shows it.
        comment: of the job, by which the ledger finds it.
        dependency: on other jobs, as sbatch spells it.
    """
    further = _options(resources.sbatch)
    additional: dict[str, Any] = {"requeue": True, **further}
    gpus, ranks = resources.gpus_per_node, resources.ranks_per_node
    # srun does not inherit it since Slurm 22.05, and every rank would get one core.
    srun = [f"--cpus-per-task={resources.cpus_per_task}"]
    # Else the other ranks wait for a dead one until the time limit.
    srun.append("--kill-on-bad-exit=1")
    # Where jobs begin with a clean environment (SBATCH_EXPORT=NONE), ranks get what the script has made of it.
    srun.append("--export=ALL")
    syntax = "none" if not gpus or GPU_OPTIONS & further.keys() else resources.gpu_syntax
    if syntax == "gpus-per-node":
        additional["gpus-per-node"] = gpus
    elif syntax == "gres":
        additional["gres"] = f"gpu:{gpus}"
    elif syntax == "gpus-per-task":
        additional["gpus-per-task"] = math.ceil(gpus / ranks)
        # Else a rank sees its own GPU alone, and NCCL copies by way of the host.
        srun += ["--gpu-bind=none"] if ranks > 1 else []
    parameters = {
        "job_name": name,
        "comment": comment,
        **{wish: getattr(resources, wish) for wish in (*_WISHES, "exclude")},
        "dependency": dependency,
        # The limit must be submitit's own parameter, since it decides by it whether a job timed out.
        "time": resources.minutes,
        "signal_delay_s": min(_MOST_SIGNAL_SECONDS, resources.minutes * 60 // 4),
        "nodes": resources.nodes,
        "ntasks_per_node": ranks,
        "cpus_per_task": resources.cpus_per_task,
        "mem": None if MEMORY_OPTIONS & further.keys() else f"{math.ceil(resources.memory_gib * 1024)}M",
        # Ours come last: the site's may set a path of their own, and name files of the folder of submission.
        "setup": [*resources.setup, f"export {ASKED}={gpus}", *shell_lines(code)],
        "srun_args": [*srun, *(f"--{flag}" for flag in resources.srun)],
        "stderr_to_stdout": True,
        # submitit's default would let 256 tasks run at once.
        "array_parallelism": resources.throttle or sys.maxsize,
        "additional_parameters": additional,
    }
    # Whatever they come from: quotes do not keep a line of #SBATCH in one piece.
    for option, value in {"The folder of the logs": str(folder), **parameters}.items():
        if isinstance(value, str):
            refuse_controls(value, option)
    executor = _Executor(folder, max_num_timeout=_MOST_TIMEOUTS, python=resources.python)
    executor.resources = resources
    # None must be said aloud: the default writes a wckey that clusters without it refuse.
    executor.update_parameters(wckey=None, **{key: value for key, value in parameters.items() if value is not None})
    return executor


def report_executor(
    folder: Path, code: Path, resources: Resources, *, name: str, comment: str, dependency: str | None
) -> submitit.SlurmExecutor:
    """An executor for the report of a run: one core, no GPU, memory and time of its own, as the profile says."""
    report = resources.report
    own = dataclasses.replace(
        resources,
        **{wish: value for wish in _WISHES if (value := getattr(report, wish)) is not None},
        nodes=1,
        ranks_per_node=1,
        gpus_per_node=0,
        cpus_per_task=1,
        memory_gib=report.mem or _REPORT_GIB,
        minutes=report.time or _REPORT_MINUTES,
        sbatch=without_gpus(resources.sbatch, *MEMORY_OPTIONS) if report.sbatch is None else report.sbatch,
        srun=without_gpus(resources.srun),
    )
    return cell_executor(folder, code, own, name=name, comment=comment, dependency=dependency)


@contextlib.contextmanager
def as_asked(executor: submitit.SlurmExecutor) -> Iterator[None]:
    """Have sbatch, and srun in the job, take their wishes from an executor's script: hide variables that say otherwise.

    Those are what Slurm has told a job about itself, a user's own SLURM_ variables, by which srun goes, and SBATCH_
    variables of what the script says. submitit's `clean_env` would take SLURM_CONF, and all of a user's, as well.
    """
    said = set(re.findall(r"^#SBATCH --([\w-]+)", executor._make_submission_file_text("", ""), re.MULTILINE))
    said |= GPU_OPTIONS if said & GPU_OPTIONS else set()
    ours = {f"SBATCH_{name}" for name in (*_SBATCH, *(name.upper().replace("-", "_") for name in said))}
    ours |= {name for name in os.environ if name.startswith("SLURM_")} - _HOW_TO_REACH
    # Setup lines may run a Python of their own; the script itself asks for the safe path behind them.
    hidden = {name: os.environ.pop(name) for name in {*ours, "PYTHONSAFEPATH"} & os.environ.keys()}
    try:
        yield
    finally:
        os.environ.update(hidden)


class _Executor(submitit.SlurmExecutor):
    """submitit's, whose scripts name paths as the nodes see them."""

    resources: Resources

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.resources.on_nodes(super()._make_submission_file_text(command, uid))

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[submitit.core.core.Job[Any]]:
        if len(delayed_submissions) == 1 or not self.resources.paths:
            return super()._internal_process_submissions(delayed_submissions)
        # submitit hands an array to a plain executor of its own, which would name the paths of here.
        folder = JobPaths.get_first_id_independent_folder(self.folder)
        pickles = [folder / f"{uuid.uuid4().hex}.pkl" for _ in delayed_submissions]
        for delayed, pickle in zip(delayed_submissions, pickles, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(pickle)
        self.parameters["map_count"] = len(pickles)
        base = self._submit_command(self._submitit_command_str)
        tasks = list(range(base.num_tasks))
        jobs: list[submitit.core.core.Job[Any]] = [
            self.job_class(folder=self.folder, job_id=f"{base.job_id}_{task}", tasks=tasks)
            for task in range(len(pickles))
        ]
        for job, pickle in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs


def _options(flags: tuple[str, ...]) -> dict[str, Any]:
    """Options as submitit takes them, of "name=value" or "name"."""
    split = (flag.partition("=") for flag in flags)
    return {name: value if given else True for name, given, value in split}
