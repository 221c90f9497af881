"""What Slurm says about jobs: squeue first, then sacct and scontrol, whichever answers.

A site may hide its accounting, its queue, or the jobs of others, and a daemon may hang, so every call is short and may
fail. A state that is not known to be an end is never taken for one, nor is it one that a job is not shown.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from hpcseg.errors import SchedulerError
from hpcseg.runs.state import State

_SECONDS = 10
_SECONDS_TO_CANCEL = 60
# sbatch looks for a controller for a while before it says that there is none.
_SECONDS_TO_FIND_NONE = 60
_IDS_PER_CALL = 500
# Slurm's words for a job, as states of a cell that is not finished; any other word is UNKNOWN.
_WORDS = {
    State.QUEUED: "PENDING REQUEUED CONFIGURING REQUEUE_HOLD REQUEUE_FED RESV_DEL_HOLD SPECIAL_EXIT POWER_UP_NODE",
    State.RUNNING: "RUNNING COMPLETING RESIZING SIGNALING STAGE_OUT",
    State.SUSPENDED: "SUSPENDED STOPPED",
    State.STOPPED: "BOOT_FAIL COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT",
    State.CANCELLED: "CANCELLED",
}
# What Slurm's commands say where no controller answers, or where they do not know of one.
_NO_CONTROLLER = re.compile(
    r"establish a configuration source|process configuration file|contact slurm controller|establish control"
)
_IS_GONE = re.compile(r"Invalid job id|already completing or completed")
_STATES = {word: state for state, words in _WORDS.items() for word in words.split()}
_NOT_SHOWN = "not shown"
_OF_USERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SLURM_TIME_FORMAT")


@dataclass(frozen=True)
class JobState:
    """One job or array task as Slurm sees it."""

    said: str
    """Slurm's word, as it came: "PENDING", "CANCELLED by 0"."""
    reason: str = ""
    node: str = ""
    exit_code: str = ""
    """As accounting has it: "7:0" of a job that ended of itself, "0:9" of one that a signal ended."""
    script: str = field(default="", compare=False)
    """What it runs, a path; "(null)" where there is none, empty where that is not known."""
    comment: str = field(default="", compare=False)
    """As of `script`."""

    @property
    def word(self) -> str:
        """Slurm's word alone."""
        # "CANCELLED by 0", "CANCELLED+"
        return self.said.partition(" ")[0].rstrip("+")

    @property
    def state(self) -> State:
        """What it means for the cell or part that the job is for, as long as that is not finished."""
        return _STATES.get(self.word, State.UNKNOWN)

    @property
    def exited(self) -> int | None:
        """The code with which it ended of itself and not well; None: it did not, or that is not known."""
        code, _, signal = self.exit_code.partition(":")
        # A shell makes 128 and more of the signal that has ended what it ran.
        return int(code) if signal == "0" and code.isdigit() and 0 < int(code) < 128 else None

    @property
    def ended(self) -> bool:
        """Whether Slurm will do nothing more about it."""
        return self.state.idle

    @property
    def hidden(self) -> bool:
        """Slurm does not show it to this user, so that it may wait, run, or be gone."""
        return self.said == _NOT_SHOWN

    @property
    def note(self) -> str:
        """Slurm's reason; of an unknown state its word as well."""
        words = (self.said, self.reason) if self.state is State.UNKNOWN else (self.reason,)
        return ": ".join(word for word in words if word)


SILENCE = JobState(_NOT_SHOWN, "squeue, sacct and scontrol do not answer")
"""Of a job of which no command says anything."""


