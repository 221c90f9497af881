"""Checks of a cluster before anything is submitted: on the login node, and on a compute node through one short job."""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import submitit

from hpcseg.cluster.doctor_node import WITHOUT_SCONTROL, Check, check_node
from hpcseg.cluster.executor import as_asked, cell_executor, report_executor
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.scheduler import (
    accounting_command,
    configuration,
    controller_command,
    hides_jobs,
    no_controller,
    own_jobs_command,
    queue_command,
    said_by,
)
from hpcseg.cluster.sender import policy_remedy
from hpcseg.files import make_folder
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze
from hpcseg.text import counted

_SECONDS_FOR_SBATCH = 10
_LITTLE, _VERY_LITTLE = 2_000_000_000, 100_000_000
_FEW_FILES = 10_000
_OWN_RULE = (
    "See `man sbatch`. Where it is a rule of your site's (a submit filter), do what it says: what hpcseg has no option "
    "for goes through from the table [sbatch] of a profile."
)
# As long as nothing was submitted, any job's number serves to ask with.
_SOME_JOB = "1"
# What a command says that is there and would answer, had it been asked otherwise.
_REFUSAL = re.compile(r"(unrecognized|unknown|invalid|ambiguous) option|Invalid (field|job state)", re.IGNORECASE)
# Signs behind the word say more: * is a node that does not answer, $ one that is being maintained.
_USABLE = re.compile(r"(idle|mix|alloc|comp|plan)[^*$]*")


def check_cluster(resources: Resources, folder: Path, data: Path | None, *, wait: float | None) -> Iterator[Check]:
    """Check one thing after the other, what needs no job first.

    Args:
        resources: of one cell, as `hpcseg grid` would ask for them.
        folder: in which runs are kept; made where it is missing.
        data: the packed data set, if there is one.
        wait: seconds for the short job to begin and to end; None: none is submitted.
    """
    commands = _commands()
    yield commands
    room = _folder(folder)
    yield room
    if "failed" in (commands.verdict, room.verdict):
        return
    controller = _controller()
    yield controller
    if controller.verdict == "failed":
        return
    yield _partition(resources)
    accepted = _accepted(resources, folder)
    yield from accepted
    yield _queue()
    yield _accounting()
    yield from _configuration(resources.partition)
    if wait is None or "failed" in {check.verdict for check in accepted}:
        yield Check("Compute node", "not checked", "No job was submitted.")
    else:
        yield from check_node(resources, folder, data, wait)


def _commands() -> Check:
    missing = [name for name in ("sbatch", "srun", "scancel") if shutil.which(name) is None]
    if missing:
        what = f"{', '.join(missing)} not on PATH."
        return Check("Slurm", "failed", what, "Log in to a node that submits jobs, or load your site's slurm module.")
    return Check("Slurm", "ok", "sbatch, srun and scancel are here.")


