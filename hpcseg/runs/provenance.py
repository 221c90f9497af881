"""Where a number comes from: code, versions, host, device, command. Never a path of the machine."""

from __future__ import annotations

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
from hpcseg.jobfile import shipped_folder
from hpcseg.numerics import NUMERICS
from hpcseg.runs.record import read_json

_PACKAGE = Path(__file__).parents[1]
ORIGIN = "origin.json"
"""Beside a frozen copy of the package: the commit that it was made from, and what was changed since."""
# Beside the package in a checkout, inside it in a wheel and in a frozen copy.
_SHIPPED = ("jobs", "profiles", "templates")
# What of a checkout can change a number. A results folder that somebody left out of it, or a note beside it, cannot.
_DECIDING = (_PACKAGE.name, "jobs", "pyproject.toml")
# What runs a notebook, with a path of the machine behind it, or what is typed into Python, without a name.
_KERNELS = ("ipykernel_launcher.py", "colab_kernel_launcher.py", "")


def package_files() -> dict[str, bytes]:
    """All that runs: the files of the package and the shipped jobs, profiles and templates, by their names below it.

    The same for a checkout, a wheel and a frozen copy of either.
    """
    roots = {"": _PACKAGE} | {f"{name}/": shipped_folder(name) for name in _SHIPPED}
    files = {}
    for prefix, root in roots.items():
        for path in root.rglob("*"):
            name = path.relative_to(root)
            # An editor's and the interpreter's own files come and go, and a page that is read does not run.
            if (
                path.suffix != ".md"
                and path.is_file()
                and not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
            ):
                files[prefix + name.as_posix()] = path.read_bytes()
    return dict(sorted(files.items()))


def files_sha256(files: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over names and contents."""
    whole = hashlib.sha256()
    for name, content in files.items():
        whole.update(f"{len(name)} {name} {len(content)} ".encode() + content)
    return whole.hexdigest()


@functools.cache
def package_sha256() -> str:
    """SHA-256 (hex) of `package_files`, as they were when it was asked for first: says which code ran."""
    return files_sha256(package_files())


def collect(*, device: Mapping[str, Any], command: str, data_sha256: str) -> dict[str, Any]:
    """All that a record says about where and with what it was made.

    Args:
        device: `machine.device_facts`.
        command: what the user typed; a job's own command line is the scheduler's affair.
        data_sha256: of the packed data set.
    """
    return {
        "hpcseg_version": __version__,
        "numerics": NUMERICS,
        "package_sha256": package_sha256(),
        "data_sha256": data_sha256,
        "commit": commit(),
        "diff_sha256": diff_sha256(),
        "command": command,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy")},
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        **device,
        **slurm_job(),
        "time": now(),
    }


@functools.cache
def _version(package: str) -> str:
    return metadata.version(package)


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
    """The command as it was typed, with the program's name in place of its path; of a notebook what it calls.

    Without what --setup says: those lines may hold a password or a key, and records are published.
    """
    program = Path(sys.argv[0]).name
    if program in _KERNELS:
        return "hpcseg.api"
    words = ["hpcseg" if program == "__main__.py" else program, *sys.argv[1:]]
    shown = ["..." if before == "--setup" else word for before, word in zip(["", *words], words, strict=False)]
    return shlex.join("--setup=..." if word.startswith("--setup=") else word for word in shown)


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that hpcseg runs from, or that a frozen copy was made from; None for a wheel.

    With "-dirty" where the package, a job or pyproject.toml was changed, or a file was added to the package.
    """
    return origin()[0]


def diff() -> str:
    """What of these was changed in that checkout since its commit, as `git diff` shows it; empty for a wheel."""
    return origin()[1]


@functools.cache
def origin() -> tuple[str | None, str]:
    """Commit and changes of the code that runs; a frozen copy was told so, and keeps it beside the package."""
    told = _PACKAGE.parent / ORIGIN
    if told.exists():
        stored = read_json(told)
        return stored["commit"], stored["diff"]
    head, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD", "--", *_DECIDING) or ""
    new = _git("ls-files", "--others", "--exclude-standard", "--", str(_PACKAGE))
    return head and head.strip() + ("-dirty" if changes or new else ""), changes


def _git(*arguments: str) -> str | None:
    if not (_PACKAGE.parent / ".git").exists():
        return None
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    try:
        # A file in another encoding is a change like any other.
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="backslashreplace", check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def diff_sha256() -> str | None:
    """SHA-256 (hex) of `diff`; None where there is none."""
    return hashlib.sha256(diff().encode()).hexdigest() if diff() else None
