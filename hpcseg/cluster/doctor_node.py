"""Checks on a compute node: one short job with a cell's resources, and what its ranks report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
from filelock import FileLock

from hpcseg.cluster import scheduler
from hpcseg.cluster.executor import as_asked, cell_executor
from hpcseg.cluster.logs import find_logs, last_attempt
from hpcseg.cluster.probe import HELD, TOKEN, Probe
from hpcseg.cluster.profile import Resources
from hpcseg.errors import IncompleteError, SchedulerError
from hpcseg.files import make_folder
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze
from hpcseg.runs.provenance import package_sha256
from hpcseg.runs.record import read_json
from hpcseg.runs.state import State
from hpcseg.text import counted

WITHOUT_SCONTROL = (
    "Where your site keeps scontrol from its users, the report job submits a cell again that has met its limit: give "
    "cells a --time that lasts, or tries = 20 in a profile."
)
_PROBE_MINUTES = 5
# The last files of a job may need a moment to be seen here.
_SECONDS_TO_BE_SEEN = 5.0


@dataclass(frozen=True)
class Check:
    """What one check has found."""

    name: str
    verdict: Literal["ok", "warning", "failed", "not checked"]
    text: str
    """What was found, and what it means."""
    remedy: str = ""
    """What mends it: a flag, a line of a profile, or whom to ask."""


def check_node(resources: Resources, folder: Path, data: Path | None, wait: float) -> Iterator[Check]:
    """Submit one short job with a cell's resources, and compare what its ranks find with what they should.

    Args:
        resources: of one cell.
        folder: in which runs are kept.
        data: the packed data set, if there is one.
        wait: seconds for the job to begin and to end.
    """
    room = folder / f"doctor-{uuid.uuid4().hex[:8]}"
    held = FileLock(room / HELD, timeout=0)
    try:
        make_folder(room)
        token = uuid.uuid4().hex
        (room / TOKEN).write_text(token)
        code = freeze(RunFolder(room))
        with contextlib.suppress(OSError):  # a file system without locks, which the node tells of
            held.acquire()
        yield from _probe(resources, room, code, data, token, wait)
    except OSError as error:
        yield Check("Compute node", "not checked", f"{room} cannot be written to: {error.strerror}.")
    finally:
        held.release()
        shutil.rmtree(room, ignore_errors=True)


def _probe(resources: Resources, room: Path, code: Path, data: Path | None, token: str, wait: float) -> Iterator[Check]:
    short = dataclasses.replace(resources, minutes=min(_PROBE_MINUTES, resources.minutes))
    executor = cell_executor(room / "logs", code, short, name="hpcseg-doctor", comment="hpcseg-doctor")
    try:
        # As a cell names it: from the run.
        found_from_there = os.path.relpath(data.resolve(), room.resolve()) if data else None
        with as_asked(executor):
            job = executor.submit(Probe(resources.on_nodes(str(room.resolve())), found_from_there))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        yield Check("Compute node", "failed", f"sbatch refuses a job: {error}", "See what it says.")
        return
    job_id = str(job.job_id)
    world_size = resources.nodes * resources.ranks_per_node
    state = _wait(job_id, room, world_size, wait)
    yield _rewritten(scheduler.show(job_id), short, executor.parameters["comment"])
    found = _found(room)
    if len(found) < world_size:
        yield _lost(job_id, state, room, found, world_size)
    try:
        scheduler.cancel([job_id])
    except SchedulerError as error:
        yield Check("Compute node", "warning", f"The short job {job_id} may still be there: {error}")
    if found:
        yield from _judge(found, resources, token, data)


def _wait(job_id: str, room: Path, world_size: int, seconds: float) -> scheduler.JobState | None:
    """Until all ranks have written, the job has ended, or the time is over; Slurm's last word of the job."""
    deadline, state, seen_at = time.monotonic() + seconds, None, time.monotonic()
    while time.monotonic() < deadline and len(_found(room)) < world_size:
        states = scheduler.ask([job_id])
        state = scheduler.SILENCE if states is None else states.get(job_id)
        if state is not None and not state.ended:
            seen_at = time.monotonic()
        elif time.monotonic() - seen_at > _SECONDS_TO_BE_SEEN:
            break
        time.sleep(0.5)
    return state