def _folder(folder: Path) -> Check:
    probe = folder / f".hpcseg-doctor-{uuid.uuid4().hex[:8]}"
    try:
        make_folder(folder)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        remedy = "Name a folder of yours on a file system that all nodes see, with --run."
        return Check("Run folder", "failed", f"{folder} cannot be written to: {error.strerror}.", remedy)
    if (mode := folder.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        told = f"Others can write to {folder}, and so put a run of theirs in place of yours."
        return Check("Run folder", "warning", told, f"`chmod go-w {folder}`, or name a folder of your own with --run.")
    space, files = shutil.disk_usage(folder).free, os.statvfs(folder).f_favail
    told = f"{folder} can be written to; {space / 1e9:.1f} GB are free."
    remedy = "A cell needs about 12 bytes per parameter for its checkpoints: 1 GB at width 64. Make room, or use --run."
    if space < _LITTLE:
        return Check("Run folder", "failed" if space < _VERY_LITTLE else "warning", told, remedy)
    if 0 < files < _FEW_FILES:
        told = f"{told} Only {files} more files may be made there."
        return Check("Run folder", "warning", told, "A cell makes ten files. Ask for a larger quota, or use --run.")
    return Check("Run folder", "ok", told)


def _controller() -> Check:
    said, answered = said_by(["scontrol", "ping"])
    if answered and "UP" in said:
        return Check("Controller", "ok", "slurmctld answers.")
    if (silence := no_controller(_SECONDS_FOR_SBATCH)) is not None:
        told = f"slurmctld does not answer: {silence}"
        return Check("Controller", "failed", told, "Try later, or ask your administrators.")
    # What is below looks whether sbatch takes jobs.
    told = f"scontrol does not answer ({said}), so a cell may not get back into the queue at its time limit."
    return Check("Controller", "warning", told, WITHOUT_SCONTROL)


def _partition(resources: Resources) -> Check:
    said, answered = said_by(["sinfo", "--noheader", "--Node", "--format=%P|%a|%N|%T"])
    if not answered:
        return Check("Partition", "not checked", f"sinfo does not answer: {said}")
    lines = [line.split("|") for line in said.splitlines() if line.count("|") == 3]
    names = sorted({line[0].rstrip("*") for line in lines})
    wanted = resources.partition
    if wanted is None:
        default = [line[0].rstrip("*") for line in lines if line[0].endswith("*")]
        if not default:
            told = f"This site has no default partition. There are {', '.join(names)}."
            return Check("Partition", "failed", told, "Name one: --partition, or partition in a profile.")
        wanted = default[0]
    found = [line for line in lines if line[0].rstrip("*") in wanted.split(",")]
    if not found:
        told = f'There is no partition "{wanted}". There are {", ".join(names)}.'
        return Check("Partition", "failed", told, "Name one of them: --partition, or partition in a profile.")
    own = any(flag.startswith("reservation=") for flag in resources.sbatch)
    # A node may be in several partitions.
    usable = {
        node
        for _, up, node, state in found
        if up == "up" and (_USABLE.fullmatch(state) or (own and state.startswith("reserved")))
    }
    if not usable:
        told = f"{wanted} has no node that can run jobs now."
        return Check("Partition", "failed", told, "Take another (--partition); `sinfo -R` has the reason.")
    return Check("Partition", "ok", f"{wanted} is up, with {counted(len(usable), 'node')} in use or free.")


def _accepted(resources: Resources, folder: Path) -> list[Check]:
    """Whether sbatch would take the very scripts of a run."""
    code, named = freeze(RunFolder(folder), write=False), {"name": "hpcseg-doctor", "comment": "hpcseg-doctor"}
    cell = cell_executor(folder, code, resources, **named)
    report = report_executor(folder, code, resources, dependency=None, **named)
    return [_taken("A cell's job", cell, folder), _taken("The report's job", report, folder)]


def _taken(name: str, executor: submitit.SlurmExecutor, folder: Path) -> Check:
    script = folder / f".hpcseg-doctor-{uuid.uuid4().hex[:8]}.sh"
    try:
        script.write_text(executor._make_submission_file_text("true", ""))
        with as_asked(executor):
            said, answered = said_by(["sbatch", "--test-only", str(script)])
    finally:
        script.unlink(missing_ok=True)
    if answered:
        return Check(name, "ok", "sbatch would take it: partition, account, QoS, GPUs, memory and time.")
    words = " ".join(line for line in said.splitlines() if "error" in line) or said
    remedies = {
        r"account": "Name an account that may be charged: --account, or account in a profile (`sacctmgr show assoc`).",
        r"[Qq]o[Ss]|QOS": "Name a QoS that you may use: --qos, or qos in a profile.",
        r"wckey": "Your site wants a wckey: export SBATCH_WCKEY=NAME.",
        r"time limit": "Ask for less: --time MINUTES; cells that need longer are requeued and go on.",
        r"partition": "Name another: --partition, or partition in a profile.",
        r"node configuration|[Gg]res|GRES|memory|CPU|feature": (
            "No node has what a cell asks for. Ask for less (--gpus-per-node, --mem, --cpus-per-task, --nodes, "
            "--constraint), or spell it as your site does (gpu_syntax in a profile)."
        ),
    }
    known = next((text for pattern, text in remedies.items() if re.search(pattern, words)), _OWN_RULE)
    # First, for its sentence has the words of some of the others.
    remedy = policy_remedy(words) or known
    if name == "The report's job":
        remedy = "Say in the table [report] of a profile what it is to ask for, such as a partition without GPUs."
    return Check(name, "failed", f"sbatch refuses it: {words}", remedy)


def _queue() -> Check:
    # In the very words in which it is asked later.
    answers = [said_by(command) for command in (queue_command(), own_jobs_command())]
    if all(answered for _, answered in answers):
        return Check("Queue", "ok", "squeue answers.")
    silence = _silence("squeue", next(said for said, answered in answers if not answered))
    if any(said_by(command)[1] for command in (accounting_command([_SOME_JOB]), controller_command())):
        return Check("Queue", "warning", f"{silence[0]} sacct and scontrol are asked in its place.", silence[1])
    told = f"{silence[0]} Neither do sacct and scontrol, so where jobs stand nobody tells."
    remedy = (
        "Ask your administrators to let users run squeue. Without it `hpcseg status` goes by files and heartbeats, and "
        "what was submitted once is submitted again with `hpcseg grid --resubmit` only."
    )
    return Check("Queue", "warning", told, remedy)


def _accounting() -> Check:
    said, answered = said_by(accounting_command([_SOME_JOB]))
    if answered:
        return Check("Accounting", "ok", "sacct answers.")
    told, remedy = _silence("sacct", said)
    told = f"{told} Cells are followed by their files and squeue; how one died is less clear."
    return Check("Accounting", "warning", told, remedy)


def _silence(command: str, said: str) -> tuple[str, str]:
    """Of a command that does not answer how it is so, and what to do."""
    if not _REFUSAL.search(said):
        return f"{command} does not answer ({said}).", "Nothing has to be done."
    told = f"{command} refuses what hpcseg asks of it ({' '.join(said.split())})."
    return told, f"This Slurm wants to be asked otherwise: tell hpcseg's authors what `{command} --version` says."


def _configuration(partition: str | None) -> Iterator[Check]:
    if (site := configuration()) is None:
        remedy = "Where your site's largest array is not 1001 tasks, say so: max_array_size in a profile."
        yield Check("Site's settings", "not checked", "scontrol does not show them.", remedy)
        return
    size = site.get("MaxArraySize", "1001")
    yield Check("Arrays", "ok", f"At most {size} tasks each; a larger grid becomes several.")
    if site.get("JobRequeue") == "0":
        told = "This site does not requeue jobs unasked (JobRequeue=0); ours ask for it."
        yield Check("Requeue", "warning", told, "Where a cell does not come back after its time limit: hpcseg retry.")
    else:
        yield Check("Requeue", "ok", "Jobs may go back into the queue.")
    if hides_jobs():
        told = "This site does not show the jobs of others (PrivateData), so of a colleague's run files tell alone."
        remedy = "`hpcseg status` then says `unknown` where nothing was heard for long; the run's owner sees more."
        yield Check("Jobs of others", "warning", told, remedy)
    else:
        yield Check("Jobs of others", "ok", "They are shown, so the run of a colleague can be followed.")
    preempts = site.get("PreemptType", "(null)") not in ("(null)", "preempt/none")
    if preempts and "CANCEL" in _preempt_modes(site, partition):
        told = "A preempted job is ended here and not put back into the queue (PreemptMode=CANCEL)."
        remedy = (
            "The report job submits its cells again, and they go on: give them more jobs than three, with tries = 20 "
            "in a profile, and the report a partition that is not preempted, in its table [report]."
        )
        yield Check("Preemption", "warning", told, remedy)
    elif preempts and "preempt_send_user_signal" not in site.get("SlurmctldParameters", ""):
        told = "A preempted cell is not told so before SIGTERM, so it may lose up to 30 seconds of work."
        yield Check("Preemption", "warning", told, "Nothing has to be done; HPCSEG_CHECKPOINT_SECONDS=10 loses less.")
    else:
        yield Check(
            "Preemption", "ok", "A preempted cell is told in time." if preempts else "No job is preempted here."
        )


def _preempt_modes(site: dict[str, str], partition: str | None) -> set[str]:
    """Of the partitions that are asked for, or of the default, where sinfo tells them; else of the site."""
    said, answered = said_by(["sinfo", "--noheader", "--format=%P|%M"])
    lines = [line.split("|") for line in said.splitlines() if answered and line.count("|") == 1]
    wanted = partition.split(",") if partition else [name.rstrip("*") for name, _ in lines if name.endswith("*")]
    return {mode for name, mode in lines if name.rstrip("*") in wanted} or {site.get("PreemptMode", "")}
