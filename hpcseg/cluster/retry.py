"""Failed cells in, new jobs out: what a user asks for with `hpcseg retry`, and what the follow-up job does unasked."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from hpcseg.cluster.asked import read_resources
from hpcseg.cluster.failures import KILLED, NODE_FAILURE, Failure
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import Submission
from hpcseg.cluster.states import RunStatus, run_status
from hpcseg.cluster.submit import submit_missing
from hpcseg.errors import IncompleteError, SchedulerError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import read_grid
from hpcseg.runs.record import append_event
from hpcseg.runs.state import State


def without_nodes(resources: Resources, failures: Mapping[str, Failure], more: str | None = None) -> Resources:
    """The same resources without the nodes that are to blame for failures, and without `more` (n1,n2).

    These are those with a fault of a GPU, and those on which two cells have died.
    """
    to_blame = {failure.node for failure in failures.values() if failure.kind.action == "other node" and failure.node}
    died = Counter(
        failure.node for failure in failures.values() if failure.node and failure.kind in (NODE_FAILURE, KILLED)
    )
    to_blame |= {node for node, times in died.items() if times > 1}
    # In order and once each; node lists such as n[1,2] have commas of their own, and sbatch takes a name twice.
    parts = dict.fromkeys(part for part in (resources.exclude, more, *sorted(to_blame)) if part)
    return dataclasses.replace(resources, exclude=",".join(parts) or None)


def with_more(resources: Resources, failures: Mapping[str, Failure]) -> Resources:
    """The same resources with twice the memory, or time, as far as they may grow, where a failure asks for it.

    All cells of the next submission get it.
    """
    actions = {failure.kind.action for failure in failures.values()}
    memory, limit = resources.memory_gib, resources.minutes
    if "more memory" in actions and resources.max_memory_gib:
        memory = max(memory, min(2 * memory, resources.max_memory_gib))
    if "more time" in actions and resources.max_minutes:
        limit = max(limit, min(2 * limit, resources.max_minutes))
    return dataclasses.replace(resources, memory_gib=memory, minutes=limit)


def worth_a_try(status: RunStatus, resources: Resources) -> dict[str, Failure]:
    """The failures that ask for no decision of the user's, of cells with tries left."""
    left_to_the_user = {"give up"}
    if resources.memory_gib >= (resources.max_memory_gib or 0):
        left_to_the_user.add("more memory")
    handed_out = {cell.cell: cell.tries for cell in status.status}
    return {
        cell_id: failure
        for cell_id, failure in status.failures.items()
        if failure.kind.action not in left_to_the_user and handed_out[cell_id] < resources.tries
    }


def left_to_follow_up(status: RunStatus, resources: Resources) -> dict[str, Failure | None]:
    """What the job that follows all others submits: failures that are worth a try, and cells that never had a job."""
    never = {cell.cell for cell in status.status if cell.state in (State.MISSING, State.TRAINED) and not cell.tries}
    return {**dict.fromkeys(never), **worth_a_try(status, resources)}


def follow_up(run: RunFolder) -> Submission:
    """Submit again what failed for the cluster's sake, and what the site's limits left no room for.

    Runs in the job that follows all others.

    Raises:
        HpcsegError: the run was planned again meanwhile, with another numerics number.
        SchedulerError: sbatch refuses.
    """
    grid = read_grid(run)
    resources = read_resources(run)
    if resources is None:
        raise IncompleteError(f"{run.resources_file} is gone. Run `hpcseg grid` again.")
    status = run_status(run)
    only = left_to_follow_up(status, resources)
    failures = {cell_id: failure for cell_id, failure in only.items() if failure is not None}
    more = with_more(resources, failures)
    elsewhere = without_nodes(more, failures)
    try:
        submission = submit_missing(grid, elsewhere, dry_run=False, resubmit=False, only=only)
    except SchedulerError:
        if elsewhere == more:
            raise
        # The partition may have too few nodes to leave one out.
        submission = submit_missing(grid, more, dry_run=False, resubmit=False, only=only)
    if more != resources:
        for cell in (cell for cell in grid.cells if cell.id in failures):
            append_event(cell.folder.events_file, "escalated", memory_gib=more.memory_gib, minutes=more.minutes)
    return submission