def _rewritten(job: Mapping[str, str] | None, asked: Resources, comment: str) -> Check:
    """What Slurm has made of the job's wishes: a submit filter of the site may have changed them without a word."""
    if job is None:
        return Check(
            "Submit filter", "not checked", "scontrol does not show what Slurm has made of the short job's wishes."
        )
    changed = []
    for name, key in (("partition", "Partition"), ("account", "Account"), ("qos", "QOS")):
        wish = getattr(asked, name)
        # Of several partitions one is taken. Slurm knows accounts in small letters.
        if wish and job.get(key, "").lower() not in {wish.lower(), *wish.lower().split(",")}:
            changed.append(f"{name} {wish} has become {job.get(key)}")
    if job.get("TimeLimit") != f"00:{asked.minutes:02d}:00":
        changed.append(f"a time limit of {asked.minutes} minutes has become {job.get('TimeLimit')}")
    if job.get("Requeue") != "1":
        changed.append("requeue is off, so that a cell which met its limit comes back by the report job alone (tries)")
    if job.get("Comment") != comment:
        changed.append("the comment is another, by which hpcseg finds a job whose number sbatch did not tell")
    if not changed:
        return Check("Submit filter", "ok", "Slurm has the short job's wishes as they were asked for.")
    remedy = (
        "Ask for what it makes of them, by an option or in a profile, so that hpcseg reckons with it; ask your "
        "administrators to leave requeue and comment as they are."
    )
    return Check(
        "Submit filter", "warning", f"A submit filter of this site changes them: {'; '.join(changed)}.", remedy
    )


def _lost(
    job_id: str, state: scheduler.JobState | None, room: Path, found: Sequence[dict[str, Any]], world_size: int
) -> Check:
    """Why not all ranks have written."""
    if state is not None and (state.state is State.QUEUED or state.hidden):
        waits = "may wait" if state.hidden else "waits"
        told = f"The short job {job_id} {waits} ({state.reason}), so nothing was found out on a node."
        return Check("Compute node", "not checked", told, "Wait longer (--wait SECONDS), or take a quieter partition.")
    attempts = [last_attempt(path) for path in find_logs(room / "logs").get(job_id, {}).values()]
    logs = "\n".join(line for attempt in attempts for line in attempt.lines(""))
    errors = [line.strip() for line in logs.splitlines() if re.search("error|not found|denied|No such", line, re.I)]
    if errors:
        told = f"{world_size - len(found)} of {world_size} ranks did not get to their end: {errors[-1]}"
        remedy = "Does the node see this Python and this folder? Load what it needs with --setup."
        return Check("Compute node", "failed", told, remedy)
    told = f"The short job {job_id} left nothing in {room.parent}, not even a log."
    remedy = (
        "The node does not see that folder. Use one on a shared file system: --run. Where nodes see it under another "
        'name, a profile says so: [paths] and "/home/ann" = "/cluster/home/ann".'
    )
    return Check("Compute node", "failed", told, remedy)


