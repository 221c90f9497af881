"""The cells of a grid in, Slurm arrays out: training, evaluation behind it, a report behind all.

    training array  --aftercorr-->  evaluation array  --afterany-->  report job

Under the run's lock: look what the files and Slurm say, submit what is missing, write each array down as soon as
sbatch has answered. Whatever interrupts that, the next call finds and submits the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import submitit

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.executor import cell_executor, report_executor
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.worker import CellTask, ReportTask
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.runs.grid import Cell, Grid, write_plan

Stage = Literal["train", "evaluate"]
_T = TypeVar("_T")

# Slurm's own default, for a site whose scontrol does not answer.
_USUAL_ARRAY_SIZE = 1001
_TRIES = 3
_FINISHED = "finished"
_SECONDS_BETWEEN_TRIES = 5.0


@dataclass
class Submission:
    """What a call submitted, or would submit, and what it left alone."""

    dry_run: bool
    jobs: list[tuple[str, str]] = field(default_factory=list)
    """(cell id and stage, job id) in the order of submission."""
    scripts: list[str] = field(default_factory=list)
    """The sbatch scripts; filled in a dry run."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Cell id to why nothing was submitted for it."""

    def lines(self) -> list[str]:
        """The submission as text for a person."""
        lines = [f"  {cell_id}: {why}" for cell_id, why in self.left_alone.items() if why != _FINISHED]
        if self.dry_run:
            return [
                *lines,
                *(f"  {what}" for what, _ in self.jobs),
                *self.scripts,
                "Nothing was submitted (--dry-run).",
            ]
        lines += [f"  {what}: job {job_id}" for what, job_id in self.jobs]
        return [*lines, f"Submitted {len(self.jobs)} jobs." if self.jobs else "Nothing to submit."]


@dataclass(frozen=True)
class Work:
    """What is missing of a grid, by how it is submitted."""

    train: list[Cell]
    """Need a training, and an evaluation behind it."""
    evaluate: list[Cell]
    """Are trained and need an evaluation."""
    follow: list[tuple[Cell, str]]
    """Their training (job id) is in Slurm, but no evaluation: a call was interrupted between the two."""


def submit_missing(grid: Grid, resources: Resources, *, dry_run: bool, resubmit: bool) -> Submission:
    """Submit what is neither finished nor in Slurm already.

    Args:
        grid: of the run.
        resources: of one cell.
        dry_run: build everything, submit nothing, write nothing.
        resubmit: submit cells of which Slurm does not tell whether they still run.

    Raises:
        ConfigError: a node has fewer GPUs than ranks.
        SchedulerError: there is no Slurm here, or sbatch refused; what it said is in the message.
    """
    if 0 < resources.gpus_per_node < resources.ranks_per_node:
        raise ConfigError(
            f"{resources.ranks_per_node} ranks per node would share {resources.gpus_per_node} GPUs, but each needs one "
            "of its own. Give both the same number, or no GPUs (--gpus-per-node 0)."
        )
    if shutil.which("srun") is None or shutil.which("sbatch") is None:
        raise SchedulerError("There is no Slurm here: sbatch and srun are not on PATH. Leave --slurm out to run here.")
    submission = Submission(dry_run)
    if dry_run:
        _submit(grid, resources, _missing(grid, submission, resubmit=resubmit), submission)
        return submission
    with ledger.locked(grid.run):
        write_plan(grid)
        _submit(grid, resources, _missing(grid, submission, resubmit=resubmit), submission)
    return submission


def chunks(cells: Sequence[Cell], largest: int) -> list[list[Cell]]:
    """Cells in arrays of at most `largest` tasks; every array's indices start at 0."""
    return [list(cells[start : start + largest]) for start in range(0, len(cells), largest)]


def _missing(grid: Grid, submission: Submission, *, resubmit: bool) -> Work:
    work = Work([], [], [])
    jobs = ledger.submitted(grid.run)
    states = scheduler.ask(jobs.values())
    for cell in grid.cells:
        if cell.evaluated():
            submission.left_alone[cell.id] = _FINISHED
            continue
        stages = ("evaluate",) if cell.trained() else ("train", "evaluate")
        known = {stage: jobs[cell.id, stage] for stage in stages if (cell.id, stage) in jobs}
        if known and states is None and not resubmit:
            submission.left_alone[cell.id] = (
                f"submitted as job {', '.join(known.values())}, and neither squeue nor sacct nor scontrol answers. "
                "Submit it again with --resubmit if you know that it is gone"
            )
            continue
        found = {stage: (states or {}).get(job_id) for stage, job_id in known.items()}
        alive = {stage: state for stage, state in found.items() if state is not None and not state.ended}
        if not cell.trained() and "train" not in alive and "evaluate" in alive and alive["evaluate"].state == "PENDING":
            # It waits for a training that has died, in vain, and Slurm removes it in its own time.
            del alive["evaluate"]
        for stage, state in alive.items():
            submission.left_alone[cell.id] = f"{stage} is job {known[stage]}, {state.state.lower()}"
        if "evaluate" in alive:
            continue
        if "train" in alive:
            work.follow.append((cell, known["train"]))
        else:
            (work.evaluate if cell.trained() else work.train).append(cell)
    return work


