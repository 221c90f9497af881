"""resources.json: what the jobs of a run asked for last, for whoever tries again later, a job or `hpcseg retry`.

It follows what is booked. A call that looks, or that sbatch refuses, changes nothing of what the next one asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import Submission, UnansweredError
from hpcseg.errors import HpcsegError
from hpcseg.files import read_regular, write_bytes
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, Grid, write_plan
from hpcseg.runs.record import MOST_BYTES, read_json, write_json
from hpcseg.tables import build_config


def read_resources(run: RunFolder) -> Resources | None:
    """What the cells of a run asked of a scheduler last; None where none was submitted there.

    Raises:
        IncompleteError: the record is damaged.
        ConfigError: it has a key that this version does not know.
    """
    if not run.resources_file.exists():
        return None
    return build_config(Resources, read_json(run.resources_file), str(run.resources_file))


@contextlib.contextmanager
def written_down(
    grid: Grid,
    resources: Resources,
    cells: Collection[Cell],
    submission: Submission,
    *,
    only: Collection[str] | None,
    template: bytes | None = None,
) -> Iterator[None]:
    """Write the plan, and what is asked for, before jobs that need it begin; put back what was there where none came.

    Args:
        grid: of the run.
        resources: of one job.
        cells: that are to be submitted; none: what is asked for stays as it is.
        submission: gets what is sent.
        only: as of `submit_missing`.
        template: of jobs by one, its text.
    """
    run = grid.run
    before = {file: _content(file) for file in (run.grid_file, run.resources_file, run.template_file)}
    try:
        if only is None:
            write_plan(grid, looks=not cells)
        if cells:
            # Setup lines may hold a secret.
            write_json(run.resources_file, dataclasses.asdict(resources), private=True)
            if template is not None:
                write_bytes(run.template_file, template, private=True)
        yield
    except UnansweredError:
        # Its job may be in the queue.
        raise
    except HpcsegError:
        if not submission.sent:
            _put_back(before)
        raise
    if cells and not submission.sent:
        # There was no room. The plan is what the next call goes on with.
        before.pop(run.grid_file)
        _put_back(before)


def _content(file: Path) -> bytes | None:
    return read_regular(file, MOST_BYTES) if file.exists() else None


def _put_back(before: dict[Path, bytes | None]) -> None:
    for file, content in before.items():
        if content is None:
            file.unlink(missing_ok=True)
        elif _content(file) != content:
            write_bytes(file, content, private=file.stat().st_mode & 0o077 == 0)