def ask(job_ids: Iterable[str], users: Sequence[str] = (), others: Collection[str] = ()) -> dict[str, JobState] | None:
    """States of jobs and array tasks by id ("123", "123_4").

    Args:
        job_ids: whose.
        users: who may have submitted them; nobody named: the caller.
        others: ids of those that somebody else has submitted.

    Returns:
        A state for every id that Slurm still knows, and for every one that it may know and does not show; or None when
        no command answered. An id that is absent is neither waiting nor running.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    queue, accounts, why = _squeue(users), None, dict[str, str]()
    if queue is None:
        accounts = _sacct(wanted)
        # It may not have heard of a job yet, or no more: that it has no word of one is no end.
        queue = _scontrol() if accounts is None or wanted - accounts.keys() else {}
        if queue is None and accounts is None:
            return None
        if queue is None:
            why = dict.fromkeys(wanted, "sacct has no word of it, and squeue and scontrol do not answer")
    states = {**(queue or {}), **(accounts or {})}
    foreign = (wanted & set(others)) - states.keys()
    if foreign and hides_jobs() is not False:
        states |= _sacct(foreign) or {}
        why |= dict.fromkeys(foreign, "it is another user's, whose jobs this site keeps private (PrivateData)")
    hidden = {job_id: JobState(_NOT_SHOWN, reason) for job_id, reason in why.items()}
    return {job_id: state for job_id, state in {**hidden, **states}.items() if job_id in wanted}


def history(job_ids: Iterable[str]) -> dict[str, JobState]:
    """How jobs ended that are in the queue no more, as far as accounting tells; no word of an end is no entry."""
    wanted = set(job_ids)
    said = (_sacct(wanted) if wanted else None) or {}
    # It hears of an end after the queue, and of some never.
    return {job_id: state for job_id, state in said.items() if job_id in wanted and state.ended}


def no_controller(seconds: float = _SECONDS_TO_FIND_NONE) -> str | None:
    """What sbatch says where no controller of Slurm answers it; None: one does, or it is not known.

    Args:
        seconds: by which each of two commands must have answered.
    """
    if _run(["scontrol", "ping"], min(seconds, _SECONDS)) is not None:
        return None
    # A site may keep its users from scontrol, and what counts is whether a job can be submitted.
    said, _ = said_by(["sbatch", "--test-only", "--wrap=true"], seconds)
    return next((line.strip() for line in said.splitlines() if _NO_CONTROLLER.search(line)), None)


def max_array_size() -> int | None:
    """The site's MaxArraySize (largest array index + 1), or None when scontrol does not answer."""
    size = (configuration() or {}).get("MaxArraySize", "")
    return int(size) if size.isdigit() else None


def hides_jobs() -> bool | None:
    """Whether the site shows a user nothing of the jobs of others; None when scontrol does not answer."""
    site = configuration()
    return None if site is None else bool(re.search(r"\b(jobs|all)\b", site.get("PrivateData", "")))


def configuration() -> dict[str, str] | None:
    """The site's settings by Slurm's own words, such as MaxArraySize; None when scontrol does not answer."""
    text = _run(["scontrol", "show", "config"])
    lines = (line.partition("=") for line in (text or "").splitlines())
    return None if text is None else {name.strip(): value.strip() for name, _, value in lines}


def with_comment(*comments: str) -> set[str] | None:
    """Ids (without tasks) of the jobs in the queue that carry one of these; None where Slurm does not tell."""
    found = own_jobs()
    return None if found is None else {job_id for job_id, (whole, _) in found.items() if whole in comments}


def own_jobs() -> dict[str, tuple[str, str]] | None:
    """Comment and script of the caller's jobs in the queue by their ids without tasks; None where Slurm does not tell.

    A script is an absolute path, empty where it is not known.
    """
    text = _run(own_jobs_command())
    if text is not None:
        lines = (line.split("|", 2) for line in text.splitlines() if "|" in line)
        return {job_id: (comment, "".join(script)) for job_id, comment, *script in lines}
    jobs = _scontrol_jobs()
    if jobs is None:
        return None
    return {
        job.get("ArrayJobId", job.get("JobId", "")): (job.get("Comment", ""), job.get("Command", ""))
        for job in jobs
        if job.get("UserId", "").endswith(f"({os.geteuid()})") and not JobState(job.get("JobState", "")).ended
    }


def show(job_id: str) -> dict[str, str] | None:
    """What `scontrol show job` says of one by its own words, such as TimeLimit; None where it does not answer."""
    return next(iter(_scontrol_jobs(job_id) or ()), None)


def cancel(job_ids: Iterable[str]) -> None:
    """Take jobs out of the queue, or end them; a job that has ended already is no error.

    Raises:
        SchedulerError: scancel is not there or fails; what it said is in the message.
    """
    wanted = sorted(job_ids)
    # A command line has a limit of its own.
    for start in range(0, len(wanted), _IDS_PER_CALL):
        command = ["scancel", "--quiet", *wanted[start : start + _IDS_PER_CALL]]
        try:
            subprocess.run(
                command, env=_environment(), capture_output=True, text=True, timeout=_SECONDS_TO_CANCEL, check=True
            )
        except subprocess.CalledProcessError as error:
            # A line for each job.
            if said := " ".join(line for line in error.stderr.splitlines() if not _IS_GONE.search(line)):
                raise SchedulerError(f"scancel failed: {said}") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise SchedulerError(f"scancel failed: {error}. Try again.") from None


