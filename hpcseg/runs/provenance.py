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
    "data/noise.py",
    "data/batches.py",
    "learn/precision.py",
    "learn/unet.py",
    "learn/syncnorm.py",
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


def _bare(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            # Field docs are bare strings too, so every bare string goes.
            node.body = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)


def collect(*, device: str, command: str) -> dict[str, Any]:
    """All that a record says about where and with what it was made.

    Args:
        device: name of the processor or GPU.
        command: what the user typed; a job's own command line is the scheduler's affair.
    """
    return {
        "hpcseg_version": __version__,
        "code_sha256": code_sha256(),
        "commit": commit(),
        "command": command,
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)),
        "device": device,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart_count": os.environ.get("SLURM_RESTART_COUNT"),
        "time": now(),
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
    """The commit of the checkout that hpcseg runs from, with "-dirty" where it was changed; None for a wheel."""
    if not (_PACKAGE.parent / ".git").exists():
        return None
    git = ["git", "-C", str(_PACKAGE.parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")
