"""The verb `retry`: submit again what failed, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.cli.grid import cells_answer, run_here, show_submission
from hpcseg.cli.options import MEMORY, TIME, AsJson, Run
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.runs.finding import choose_cells, find_own_run, refuse_others
from hpcseg.runs.names import short_names
from hpcseg.text import counted

if TYPE_CHECKING:
    from hpcseg.runs.grid import Grid

# Options of `hpcseg grid --local`, which stand in the plan's command alone.
_HERE = re.compile(r"--(workers|gpus-per-node|ranks-per-node)[= ]([1-9]?\d{1,3})\b")


def retry(
    cells: Annotated[list[str] | None, typer.Argument(help="Names, ids or patterns; none: all that failed.")] = None,
    run: Run = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be tried again, do nothing.")] = False,
    mem: Annotated[
        float | None,
        typer.Option(**MEMORY, help="Memory per node: 16G; a number alone is GiB.", show_default="as before"),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(**TIME, help="Time limit of a job: 2:00:00; a number alone is minutes.", show_default="as before"),
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="One more node not to use, or several: n1,n2.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit the failed cells of a run again, with what they asked for before; or run them here, as they ran last."""
    from hpcseg.cluster.asked import read_resources
    from hpcseg.cluster.local import find_slots
    from hpcseg.cluster.profile import with_memory
    from hpcseg.cluster.retry import without_nodes
    from hpcseg.cluster.states import run_status
    from hpcseg.cluster.submit import submit_missing
    from hpcseg.cluster.submit_with import submit_missing_with
    from hpcseg.cluster.template import read_template
    from hpcseg.runs.grid import read_grid, read_plan

    folder = find_own_run(run)
    grid, status, resources = read_grid(folder), run_status(folder), read_resources(folder)
    refuse_others(folder, grid.cells, cells)
    chosen = choose_cells(status.cells, cells, among=status.failures, what="failed cell")
    failures = {cell_id: status.failures[cell_id] for cell_id in chosen}
    if failures:
        _check_data(grid)
    with console.json_answer(as_json) as answer:
        answer["failures"] = {
            cell_id: {"kind": failure.kind.name, "text": failure.text, "remedy": failure.kind.remedy}
            for cell_id, failure in failures.items()
        }
        names = short_names(status.cells)
        for cell_id, failure in failures.items():
            console.say(f"  {names[cell_id]}: {failure.kind.name}. {failure.kind.remedy}")
        if not failures:
            console.stdout.print("No cell has failed, nothing to do.")
        elif resources is None or status.ledger.last_way == "here":
            if mem is not None or time is not None or exclude is not None:
                raise ConfigError(
                    "--mem, --time and --exclude are asked of Slurm, and these cells ran on this machine last. Leave "
                    "them out, or run `hpcseg grid --slurm`."
                )
            unplanned = {cell.id: why for cell in grid.cells if cell.id in failures and (why := cell.unplanned())}
            for cell_id, why in unplanned.items():
                console.say(f"  {names[cell_id]} is left alone: {why}")
            here = [cell for cell in grid.cells if cell.id in failures and cell.id not in unplanned]
            try:
                if dry_run:
                    console.stdout.print(f"{counted(len(here), 'cell')} would run here again.")
                elif here:
                    before = {name: int(number) for name, number in _HERE.findall(read_plan(folder).command)}
                    slots = find_slots(before.get("workers"), before.get("gpus-per-node", 1))
                    run_here(grid, here, slots=slots, ranks=before.get("ranks-per-node"))
            finally:
                answer.update(cells_answer(grid, look=as_json and not dry_run))
        else:
            resources = dataclasses.replace(resources, minutes=time or resources.minutes)
            resources = resources if mem is None else with_memory(resources, mem)
            of: dict[str, Any] = {"dry_run": dry_run, "resubmit": False, "only": set(failures)}
            if status.ledger.last_way == "Slurm":
                submission = submit_missing(grid, without_nodes(resources, failures, exclude), **of)
            elif exclude is None:
                submission = submit_missing_with(read_template(folder.template_file), grid, resources, **of)
            else:
                raise ConfigError("--exclude is asked of Slurm, and these cells have jobs by a template. Leave it out.")
            show_submission(submission, grid, answer, as_json=as_json)


def _check_data(grid: Grid) -> None:
    """Raise DatasetError now, and not in every job, where the data are gone, or others than the cells are for."""
    from hpcseg.data.store import read_info

    if read_info(grid.data_file).data_sha256 != grid.data_sha256:
        raise DatasetError(
            f"{grid.data_file} holds other data than when the run was planned, so its cells would fail again. Put the "
            "file back, or run `hpcseg grid`: it plans new cells for the new data and leaves these alone."
        )
