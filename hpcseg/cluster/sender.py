"""Tasks in, one array in Slurm and its line in the ledger out; or, in a dry run, the script that would be sent.

An answer of sbatch can get lost: its socket times out though the job was taken, or the caller dies before it can write
the job down. So every array is announced in the ledger first and carries the announcement's token as its comment. What
was announced and never answered is taken back out of the queue before its cells are looked at again.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.executor import as_asked, cell_executor, report_executor
from hpcseg.cluster.ledger_place import tag
from hpcseg.cluster.missing import strange_jobs
from hpcseg.cluster.profile import Resources
from hpcseg.errors import SchedulerError
from hpcseg.runs.folder import RunFolder
from hpcseg.text import counted

_TRIES = 3
_SECONDS_BETWEEN_TRIES = 5.0
_MOST_LINES = 20
_DRY_RUN_TOKEN = "hpcseg-dry-run"  # noqa: S105 - a comment of the job, and no secret
# What sbatch says, after two minutes of trying, when the controller has as many jobs as it can hold (MaxJobCount).
_FULL = re.compile(r"temporarily unable to accept job|queue full|Resource temporarily unavailable", re.IGNORECASE)
# What it says where the way to the controller, or the controller, broke down: the job may have been taken all the same.
_BROKEN = re.compile(
    r"timed out|(receive|send|shutdown) failure|connection (reset|aborted)|broken pipe|endpoint|zero bytes"
    r"|unexpected message|message length|longer than data",
    re.IGNORECASE,
)
# What it says when the site's limits leave no room for so many jobs: a smaller array may fit.
_NO_ROOM = re.compile(r"(Max|Grp)Submit|MaxJobCount|array tasks? limit", re.IGNORECASE)
# Slurm's one sentence for every limit of an account or a QoS. Most versions name the limit in a line before it.
_POLICY = re.compile(r"violates accounting/QOS policy", re.IGNORECASE)
_NAMED_LIMIT = re.compile(r"\b(QOS|Assoc)(Max|Grp|Min)\w+")


class UnansweredError(SchedulerError):
    """It is not known whether sbatch took the job."""


class NoRoomError(SchedulerError):
    """The site lets this user submit no more jobs now, or not so many."""


class FullError(NoRoomError):
    """The controller takes no job at all now."""


class PolicyError(SchedulerError):
    """A limit of the account or of the QoS, which may be of one job, or of how many there are."""


def policy_remedy(said: str) -> str:
    """What to do about words of sbatch that speak of a limit of the account or the QoS; empty where they do not."""
    if not _POLICY.search(said):
        return ""
    less = "ask for less (--time, --mem, --nodes, --gpus-per-node), or name another --qos or --account"
    if _NAMED_LIMIT.search(said):
        return f"A job asks for more than you may have: {less}. `sacctmgr show qos` and `show assoc` have the limits."
    return (
        "Slurm says this of every limit, so either a job asks for more than you may have, or you have as many jobs as "
        f"you may. For the one {less}; for the other wait, or put more cells into a job (--cells-per-job). `sacctmgr "
        "show qos` and `show assoc` have the limits."
    )


@dataclass(frozen=True)
class Sent:
    """One array, or a single job."""

    stage: str
    tasks: tuple[tuple[str, ...], ...]
    """Ids of the cells of each task. Empty for the report."""
    job_id: str
    """Without a task; of a dry run a placeholder."""
    token: str
    """Of its announcement."""

    def lines(self, names: Mapping[str, str]) -> list[str]:
        """Its cells for a person: one line each, or one for all where they are many; `names` of cells by id, or of the
        stage."""
        if not self.tasks:
            return [f"  {names.get(self.stage, self.stage)}: job {self.job_id}"]
        ids = ledger.task_ids(self.job_id, len(self.tasks))
        cells = [(cell, job_id) for task, job_id in zip(self.tasks, ids, strict=True) for cell in task]
        if len(cells) > _MOST_LINES:
            jobs = f"jobs {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"job {ids[0]}"
            return [f"  {len(cells)} {self.stage}: {jobs}"]
        return [f"  {names.get(cell, cell)}: job {job_id}" for cell, job_id in cells]


@dataclass
class Submission:
    """What a call submitted, or would submit, and what it left alone."""

    dry_run: bool
    sent: list[Sent] = field(default_factory=list)
    """In the order of submission."""
    scripts: list[str] = field(default_factory=list)
    """The sbatch scripts; filled in a dry run."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Cell id to why nothing was submitted for it, though it is not finished."""
    no_slurm: str = ""
    """Of a dry run: that no Slurm would answer."""
    no_room: str = ""
    """What sbatch said when the site's limits left no room for the rest."""
    no_report: bool = False
    """No report job follows, which would submit the rest as well: no room for it, or it is none of its affair."""
    again: str = "`hpcseg grid`"
    """What submits the rest."""

    @property
    def jobs(self) -> int:
        """How many jobs and array tasks were submitted."""
        return sum(len(sent.tasks) or 1 for sent in self.sent)

    def lines(self, names: Mapping[str, str] | None = None) -> list[str]:
        """The submission as text for a person, who knows cells by `names`, by id; None: by their ids."""
        names = names or {}
        lines = _first([f"  {names.get(cell_id, cell_id)}: {why}" for cell_id, why in self.left_alone.items()])
        lines += _first([line for sent in self.sent for line in sent.lines(names)])
        if self.dry_run:
            return [*lines, *self.scripts, f"Nothing was submitted (--dry-run). {self.no_slurm}".rstrip()]
        lines.append(f"Submitted {counted(self.jobs, 'job')}." if self.sent else "Nothing to submit.")
        if self.no_room:
            lines.append(f"The rest has to wait for room: {self.no_room}")
            lines.append(
                f"Run {self.again} again when there is some."
                if self.no_report or not self.sent
                else f"The report job will submit it, or the next {self.again}."
            )
        return lines


