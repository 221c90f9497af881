"""Whose the jobs of a ledger are: a run folder that was copied, or moved, has lines of jobs that belong elsewhere.

A job belongs to the path that it was submitted with: it writes there, and its token has a hash of that path. Lines of
today have the path itself, so that a folder can tell whether it was moved away from there or is one of two.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hpcseg.cluster.ledger_lines import TAG
from hpcseg.cluster.profile import on_nodes
from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import read_json

Whose = Literal["own", "moved", "another's"]
"""A job of this folder, under whatever name; of the path at which it lay before, or of which it is a copy, and no run
is known to be there now; of another folder with a ledger of its own, of which this one is a copy."""


def tag(run: RunFolder) -> str:
    """How the tokens of a run begin: by it squeue tells its jobs also where the ledger does not."""
    return f"{TAG}{hashlib.sha256(path_of(run).encode(errors='surrogateescape')).hexdigest()[:8]}-"


def path_of(run: RunFolder) -> str:
    """The path that jobs are submitted with."""
    return str(run.path.resolve())


def teller(run: RunFolder) -> Callable[[str, str], Whose]:
    """What tells of a token, and the path of the run that it was made for, whose it is; either may be empty.

    A line of an earlier hpcseg has no path, and one of this machine no token.
    """
    own = tag(run)
    at = functools.cache(functools.partial(_whose, run))
    return lambda token, path: "own" if not token or token.startswith(own) else at(path)


def _whose(run: RunFolder, path: str) -> Whose:
    if path and _on_nodes(run, path) == _on_nodes(run, path_of(run)):
        # What the report job submits on a node has its name of the folder.
        return "own"
    there = RunFolder(Path(path))
    if not path or not os.path.exists(there.submissions_file):
        return "moved"
    try:
        # A link that was left behind, or another name on this host.
        return "own" if os.path.samefile(path, run.path) else "another's"
    except OSError:
        return "moved"


def _on_nodes(run: RunFolder, path: str) -> str:
    """A path as nodes see it, by the profile with which cells were submitted last."""
    with contextlib.suppress(IncompleteError, AttributeError, TypeError, ValueError):
        return on_nodes(path, read_json(run.resources_file).get("paths") or ())
    return path
