"""Why a cell's job ended, and what is done about it: its files, its logs and Slurm's last word in, one kind out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hpcseg.cluster.logs import Attempt, Logs, last_attempt, spoken
from hpcseg.cluster.scheduler import JobState
from hpcseg.files import read_regular
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import MOST_BYTES_OF_LINES
from hpcseg.runs.state import State
from hpcseg.runs.told import read_failure

Action = Literal["resume", "other node", "more memory", "more time", "give up"]
"""What the follow-up job does, as long as there are tries left: submit the cell again, without the node where it
failed, with more memory (where the profile has a cap up to which it may grow, else it is left to the user) or time (as
far as the profile's cap goes), or leave it to the user."""


@dataclass(frozen=True)
class Kind:
    """A kind of failure, how it is recognised, and what is done about it."""

    name: str
    action: Action
    remedy: str
    """What the user can do, as a sentence."""
    words: tuple[str, ...] = ()
    """Slurm's words for an ended job that mean it."""
    said: str = ""
    """Regular expression for what the failed process, or Slurm in its log, has said."""


CANCELLED = Kind(
    "cancelled",
    "give up",
    "Run `hpcseg retry` to submit it again.",
    ("CANCELLED",),
    # Of the job: that its step was cancelled is said as well where srun ends the other ranks of a dead one.
    r"JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*",
)
LEFT = Kind(
    "left the queue before it began",
    "give up",
    "Somebody took its job out of the queue, or Slurm has lost it. Run `hpcseg retry` to submit it again.",
)
BUSY = Kind(
    "busy",
    "resume",
    "Wait for the other process, or end it, then run `hpcseg retry`.",
    said=r"another process is still running this cell",
)
STOPPED = Kind(
    "stopped by you",
    "give up",
    "The same command goes on from its checkpoint, and so does `hpcseg retry`.",
)
TOLD_TO_STOP = Kind("told to stop", "resume", "Run `hpcseg retry`, it goes on from its checkpoint.")
KILLED = Kind(
    "killed without a word",
    "resume",
    "Where it happens again, look for memory: `sacct -j JOB -o MaxRSS` of a Slurm job, then --mem; without Slurm "
    "`dmesg` names what was ended for want of it.",
)
NOT_BEGUN = Kind(
    "ended before hpcseg began",
    "give up",
    "Look at the setup lines and the python of the profile, then run `hpcseg retry`.",
)
NODE_FAILURE = Kind("node failure", "resume", "Run `hpcseg retry`.", ("NODE_FAIL", "BOOT_FAIL"), r"DUE TO NODE FAILURE")
DISK_FULL = Kind(
    "disk full",
    "give up",
    "Make room, or raise the quota, then run `hpcseg retry`.",
    said=r"No space left on device|Disk quota exceeded|File too large",
)
DAMAGED = Kind(
    "damaged record",
    "give up",
    "Delete the file that is named, then run `hpcseg grid` again.",
)
NOT_REACHED = Kind(
    "not reached", "resume", "Its job ended while it had other cells before this one. Run `hpcseg retry`."
)
_OTHER = Kind("error", "give up", "Mend what the error names, then run `hpcseg retry`.")
_LEAST_ROOM_BYTES = 1_000_000

_COMPLAINT = re.compile(
    r"error|exception|kill|CANCELLED AT|Xid|another process|cuda failure|duplicate GPU", re.IGNORECASE
)

# What srun says of a rank that a signal has ended, and what slurmstepd does of a program that is not there.
_BY_SIGNAL = re.compile(r"\btasks? [\d,-]+: (?!Exited)")
_NO_PROGRAM = "execve():"

# In the order of precedence: a rank that ran out of memory makes the others complain of lost connections.
KINDS = (
    Kind(
        "out of GPU memory",
        "give up",
        "Give a cell more GPUs (--gpus-per-node), or lower train.batch_size or train.width.",
        # torch's allocator; a CUDA call elsewhere; NCCL's "Cuda failure 2 'out of memory'"; cuDNN 8 and 9.
        said=r"CUDA out of memory|CUDA error: out of memory|Cuda failure.*out of memory|OutOfMemoryError"
        r"|(CUDNN|CUBLAS)_STATUS_\w*ALLOC",
    ),
    Kind(
        "out of host memory",
        "more memory",
        "Ask for more memory: `hpcseg retry --mem GIB`, or max_mem in a profile, up to which it grows by itself.",
        ("OUT_OF_MEMORY",),
        r"oom[-_ ]kill|out[- ]of[- ]memory|MemoryError|[Cc]annot allocate memory|exceeded memory limit",
    ),
    DISK_FULL,
    Kind(
        "loss not finite",
        "give up",
        "Lower train.learning_rate or train.weight_decay, or set train.precision to fp32 if it is another.",
        said=r"The training loss became",
    ),
    Kind(
        "two ranks on one GPU",
        "give up",
        "Start as many ranks per node as it has GPUs: the same number for --gpus-per-node and --ranks-per-node.",
        # NCCL's words, and ours.
        said=r"Duplicate GPU detected|use the same GPU|of this node finds \d+ GPU",
    ),
    Kind(
        "assertion on the GPU",
        "give up",
        "An index was out of range, most often a label: `hpcseg info --verify`, then look at what the log says.",
        said=r"device-side assert",
    ),
    Kind(
        "GPU fault",
        "other node",
        "Exclude the node (`hpcseg retry --exclude NODE`), and tell its administrators.",
        said=r"CUDA error|uncorrectable ECC|CUDA-capable device|no NVIDIA driver|NVML|Xid"
        r"|\(CUDA \S+\) finds none on this node",
    ),
    NODE_FAILURE,
    Kind(
        "time limit",
        "more time",
        "Run `hpcseg retry`, it goes on from its checkpoint; --time MINUTES gives it more at once.",
        ("TIMEOUT", "DEADLINE"),
        r"DUE TO TIME LIMIT|timed-out too many times",
    ),
    Kind(
        "preempted",
        "resume",
        "Run `hpcseg retry`, or use a partition that is not preempted.",
        ("PREEMPTED",),
        r"DUE TO PREEMPTION",
    ),
    CANCELLED,
    BUSY,
    Kind(
        "not requeued",
        "resume",
        "Its checkpoint is written, but Slurm did not put its job back into the queue. Run `hpcseg retry`, it goes on; "
        "a longer --time, or tries in a profile, has it need that less.",
        said=r"\['scontrol', 'requeue'",
    ),
    Kind(
        "communication between ranks",
        "resume",
        "Look at the log of the other ranks (`hpcseg logs CELL --rank N`): one of them may have died first.",
        said=r"nccl|NCCL|[Gg]loo|Dist(Backend|Network)Error|Connection (closed|reset|refused)|minutes for rank \d"
        r"|has ended before rank|waited \d+ minutes for the others",
    ),
)


@dataclass(frozen=True)
class Failure:
    """How the last attempt at a cell ended."""

    kind: Kind
    text: str = ""
    """What was said, on one line; empty where nothing was."""
    node: str | None = None
    rank: int = 0
    """Whose log tells most."""

    @property
    def summary(self) -> str:
        """The kind, and what was said where anything was."""
        return f"{self.kind.name}: {self.text}" if self.text else self.kind.name


def diagnose(
    cell: Cell,
    job_id: str | None,
    job: JobState | None,
    *,
    cancelled: bool,
    logs: Logs,
    stopped: Kind | None = None,
    touched: bool = True,
) -> Failure:
    """Name why an unfinished cell no longer runs.

    Args:
        cell: the cell.
        job_id: of its last job, if it had one.
        job: how Slurm says that it ended, if it does.
        cancelled: the user has cancelled it.
        logs: of the run.
        stopped: by whom it was told to stop, where Slurm cannot say that; None: it was not.
        touched: False where that job is gone and has written nothing of the cell: what there is, is of an earlier one.
    """
    if not touched and job_id not in logs and (unbegun := _never_begun(job, cancelled=cancelled)):
        return unbegun
    record = read_failure(cell.folder) if touched else None
    attempts = {rank: last_attempt(path) for rank, path in logs.get(job_id or "", {}).items()}
    found = {rank: _complaints(attempt.lines(cell.id)) for rank, attempt in attempts.items()}
    error = " ".join(record.error.split()) if record else ""
    rank = record.rank if record else 0
    if stopped and not cancelled:
        # What failure.json has is of an earlier attempt.
        return Failure(stopped)
    marks = [mark for attempt in attempts.values() for mark in attempt.marks]
    begun, ended = any(of == cell.id for of, _ in marks), (cell.id, State.FAILED) in marks
    # Of the job's end that is another's: this one had failed before, or its turn had not come.
    word = job if (begun and not ended) or not marks or (job is not None and job.word in CANCELLED.words) else None
    said = _kind(error if begun or not marks else "", list(found.values()), word)
    kind = CANCELLED if cancelled else said or (_OTHER if error else without_a_word(cell))
    if marks and not begun and kind is not CANCELLED:
        return Failure(NOT_REACHED)
    if kind is KILLED and not touched and not marks and (end := _end_of_itself(attempts, job)) is not None:
        return Failure(NOT_BEGUN, end, job.node if job else None)
    text = error
    if kind.said and not re.search(kind.said, error):
        # Another rank, or Slurm, has said what it was.
        rank, text = _said_of(kind, found) or (rank, text)
    node = (record.host if record else None) or (job.node if job else None) or None
    return Failure(kind, text, node, rank)


def diagnose_job(job_id: str, job: JobState | None, *, cancelled: bool, logs: Logs) -> Failure:
    """Name why a job has ended that is for no cell, and that leaves no other word than its log; as `diagnose`."""
    attempts = {rank: last_attempt(path) for rank, path in logs.get(job_id, {}).items()}
    if not attempts and (unbegun := _never_begun(job, cancelled=cancelled)):
        return unbegun
    node = (job.node if job else None) or None
    if cancelled:
        return Failure(CANCELLED, node=node)
    found = {rank: _complaints(attempt.lines("")) for rank, attempt in attempts.items()}
    end = _end_of_itself(attempts, job)
    kind = _kind("", list(found.values()), job) or (KILLED if end is None else _OTHER)
    rank, text = _said_of(kind, found) or (0, end or "")
    return Failure(kind, text, node, rank)


def _never_begun(job: JobState | None, *, cancelled: bool) -> Failure | None:
    """Of a job that is gone and has written nothing, where it was taken out of the queue or lost there; else None."""
    if not (cancelled or job is None or job.word in CANCELLED.words):
        return None
    # Of a waiting task that was taken out of an array Slurm says nothing; of one that it has lost, it does.
    return Failure(CANCELLED) if cancelled else Failure(CANCELLED, "before it began") if job else Failure(LEFT)


def _said_of(kind: Kind, found: Mapping[int, str]) -> tuple[int, str] | None:
    """The rank whose log says that it was this, and in which words; None where none does."""
    for rank, log in found.items():
        lines = [line for line in log.splitlines() if kind.said and re.search(kind.said, line)]
        if lines:
            return rank, lines[-1].strip()
    return None


def without_a_word(cell: Cell) -> Kind:
    """What it means that a process has ended and neither its log nor its files say why."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(cell.folder.path)
        # With less a process cannot write down what has ended it.
        if disk.f_bavail * disk.f_frsize < _LEAST_ROOM_BYTES:
            return DISK_FULL
        # Of a quota the file system says nothing, and room may have been made since; a cut line tells of both.
        if not read_regular(cell.folder.events_file, MOST_BYTES_OF_LINES).endswith(b"\n"):
            return DISK_FULL
    return KILLED


def _end_of_itself(attempts: Mapping[int, Attempt], job: JobState | None) -> str | None:
    """Exit code and last words of a job that ended of itself; None where a signal may have ended it."""
    lines = [line for attempt in attempts.values() for line in attempt.lines("") if line.strip()]
    code = job.exited if job else None
    itself = code is not None or (job is not None and job.reason == "NonZeroExitCode")
    if any(map(_BY_SIGNAL.search, lines)) or not (itself or any(_NO_PROGRAM in line for line in lines)):
        return None
    # srun repeats that its step has ended.
    words = [line.strip() for line in spoken(lines) if not line.startswith("srun: ")]
    return ": ".join([*([f"exit code {code}"] if code else []), *words[-1:]])


def _complaints(lines: Iterable[str]) -> str:
    """The lines of a log that speak of an error: gloo and NCCL also write where all is well."""
    return "\n".join(line for line in lines if _COMPLAINT.search(line))


def _kind(error: str, logs: list[str], job: JobState | None) -> Kind | None:
    word = job.word if job else ""
    for kind in KINDS:
        if word in kind.words or (kind.said and any(re.search(kind.said, text) for text in (error, *logs))):
            return kind
    return None
