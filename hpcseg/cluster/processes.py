"""Which processes of this machine live, and which are a cell's own.

Numbers of processes are used again, and a record may hold any.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from hpcseg.cluster import worker
from hpcseg.runs.folder import CellFolder, RunFolder


def runs_cell(pid: int | None, cell: CellFolder) -> bool:
    """Whether a process is this user's, and has this cell's lock open, as rank 0 of a cell has while it runs."""
    if not _is_own(pid):
        return False
    try:
        lock = cell.lock_file.lstat()
        opened = [Path(f"/proc/{pid}/fd") / name for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(_is_file(path, lock) for path in opened)


def controls_cell(job_id: str, cell: CellFolder) -> bool:
    """Whether a process is this user's, and the controller of a local job of this cell; a job's id is its number."""
    if not (job_id.isascii() and job_id.isdigit() and _is_own(int(job_id))):
        return False
    try:
        environment = Path(f"/proc/{job_id}/environ").read_bytes().decode(errors="replace").split("\0")
        told = dict(entry.partition("=")[::2] for entry in environment)
        ours = shlex.split(told.get("SUBMITIT_LOCAL_COMMAND", ""))
        arguments = Path(f"/proc/{job_id}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    return b"submitit.local._local" in arguments and worker.is_of(ours, RunFolder(cell.path.parents[1]), cell.id)


def queue_of(job_id: str) -> int | None:
    """The `hpcseg` that has started a local job, from `controls_cell`: its parent, unless that has ended."""
    try:
        # "pid (name) state ppid ...", and a name may hold anything.
        parent = int(Path(f"/proc/{job_id}/stat").read_text().rpartition(")")[2].split()[1])
        arguments = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return parent if _is_own(parent) and any(os.path.basename(one) == b"hpcseg" for one in arguments) else None


def lives(pid: int) -> bool:
    """Whether a process is there, and not only waits for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _is_own(pid: int | None) -> bool:
    """Whether it is the number of one process, and of this user's: 0, 1 and negative ones mean others, or many."""
    if pid is None or pid <= 1:
        return False
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _is_file(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:
        return False
