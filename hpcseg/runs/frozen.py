"""The code of this process in, a copy of it in the run folder out, which jobs run whatever becomes of the checkout.

RUN/code/HASH/hpcseg/        every file of the package, and the shipped jobs and profiles
              origin.json    the commit that it comes from, and what was changed since
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from hpcseg.files import write_bytes
from hpcseg.runs.provenance import ORIGIN, commit, diff, files_sha256, package_files
from hpcseg.runs.record import RunFolder


def freeze(run: RunFolder, *, write: bool = True) -> Path:
    """Copy the code of this process into a run folder, where it is not there yet.

    Each file is written aside and renamed, and one that is damaged or gone (some file systems remove old files) is
    written again. So two may freeze at once, and a copy that was cut off is completed before a job is handed out.

    Args:
        run: in whose folder.
        write: False: only say where it would be.

    Returns:
        The absolute path of the copy: the folder that has to be on the path of Python.

    Raises:
        HpcsegError: the file system refuses.
    """
    package = package_files()
    folder = run.code(files_sha256(package)).resolve()
    origin = json.dumps({"commit": commit(), "diff": diff()}).encode()
    for name, content in {**{f"hpcseg/{name}": content for name, content in package.items()}, ORIGIN: origin}.items():
        path = folder / name
        if write and not (path.is_file() and path.read_bytes() == content):
            write_bytes(path, content, durable=False)
    return folder


@contextlib.contextmanager
def in_frozen(code: Path) -> Iterator[None]:
    """Processes that are started meanwhile run a frozen copy: it comes before what the user has put on the path.

    Without the safe path, `python -m` looks into the current folder before all, which may be a checkout. And that
    folder may be gone, in which MKL does not start, so theirs is that of the run.
    """
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    here = os.open(".", os.O_RDONLY)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), before["PYTHONPATH"])))
    os.environ["PYTHONSAFEPATH"] = "1"
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
    return [
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1",
        f"cd {shlex.quote(str(code.parents[1]))}",
    ]