def _first(lines: list[str]) -> list[str]:
    rest = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"  ... and {rest} more like these"] if rest > 0 else lines


@dataclass
class Sender:
    """Sends tasks of one run to Slurm and books them, or shows in a dry run what it would send."""

    run: RunFolder
    code: Path
    """A frozen copy of the package, which the jobs run."""
    resources: Resources
    name: str
    """Of the jobs."""
    submission: Submission
    """Gets what was sent."""
    arrays_at_once: int | None = None
    """Each further array waits for the end of the one so many before it; None: none waits."""

    def send(self, stage: str, tasks: Mapping[tuple[str, ...], Callable[[], Any]]) -> None:
        """Submit tasks, by the ids of the cells that each is for, as one array.

        Raises:
            NoRoomError: the site's limits leave no room for so many.
            SchedulerError: sbatch refused for another reason; that arrays before this one stay is in the message.
        """
        before = [sent.job_id for sent in self.submission.sent if sent.tasks]
        waits = self.arrays_at_once is not None and len(before) >= self.arrays_at_once
        dependency = f"afterany:{before[-(self.arrays_at_once or 0)]}" if waits else None
        try:
            self._send(stage, list(tasks), list(tasks.values()), cell_executor, name=self.name, dependency=dependency)
        except NoRoomError:
            raise
        except SchedulerError as error:
            if not before:
                raise
            took = f"What sbatch took before stays in the queue: {counted(self.submission.jobs, 'job')}."
            raise type(error)(f"{error} {took} The same command submits the rest.") from None

    def send_last(self, task: Callable[[], Any], *, name: str, behind: Collection[str] = ()) -> None:
        """Submit the job behind all others, whose name goes on so; to the ledger it is the report.

        `behind` are ids of further jobs that were submitted before, for which none waits.

        Where sbatch refuses it in words, the others are taken back. They would be left alone by the next call, and so
        would stay without it.

        Raises:
            NoRoomError: the site's limits leave no room for it.
            SchedulerError: sbatch refused.
        """
        dependency = "afterany:" + ":".join([*behind, *(sent.job_id for sent in self.submission.sent)])
        try:
            self._send("report", [], [task], report_executor, name=self.name + name, dependency=dependency)
        except (NoRoomError, UnansweredError):
            raise
        except SchedulerError as error:
            if not self.submission.sent:
                raise
            while self.submission.sent:
                self.take_back()
            raise SchedulerError(
                f"{error} That was the job behind all others, so the others were taken back. Say in the table [report] "
                "of a profile what it is to ask for, such as a partition without GPUs."
            ) from None

    def take_back(self) -> tuple[tuple[str, ...], ...]:
        """Cancel what was sent last, as if it had never been; returns its tasks."""
        last = self.submission.sent.pop()
        scheduler.cancel([last.job_id])
        ledger.withdraw(self.run, last.token)
        return last.tasks

    def _send(
        self,
        stage: str,
        cells: list[tuple[str, ...]],
        tasks: list[Callable[[], Any]],
        make: Callable[..., submitit.SlurmExecutor],
        **named: Any,
    ) -> None:
        executor = functools.partial(make, self.run.logs, self.code, self.resources, **named)
        if self.submission.dry_run:
            shown = executor(comment=_DRY_RUN_TOKEN)
            if len(tasks) > 1:
                shown.parameters["map_count"] = len(tasks)
            self.submission.scripts.append(shown._make_submission_file_text(shown._submitit_command_str, ""))
            token, job_id = _DRY_RUN_TOKEN, f"<id of {shown.parameters['job_name']}>"
        else:
            token = ledger.announce(self.run, stage, cells)
            job_id = self._submitted(token, cells, tasks, executor)
            ledger.book(self.run, token, stage, cells, job_id)
        self.submission.sent.append(Sent(stage, tuple(cells), job_id, token))

    def _submitted(
        self,
        token: str,
        cells: list[tuple[str, ...]],
        tasks: list[Callable[[], Any]],
        executor: Callable[..., submitit.SlurmExecutor],
    ) -> str:
        """Submit what is announced; returns the id of the job, without a task."""

        def submit() -> str:
            sender = executor(comment=token)
            with as_asked(sender), sender.batch():
                first, *_ = [sender.submit(task) for task in tasks]
            # Its setup lines may hold a secret, and Slurm has a copy of its own.
            first.paths.submission_file.chmod(0o600)
            return str(first.job_id).split("_")[0]

        def take_back() -> bool:
            # Where a submit filter has changed the comment, a job in the queue that nobody has booked may be it.
            return _take_back(token) and not strange_jobs(self.run, ledger.read(self.run))

        try:
            return _with_patience(submit, take_back)
        except UnansweredError:
            raise
        except PolicyError as error:
            ledger.withdraw(self.run, token)
            if cells and self.submission.sent:
                # It has just taken jobs that ask for the same, so this is a matter of how many there are.
                raise NoRoomError(str(error)) from None
            asked = executor(comment=token).parameters
            wishes = ", ".join(f"--{name}={asked[name]}" for name in ("time", "mem", "nodes") if name in asked)
            raise PolicyError(f"{error} Asked for: {counted(len(tasks), 'job')} with {wishes}.") from None
        except SchedulerError:
            # sbatch has said no in words, so nothing of it is in the queue.
            ledger.withdraw(self.run, token)
            raise