def _submit(grid: Grid, resources: Resources, work: Work, submission: Submission) -> None:
    largest = _largest_array(resources)
    arrays = chunks(work.train, largest)
    throttle = max(1, resources.throttle // len(arrays)) if resources.throttle and arrays else resources.throttle
    sender = _Sender(grid, resources, throttle, submission)
    evaluations = []
    for cells in arrays:
        base = sender.send(cells, "train", dependency=None)
        # An array of one task is no array, and aftercorr knows arrays only.
        condition = "aftercorr" if len(cells) > 1 else "afterok"
        evaluations.append(sender.send(cells, "evaluate", dependency=f"{condition}:{base}"))
    for cells in chunks(work.evaluate, largest):
        evaluations.append(sender.send(cells, "evaluate", dependency=None))
    for cell, training in work.follow:
        evaluations.append(sender.send([cell], "evaluate", dependency=f"afterok:{training}"))
    if evaluations:
        sender.send_report("afterany:" + ":".join(evaluations))


def _largest_array(resources: Resources) -> int:
    known = resources.max_array_size or scheduler.max_array_size()
    # 0: the site has switched arrays off, and one task is submitted as a plain job.
    return _USUAL_ARRAY_SIZE if known is None else max(1, known)


@dataclass
class _Sender:
    """Sends arrays of one grid to Slurm, or shows what it would send."""

    grid: Grid
    resources: Resources
    throttle: int | None
    submission: Submission

    def send(self, cells: list[Cell], stage: Stage, *, dependency: str | None) -> str:
        """Submit one array; returns the base id of its job."""
        executor = cell_executor(
            self.grid.run.logs,
            self.resources,
            name=f"hpcseg-{self.grid.job.name}-{stage}",
            throttle=self.throttle,
            dependency=dependency,
        )
        tasks = [CellTask(str(cell.folder.path.resolve()), stage) for cell in cells]
        names = [f"{cell.id} {stage}" for cell in cells]
        if self.submission.dry_run:
            return self._show(executor, names)
        jobs = _retry(lambda: _submit_array(executor, tasks))
        ledger.book(self.grid.run, stage, [(cell.id, job.job_id) for cell, job in zip(cells, jobs, strict=True)])
        self.submission.jobs += [(name, job.job_id) for name, job in zip(names, jobs, strict=True)]
        return str(jobs[0].job_id).split("_")[0]

    def send_report(self, dependency: str) -> None:
        """Submit the report job."""
        name = f"hpcseg-{self.grid.job.name}-report"
        executor = report_executor(self.grid.run.logs, self.resources, name=name, dependency=dependency)
        if self.submission.dry_run:
            self._show(executor, ["report"])
            return
        job = _retry(lambda: executor.submit(ReportTask(str(self.grid.run.path.resolve()))))
        ledger.book(self.grid.run, "report", [("all", job.job_id)])
        self.submission.jobs.append(("report", job.job_id))

    def _show(self, executor: submitit.SlurmExecutor, names: list[str]) -> str:
        if len(names) > 1:
            executor.parameters["map_count"] = len(names)
        self.submission.scripts.append(executor._make_submission_file_text(executor._submitit_command_str, ""))
        self.submission.jobs += [(name, "") for name in names]
        return f"<id of {executor.parameters['job_name']}>"


def _submit_array(executor: submitit.SlurmExecutor, tasks: list[CellTask]) -> list[submitit.Job[str]]:
    with executor.batch():
        jobs = [executor.submit(task) for task in tasks]
    return jobs


def _retry(call: Callable[[], _T]) -> _T:
    """Call sbatch again when its socket timed out; every other refusal is the user's to mend."""
    for attempt in range(1, _TRIES + 1):
        try:
            with _as_from_a_login_shell():
                return call()
        except submitit.core.utils.FailedSubmissionError as error:
            raise SchedulerError(f"sbatch did not name the job that it submitted: {error}") from None
        except OSError as error:
            raise SchedulerError(f"The job cannot be written: {error}.") from None
        except submitit.core.utils.FailedJobError as error:
            said = str(error)
            if "timed out" not in said.lower() or attempt == _TRIES:
                words = [line for line in said.splitlines() if "sbatch" in line] or said.splitlines()
                raise SchedulerError(f"sbatch refused the job: {' '.join(words).strip()}") from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _as_from_a_login_shell() -> Iterator[None]:
    """Hide what Slurm has told a job about itself: sbatch takes some of it for wishes, the new job for its own.

    submitit's `clean_env` would take SLURM_CONF, and a user's own SBATCH_ variables, as well.
    """
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS")]
    hidden = {name: os.environ.pop(name) for name in names} if inside else {}
    try:
        yield
    finally:
        os.environ.update(hidden)