def user() -> str:
    """The caller's name; where the system knows none, as in many a container, the number, which Slurm takes as well."""
    try:
        # Not what LOGNAME and USER say: images of containers set them to names of their own.
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def end_of_job(job_id: str) -> float | None:
    """When a running job reaches its time limit, in seconds since 1970; None where none is known."""
    said = (_run(["squeue", "--noheader", f"--jobs={job_id}", "--format=%e"]) or "").strip()
    try:
        return time.mktime(time.strptime(said, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        # "NONE", "N/A", or no answer
        return None


def queue_command(users: Sequence[str] = ()) -> list[str]:
    """All jobs of these users, by default the caller: asked for single ids, squeue fails when it knows one no more.

    With them come those that have ended a few minutes ago, which accounting may not have heard of, where there is any.
    """
    whose = ",".join(users or [user()])
    return ["squeue", "--noheader", "--array", "--states=all", f"--user={whose}", "--format=%i|%T|%r|%N|%o|%k"]


def own_jobs_command() -> list[str]:
    """The caller's jobs with their comments and scripts."""
    return ["squeue", "--noheader", f"--user={user()}", "--format=%F|%k|%o"]


def accounting_command(job_ids: Iterable[str]) -> list[str]:
    """Jobs, and all tasks of theirs: some Slurms have no --array for it, and keep the waiting ones together."""
    bases = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
    fields = "--format=JobID,State,NodeList,ExitCode"
    return ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={bases}", fields]


def controller_command(*job_ids: str) -> list[str]:
    """All that the controller knows of jobs, by default of every one."""
    return ["scontrol", "--oneliner", "show", "job", *job_ids]


def _squeue(users: Sequence[str]) -> dict[str, JobState] | None:
    def read(line: list[str]) -> JobState:
        node, script, *comment = [*line[3:], "", ""]
        return JobState(line[1], "" if line[2] == "None" else line[2], node, "", script, "".join(comment))

    return _parse(queue_command(users), read)


def _sacct(wanted: set[str]) -> dict[str, JobState] | None:
    return _parse(
        accounting_command(wanted),
        lambda line: JobState(line[1], "", "" if line[2] == "None assigned" else line[2], "".join(line[3:])),
    )


def _scontrol() -> dict[str, JobState] | None:
    jobs = _scontrol_jobs()
    if jobs is None:
        return None
    states: dict[str, JobState] = {}
    for fields in jobs:
        reason = fields.get("Reason", "None").replace("None", "")
        node = fields.get("NodeList", "").replace("(null)", "")
        what = fields.get("Command", ""), fields.get("Comment", "")
        state = JobState(fields.get("JobState", ""), reason, node, "", *what)
        tasks = f"{fields.get('ArrayJobId')}_[{fields['ArrayTaskId']}]" if "ArrayTaskId" in fields else ""
        states |= dict.fromkeys(_each(tasks or fields.get("JobId", "")), state)
    return states


def _scontrol_jobs(*job_ids: str) -> list[dict[str, str]] | None:
    text = _run(controller_command(*job_ids))
    if text is None:
        return None
    lines = [line for line in text.splitlines() if "JobId=" in line]
    return [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines]


def _each(job_id: str) -> list[str]:
    """The ids behind one of an array's tasks that Slurm keeps together, such as those that wait: 7_[0,2-5,8-12:2%2]."""
    array, kept, tasks = job_id.partition("_[")
    if not kept:
        return [job_id]
    ids = []
    for part in tasks.rstrip("]").partition("%")[0].split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = (int(number) if number else None for number in found.groups())
            ids += [f"{array}_{task}" for task in range(first or 0, (last or first or 0) + 1, step or 1)]
    return ids


def _parse(command: list[str], read: Callable[[list[str]], JobState]) -> dict[str, JobState] | None:
    text = _run(command)
    if text is None:
        return None
    lines = [line.split("|") for line in text.splitlines() if line.count("|") >= 2]
    # What is said of a task alone is newer than what is said of all that waited.
    lines.sort(key=lambda line: "_[" not in line[0])
    return {job_id: read(line) for line in lines for job_id in _each(line[0])}


def _run(command: list[str], seconds: float | None = None) -> str | None:
    said, answered = said_by(command, seconds)
    return said if answered else None


def _environment() -> dict[str, str]:
    """Of Slurm's commands, without a user's filters for his own: jobs of ours would seem to be gone, or would stay."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OF_USERS)}
    if clusters := others.get("SBATCH_CLUSTERS"):
        # Jobs are there, and only sbatch goes by it.
        others.setdefault("SLURM_CLUSTERS", clusters)
    # Else the list of an array's tasks is cut after so many characters.
    return {**others, "SLURM_BITSTR_LEN": "0"}


def said_by(command: list[str], seconds: float | None = None) -> tuple[str, bool]:
    """What a command says, and whether it has succeeded in time, by default in ten seconds."""
    seconds = seconds or _SECONDS
    try:
        answer = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"{command[0]} takes longer than {seconds:g} seconds", False
    except OSError as error:
        return f"{command[0]}: {error.strerror}", False
    said = answer.stdout if answer.returncode == 0 else answer.stderr or answer.stdout
    return said.strip(), answer.returncode == 0
