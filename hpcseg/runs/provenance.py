"""Where a number comes from: code, versions, host, device, command. Never a path of the machine."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hpcseg import __version__

_PACKAGE = Path(__file__).parents[1]
# These decide a cell's numbers, given its settings and its data; the rest of hpcseg only moves them about.
_DECIDES = (
    "data/tiles.py",
    "data/splits.py",
    "data/layout.py",
    "data/noise.py",
    "data/streams.py",
    "data/batches.py",
    "learn/precision.py",
    "learn/unet.py",
    "learn/norm.py",
    "learn/step.py",
    "learn/loop.py",
    "learn/evaluate.py",
)


@functools.cache
def code_sha256() -> str:
    """SHA-256 over the modules that decide a cell's numbers, without comments, docstrings and layout.

    Two checkouts that differ in a comment share it, so a finished cell stays finished when its code is only
    described better.
    """
    whole = hashlib.sha256()
    for name in _DECIDES:
        whole.update(f"{name}\n{_bare(_PACKAGE / name)}\n".encode())
    return whole.hexdigest()


@functools.cache
def running_code_sha256() -> str:
    """SHA-256 over every module that a cell's process runs: also what only moves its numbers about, and its config.

    A change there is no other experiment, so it is no part of a cell's id; but a queued job must not meet it unasked.
    """
    whole = hashlib.sha256()
    modules = [_PACKAGE / f"{name}.py" for name in ("config", "files", "memory")]
    for folder in ("data", "learn", "runs"):
        modules += sorted((_PACKAGE / folder).glob("*.py"))
    for path in modules:
        whole.update(f"{path.relative_to(_PACKAGE).as_posix()}\n{_bare(path)}\n".encode())
    return whole.hexdigest()


def _bare(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            # Field docs are bare strings too, so every bare string goes.
            node.body = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)


def collect(*, device: Mapping[str, Any], command: str, data_sha256: str) -> dict[str, Any]:
    """All that a record says about where and with what it was made.

    Args:
        device: `machine.device_facts`.
        command: what the user typed; a job's own command line is the scheduler's affair.
        data_sha256: of the packed data set.
    """
    return {
        "hpcseg_version": __version__,
        "code_sha256": code_sha256(),
        "data_sha256": data_sha256,
        "commit": commit(),
        "diff_sha256": diff_sha256(),
        "command": command,
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        **device,
        **slurm_job(),
        "time": now(),
    }


def node_name() -> str:
    """This machine as the scheduler calls it, which may be another name than its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def slurm_job() -> dict[str, Any]:
    """The Slurm job of this process, as squeue names it, and how often it was requeued; None where there is none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "slurm_job_id": f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID"),
        "slurm_restart_count": os.environ.get("SLURM_RESTART_COUNT"),
    }


def now() -> str:
    """The time as UTC in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command as it was typed, with the program's name in place of its path."""
    program = Path(sys.argv[0]).name
    return shlex.join(["hpcseg" if program == "__main__.py" else program, *sys.argv[1:]])


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that hpcseg runs from; None for a wheel.

    With "-dirty" where a file of it was changed, or one was added to the package.
    """
    head = _git("rev-parse", "HEAD")
    new = _git("ls-files", "--others", "--exclude-standard", "--", str(_PACKAGE))
    return head and head.strip() + ("-dirty" if diff() or new else "")


@functools.cache
def diff() -> str:
    """What was changed in the checkout since its commit, as `git diff` shows it; empty for a wheel."""
    return _git("diff", "HEAD") or ""


def _git(*arguments: str) -> str | None:
    if not (_PACKAGE.parent / ".git").exists():
        return None
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return None


def diff_sha256() -> str | None:
    """SHA-256 (hex) of `diff`; None where there is none."""
    return hashlib.sha256(diff().encode()).hexdigest() if diff() else None
