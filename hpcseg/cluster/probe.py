"""What a compute node finds when a job of ours starts there. Runs in every rank of one short job of `hpcseg doctor`."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.cluster import scheduler

if TYPE_CHECKING:
    from hpcseg.launch.environment import RankEnvironment

TOKEN = "token"  # noqa: S105 - the name of a file
HELD = "held.lock"
_SECONDS_OF_RENAMES = 0.5


@dataclass(frozen=True)
class Probe:
    """Looks around on a node and writes what it finds; pickled at submission, so it imports late."""

    folder: str
    """Absolute path, in the run folder; holds the file TOKEN, and HELD, which the login node has locked."""
    data: str | None
    """Path of the packed data set from there; None: there is none yet."""

    def __call__(self) -> None:
        """Write FOLDER/rank-N.json."""
        from hpcseg.launch.environment import read_environment
        from hpcseg.runs.record import write_json

        folder, environment = Path(self.folder), read_environment()
        found = {
            **_facts(folder, self.data),
            "world_size": environment.world_size,
            "meeting": _meeting(folder, environment),
        }
        write_json(folder / f"rank-{environment.rank}.json", found)


def _facts(folder: Path, data: str | None) -> dict[str, Any]:
    import platform

    import torch

    from hpcseg import __version__
    from hpcseg.launch.environment import host
    from hpcseg.runs.provenance import package_sha256

    try:
        token: str | None = (folder / TOKEN).read_text()
    except OSError:
        token = None
    return {
        "node": host(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "hpcseg": __version__,
        "package_sha256": package_sha256(),
        "token": token,
        "lock_seen": _lock_seen(folder / HELD),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "scontrol": shutil.which("scontrol") is not None,
        "scontrol_answers": scheduler.said_by(["scontrol", "ping"], 60)[1],
        "sacct": shutil.which("sacct") is not None,
        "renames": _renames(folder),
        "hdf5_locks": _hdf5_locks(folder),
        "data": None if data is None else _data(folder / data),
    }


def _lock_seen(path: Path) -> bool | None:
    """Whether the lock that the login node holds is seen from here; None where the file system has none."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0, fallback_to_soft=False):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def _renames(folder: Path) -> str | None:
    """What a reader meets while a file is replaced again and again; None: always the old content or the new."""
    path, aside = folder / f"renamed-{os.getpid()}", folder / f"aside-{os.getpid()}"
    contents = [letter * 2**16 for letter in (b"a", b"b")]
    path.write_bytes(contents[0])
    ended = threading.Event()

    def replace() -> None:
        for content in itertools.cycle(contents):
            if ended.is_set():
                return
            aside.write_bytes(content)
            aside.replace(path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        deadline = time.monotonic() + _SECONDS_OF_RENAMES
        while time.monotonic() < deadline:
            try:
                if path.read_bytes() not in contents:
                    return "a part of a file"
            except OSError as error:
                return str(error.strerror)
        return None
    finally:
        ended.set()
        writer.join()


def _hdf5_locks(folder: Path) -> bool:
    """Whether HDF5 can lock a file here, as other programs than ours want to."""
    command = [sys.executable, "-c", f"import h5py; h5py.File({str(folder / f'{os.getpid()}.h5')!r}, 'w').close()"]
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0


def _data(path: Path) -> str | None:
    """What is wrong with the packed data set as it is seen from here; None: nothing."""
    from hpcseg.data import store
    from hpcseg.errors import HpcsegError

    try:
        store.read_info(path)
    except HpcsegError as error:
        return str(error)
    return None


def _meeting(folder: Path, environment: RankEnvironment) -> str | None:
    """Why the ranks do not find each other, or do not add up what they know; None: they do."""
    from hpcseg.learn.ranks import join

    try:
        import torch

        with join(environment, folder) as ranks:
            total = ranks.sum_(torch.tensor([float(ranks.rank + 1)], device=ranks.device))
            expected = environment.world_size * (environment.world_size + 1) / 2
            return None if float(total) == expected else f"a sum over the ranks is {float(total)}, not {expected}"
    except Exception as error:  # whatever it is, it is what the user has to know
        return " ".join(str(error).split())
