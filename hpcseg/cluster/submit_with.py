"""The cells of a grid in, jobs of another scheduler than Slurm out, by a user's own template.

A job is one process that takes its cells one after the other, so no job waits for another, and none writes the report.
What a job does is told by its cells' files alone. It is announced in the ledger before it is submitted, and its number
is written there as soon as it is known. A cell whose job is given up is left out by that job, should it come after all.
"""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hpcseg.cluster import ledger, worker
from hpcseg.cluster.asked import written_down
from hpcseg.cluster.ledger import Booked
from hpcseg.cluster.missing import find_missing
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import Sent, Submission, UnansweredError
from hpcseg.cluster.submit import in_jobs
from hpcseg.cluster.template import Template, cancel_job, submit_script
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.files import write_bytes
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze, shell_lines
from hpcseg.runs.gpus import ASKED
from hpcseg.runs.grid import Cell, Grid, check_numerics
from hpcseg.runs.names import short_names
from hpcseg.runs.wish import leave_out
from hpcseg.text import refuse_controls

_MOST_NAMES = 20


def submit_missing_with(
    template: Template,
    grid: Grid,
    resources: Resources,
    *,
    dry_run: bool,
    resubmit: bool,
    only: Collection[str] | None = None,
) -> Submission:
    """Submit what is neither finished nor submitted already; the rest as of `submit.submit_missing`.

    Raises:
        ConfigError: a cell wants several processes, or a path has a control character.
        SchedulerError: the user's command refused a job: those before it are submitted, and the message names the rest.
    """
    if resources.nodes * resources.ranks_per_node > 1 or resources.gpus_per_node > 1:
        raise ConfigError(
            "A job by a template is one process on one node, with one GPU at most, but a cell of this one is to have "
            f"{resources.nodes} nodes and {resources.gpus_per_node} GPUs on each. Use --gpus-per-node 1, or 0 for CPUs."
        )
    check_numerics(grid.numerics, f"The run {grid.run.path}")
    with contextlib.nullcontext() if dry_run else ledger.locked(grid.run):
        before = ledger.read(grid.run).jobs
        missing = find_missing(grid, resubmit=resubmit, only=only)
        submission = Submission(dry_run, left_alone=missing.left_alone, no_report=True)
        with (
            contextlib.nullcontext()
            if dry_run
            else written_down(grid, resources, missing.cells, submission, only=only, template=template.text.encode())
        ):
            _submit(template, grid, resources, missing.cells, before, submission)
    return submission


def _submit(
    template: Template,
    grid: Grid,
    resources: Resources,
    cells: Sequence[Cell],
    before: Mapping[str, Booked],
    submission: Submission,
) -> None:
    """Submit cells, of which some may have had a job before."""
    jobs = in_jobs(cells, resources.cells_per_job)
    code = freeze(grid.run, write=not submission.dry_run)
    for index, together in enumerate(jobs):
        token, ids = ledger.new_token(grid.run), tuple(cell.id for cell in together)
        script = _script(template, grid.run, code, resources, token, ids)
        if submission.dry_run:
            submission.scripts.append(script)
            number = f"<number {index + 1}>"
        else:
            for cell in together:
                # What comes late of an earlier job must do nothing twice.
                if (job := before.get(cell.id)) is not None and job.number is not None:
                    leave_out(cell.folder, job.job_id)
            try:
                number = _send(template, grid.run, script, token, ids, {sent.job_id for sent in submission.sent})
            except SchedulerError as error:
                raise type(error)(_what_is_left(error, grid, index, jobs)) from None
        submission.sent.append(Sent("cells", (ids,), number, token))


def cancel_by_template(run: RunFolder, job: Booked) -> str:
    """Cancel a job with the command that its script has for it.

    Returns:
        Where there is none, or it refused, what that means, as the rest of a sentence; else an empty text.
    """
    wrong = cancel_job(_script_file(run, job.job_id), job.number)
    return f"which is still your scheduler's to end ({wrong}); if it begins, it leaves the cell out" if wrong else ""


def _send(
    template: Template, run: RunFolder, content: str, token: str, ids: tuple[str, ...], taken: Collection[str]
) -> str:
    """Submit and book a job; returns its number, which is none of those that are taken."""
    tasks, mark = (ids,), {"template": template.sha256}
    script = _script_file(run, token)
    # Setup lines of the user's may hold a secret.
    write_bytes(script, content.encode(), private=True)
    ledger.announce(run, "cells", tasks, token, **mark)
    try:
        number = submit_script(template, script.resolve())
    except SchedulerError:
        ledger.withdraw(run, token)
        raise
    if number is None or number in taken:
        # A number that another job has is of a queue or a server, and to cancel by it would end what is not ours.
        raise UnansweredError(
            f"`{shlex.join(template.submit)}` named no number of a job of its own, so it is not known whether it took "
            f"the one called {ledger.short_name(token)}. If your scheduler does not know it, `hpcseg cancel`, then "
            "`hpcseg retry` its cells."
        )
    ledger.book(run, token, "cells", tasks, number, **mark)
    return number


def _script_file(run: RunFolder, token: str) -> Path:
    return run.logs / f"{token}_submission.sh"


def _script(
    template: Template, run: RunFolder, code: Path, resources: Resources, token: str, cells: tuple[str, ...]
) -> str:
    # As submitit's controller tells it the only rank of a local job.
    told = {"EXECUTOR": "local"} | {f"LOCAL_{name}": "0" for name in ("NODEID", "GLOBALID", "LOCALID")}
    told |= {"LOCAL_JOB_ID": token, "LOCAL_NTASKS": "1"}
    variables = [f"SUBMITIT_{name}={value}" for name, value in told.items()]
    lines = [
        # LSF sends it before SIGTERM, at which a cell writes its checkpoint.
        "trap '' INT",
        *shell_lines(code),
        shlex.join(["exec", "env", f"{ASKED}={resources.gpus_per_node}", *variables, *worker.command(run, cells)]),
    ]
    values = {
        "command": shlex.join(["/bin/sh", "-c", "; ".join(lines)]),
        "log": shlex.quote(str(run.logs.resolve() / f"{token}_0_log.out")),
        "name": ledger.short_name(token),
        "gpus": str(resources.gpus_per_node),
        "cpus": str(resources.cpus_per_task),
        "memory_gib": str(math.ceil(resources.memory_gib)),
        "minutes": str(resources.minutes),
    }
    for word, value in values.items():
        refuse_controls(value, f"{{{word}}}")
    return template.script(values)


def _what_is_left(error: SchedulerError, grid: Grid, sent: int, jobs: Sequence[list[Cell]]) -> str:
    names = short_names(grid.cells)
    rest = jobs[sent + isinstance(error, UnansweredError) :]
    left = [names[cell.id] for cells in rest for cell in cells] or ["none"]
    shown = ", ".join(left[:_MOST_NAMES]) + (", ..." if left[_MOST_NAMES:] else "")
    return (
        f"{error} Submitted before it: {sent} of {len(jobs)} jobs. Not submitted: {shown}. The same command submits "
        "the rest, and nothing twice."
    )