def tidy_up(run: RunFolder) -> None:
    """Take back what a call announced and did not live to write down; where squeue is silent it stays for later.

    Raises:
        SchedulerError: squeue has jobs of this run that the ledger does not know.
    """
    booked = ledger.read(run)
    # Also what was withdrawn, since a job may have been taken in spite of what sbatch said.
    withdrawn = {token for token, job in booked.tokens.items() if job is None and token.startswith(tag(run))}
    if (unwanted := withdrawn | booked.unanswered.keys()) and _take_back(*unwanted):
        for token in booked.unanswered:
            ledger.withdraw(run, token)
    if strangers := strange_jobs(run, ledger.read(run)):
        raise SchedulerError(f"{strangers} Then run the same command again: until then it would submit them twice.")


def _take_back(*tokens: str) -> bool:
    """Cancel what carries one of these tokens; False when that is not known to have happened."""
    found = scheduler.with_comment(*tokens)
    if found is None:
        return False
    scheduler.cancel(found)
    return True


def _with_patience(call: Callable[[], str], take_back: Callable[[], bool]) -> str:
    """Call sbatch again where it got no answer; every other refusal is the user's to mend."""
    for attempt in range(1, _TRIES + 1):
        try:
            return call()
        except submitit.core.utils.FailedSubmissionError as error:
            raise UnansweredError(f"sbatch did not name the job that it submitted: {error}") from None
        except OSError as error:
            raise SchedulerError(f"The job cannot be written: {error}.") from None
        except submitit.core.utils.FailedJobError as error:
            said = str(error)
            words = " ".join([line for line in said.splitlines() if "sbatch" in line] or said.splitlines()).strip()
            if not _BROKEN.search(said):
                if not (_FULL.search(said) or _NO_ROOM.search(said)) and (remedy := policy_remedy(said)):
                    raise PolicyError(f"sbatch refused the job: {words}. {remedy}") from None
                kind = FullError if _FULL.search(said) else NoRoomError if _NO_ROOM.search(said) else SchedulerError
                raise kind(f"sbatch refused the job: {words.rstrip('.')}.") from None
            if not take_back() or attempt == _TRIES:
                raise UnansweredError(
                    f"sbatch does not answer: {words}. Try again later; nothing is doubled."
                ) from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
    raise AssertionError("unreachable")
