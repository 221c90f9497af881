"""The code of this process in, a copy of it in the run folder out, which jobs run whatever becomes of the checkout.

RUN/code/HASH/hpcseg/        every file of the package, and the shipped jobs, profiles and templates
              origin.json    the commit that it comes from, and what was changed since
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from hpcseg.errors import HpcsegError, IncompleteError
from hpcseg.files import write_bytes
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import claim, require_own_code
from hpcseg.runs.provenance import ORIGIN, commit, diff, files_sha256, package_files
from hpcseg.runs.record import read_json


def freeze(run: RunFolder, *, write: bool = True) -> Path:
    """Copy the code of this process into a run folder, where it is not there yet.

    Each file is written aside and renamed, and one that is damaged or gone (some file systems remove old files) is
    written again. So two may freeze at once, and a copy that was cut off is completed before a job is handed out. Where
    it comes from stays as it was written first: jobs that wait may be of then, and the code is the same.

    Args:
        run: in whose folder.
        write: False: only say where it would be.

    Returns:
        The absolute path of the copy: the folder that has to be on the path of Python.

    Raises:
        ConfigError: the run is not the user's own.
        HpcsegError: the file system refuses, or the path cannot be on the path of Python.
    """
    package = package_files()
    folder = run.code(files_sha256(package)).resolve()
    if os.pathsep in str(folder):
        raise HpcsegError(
            f'{run.path.resolve()} has a "{os.pathsep}", at which Python cuts a path in two, so jobs would not find '
            "the code there. Take another folder: --run."
        )
    if not write:
        return folder
    claim(run)
    require_own_code(run, folder)
    for name, content in package.items():
        path = folder / "hpcseg" / name
        if not (path.is_file() and path.read_bytes() == content):
            write_bytes(path, content, durable=False)
    try:
        read_json(folder / ORIGIN)
    except IncompleteError:
        write_bytes(folder / ORIGIN, json.dumps({"commit": commit(), "diff": diff()}).encode(), durable=False)
    return folder


@contextlib.contextmanager
def in_frozen(code: Path) -> Iterator[None]:
    """Processes that are started meanwhile run a frozen copy: it comes before what the user has put on the path.

    Without the safe path, `python -m` looks into the current folder before all, which may be a checkout. And that
    folder may be gone, in which MKL does not start, so theirs is that of the run. Compiled code is not kept: Python
    writes it by the umask, where the group may then change it, and cut off where the disk is full, for good.

    Raises:
        HpcsegError: the copy is gone; what is installed would run in its place.
    """
    if not (code / "hpcseg").is_dir():
        raise HpcsegError(f"{code}, the code that this was started with, is gone. Start it again.")
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    theirs = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    before = {name: os.environ.get(name) for name in theirs}
    here = os.open(".", os.O_PATH)  # a folder that may be entered need not be readable
    os.environ.update(theirs)
    try:
        os.chdir(code.parents[1])
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def shell_lines(code: Path) -> list[str]:
    """The same for a job's script, whose environment and folder are only known when it starts."""
    gone = f"error: {code}, the code that was submitted, is gone. Run `hpcseg retry`."
    return [
        f"[ -d {shlex.quote(str(code / 'hpcseg'))} ] || {{ echo {shlex.quote(gone)}; exit 1; }}",
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1",
        f"cd {shlex.quote(str(code.parents[1]))}",
    ]
