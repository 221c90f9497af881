"""Whether a run folder is the user's own: that of somebody else is read, and never acted upon.

What a run says runs in the name of whoever acts upon it: resources.json holds lines of shell, logs/ pickles, code/ the
package, and the ledger whose jobs are ended. So all of it must belong to the user, be writable by nobody else, and
lead nowhere by a link. Only `lstat` is asked, which a shared file system answers to every node.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from hpcseg.errors import ConfigError
from hpcseg.files import make_folder
from hpcseg.runs.folder import RunFolder


def why_foreign(run: RunFolder) -> str:
    """Why a run is not the user's own, as a sentence that says what to do; empty where it is, or is not there yet."""
    return next(filter(None, _reasons(run)), "")


def require_own(run: RunFolder) -> None:
    """See that a run may be acted upon; raises ConfigError, with the reason, where it may only be read."""
    _refuse(run, _reasons(run))


def require_own_code(run: RunFolder, code: Path) -> None:
    """The same of every file of a frozen copy of the package, which a job would run; there may be none yet."""
    _refuse(run, _reasons_within(run, code))


def claim(run: RunFolder) -> None:
    """Make the folder of a run and that of its logs, where nobody else can write; raises ConfigError as `require_own`.

    submitit's pickles are in the logs, so nobody else may even enter them.
    """
    require_own(run)
    make_folder(run.path)
    make_folder(run.logs, 0o700)


def belongs_to_user(path: Path) -> bool:
    """Whether the user is the owner of a folder that is there."""
    return path.stat().st_uid == os.geteuid()


def place_inside(run: RunFolder, folder: Path) -> Path:
    """A folder of a run to which a command writes unasked.

    Raises:
        ConfigError: it must not, since the run is somebody else's, or the folder a link.
    """
    if not belongs_to_user(run.path):
        raise ConfigError(f"{run.path} is not yours, so nothing is written to it. Say with --out where it goes.")
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link, and may lead anywhere. Say with --out where it goes.")
    return folder


def _refuse(run: RunFolder, reasons: Iterator[str]) -> None:
    if why := next(filter(None, reasons), ""):
        raise ConfigError(f"{run.path} can be read, but nothing is started, ended or deleted for it: {why}")


def _reasons(run: RunFolder) -> Iterator[str]:
    # A run may be on another disk, where a link of the user's own leads; whoever made the others is not known.
    path = run.path
    if path.is_symlink() and path.lstat().st_uid == os.geteuid():
        path = path.resolve()
    yield _why(run, path)
    for folder in (run.cells, run.logs, run.codes):
        yield _why(run, folder)
    for folder in (run.cells, run.codes):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                inside = [Path(entry) for entry in entries if not entry.is_file(follow_symlinks=False)]
            yield from (_why(run, one) for one in inside)
    for file in (run.grid_file, run.resources_file, run.template_file, run.submissions_file, run.lock_file):
        yield _why(run, file, stat.S_IFREG)


def _reasons_within(run: RunFolder, folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        yield from (_why(run, Path(where, name)) for name in folders)
        yield from (_why(run, Path(where, name), stat.S_IFREG) for name in files)


def _why(run: RunFolder, path: Path, kind: int = stat.S_IFDIR) -> str:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}."
    if stat.S_IFMT(found.st_mode) != kind:
        what = "a link" if stat.S_ISLNK(found.st_mode) else f"no {'folder' if kind == stat.S_IFDIR else 'regular file'}"
        return f"{path} is {what}. Put what belongs there in its place, or take another folder with --run."
    if found.st_uid != os.geteuid():
        return f"{path} belongs to {_name(found.st_uid)}. Run your own with `hpcseg grid` in another folder."
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if found.st_mode & stat.S_IWOTH else "its group"
        return f"{path} can be written to by {who}. If all in it is yours, run `chmod -R go-w {run.path}`."
    return ""


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