def _found(room: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(room.glob("rank-*.json")):
        try:
            found.append(read_json(path))
        except IncompleteError:
            continue
    return found


def _judge(found: Sequence[dict[str, Any]], resources: Resources, token: str, data: Path | None) -> Iterator[Check]:
    nodes = ", ".join(sorted({rank["node"] for rank in found}))
    first = found[0]
    if any(rank["token"] != token for rank in found):
        told = f"{nodes} sees another folder of that name, or an old copy of it."
        yield Check("Shared folder", "failed", told, "Use one on a file system that all nodes share: --run.")
    else:
        yield Check("Shared folder", "ok", f"{nodes}: what is written and renamed there is seen here, and the reverse.")
    torn = [rank["renames"] for rank in found if rank["renames"]]
    if torn:
        told = f"Who reads a file there while it is replaced meets {torn[0]}, so records could be read half."
        yield Check("Renames", "failed", told, "Renames must be atomic: use another file system for --run.")
    else:
        yield Check("Renames", "ok", "Who reads a file while it is replaced sees the old one or the new one.")
    if all(rank["hdf5_locks"] for rank in found):
        yield Check("HDF5 locks", "ok", "HDF5 can lock files there.")
    else:
        told = "HDF5 cannot lock files there. hpcseg does without; other programs fail to open what is packed."
        yield Check("HDF5 locks", "warning", told, "For those, export HDF5_USE_FILE_LOCKING=FALSE.")
    seen = [rank["lock_seen"] for rank in found]
    if all(seen):
        yield Check("Locks", "ok", "A lock that is held here is seen there.")
    else:
        told = "A lock that is held here is not seen there, so the ledger alone keeps two launches of a cell apart."
        remedy = "Submit a run from one machine at a time, and let nobody use `hpcseg train` on it meanwhile."
        yield Check("Locks", "warning", told, remedy)
    if any(rank["package_sha256"] != package_sha256() for rank in found):
        told = f"{nodes} runs another hpcseg ({first['hpcseg']}, {first['executable']}) than this one."
        yield Check("Software", "failed", told, "Use one installation for both; look at your --setup lines.")
    else:
        yield Check("Software", "ok", f"Python {first['python']}, torch {first['torch']}, the same hpcseg as here.")
    yield _cores(found, resources)
    yield _gpus(found, resources)
    wrong = [rank["meeting"] for rank in found if rank["meeting"]]
    sizes = {rank["world_size"] for rank in found}
    expected = resources.nodes * resources.ranks_per_node
    if sizes != {expected}:
        told = f"The ranks count {', '.join(map(str, sizes))} of them, not {expected}."
        yield Check("Ranks", "failed", told, "srun starts other tasks than were asked for. Ask your administrators.")
    elif wrong:
        remedy = "Ranks meet over TCP: export GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME with --setup, as your site says."
        yield Check("Ranks", "failed", f"They do not find each other: {wrong[0]}", remedy)
    else:
        yield Check("Ranks", "ok", "One rank." if expected == 1 else f"{expected} ranks meet and add up right.")
    if data is not None:
        damaged = [rank["data"] for rank in found if rank["data"]]
        if damaged:
            remedy = "Put it on a shared file system, and where a profile has [paths], with the run below one of them."
            yield Check("Data set", "failed", f"From a node: {damaged[0]}", remedy)
        else:
            yield Check("Data set", "ok", f"{data} can be read from a node.")
    if not all(rank["scontrol"] for rank in found):
        told = f"{nodes} has no scontrol on its PATH, so a cell cannot put itself back into the queue."
        remedy = f"Add Slurm's bin folder to PATH with --setup. {WITHOUT_SCONTROL}"
        yield Check("Requeue from a node", "failed", told, remedy)
    elif not all(rank["scontrol_answers"] for rank in found):
        told = f"scontrol does not answer on {nodes}, so a cell cannot put itself back into the queue."
        yield Check("Requeue from a node", "warning", told, WITHOUT_SCONTROL)
    else:
        yield Check("Requeue from a node", "ok", "scontrol answers.")
    if all(rank["sacct"] for rank in found):
        yield Check("Accounting from a node", "ok", "sacct is there.")
    else:
        told = f"{nodes} has no sacct on its PATH, so the report job does not know how a cell without a word has died."
        yield Check("Accounting from a node", "warning", told, "Nothing has to be done, or add it with --setup.")


def _cores(found: Sequence[dict[str, Any]], resources: Resources) -> Check:
    cores = min(rank["cores"] for rank in found)
    if cores < resources.cpus_per_task:
        told = f"A rank gets {cores} of the {resources.cpus_per_task} cores that it asks for."
        remedy = "Ask for what there is (--cpus-per-task), or look for a --setup line that binds to cores."
        return Check("Cores", "failed", told, remedy)
    return Check("Cores", "ok", f"A rank gets the {counted(resources.cpus_per_task, 'core')} that it asks for.")


def _gpus(found: Sequence[dict[str, Any]], resources: Resources) -> Check:
    if not resources.gpus_per_node:
        return Check("GPUs", "ok", "None are asked for.")
    seen = min(rank["gpus"] for rank in found)
    if found[0]["cuda"] is None:
        told = f"torch {found[0]['torch']} is built for CPUs, so the GPUs would be idle."
        remedy = "Install a CUDA build of torch (see the README), or ask for no GPUs: --gpus-per-node 0."
        return Check("GPUs", "failed", told, remedy)
    if seen == 0 or (seen > 1 and seen < resources.ranks_per_node):
        told = f"torch sees {seen} GPUs on a node, for {resources.ranks_per_node} ranks."
        remedy = "Spell the GPUs as your site does (gpu_syntax in a profile); is the driver new enough for this torch?"
        return Check("GPUs", "failed", told, remedy)
    return Check("GPUs", "ok", f"torch sees {seen} for {resources.ranks_per_node} ranks on a node.")
