"""The verb `cancel`: end the jobs of cells, by the cells' names."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcseg.cli import console, parts
from hpcseg.cli.options import AsJson, Cells, RunOrPrediction
from hpcseg.runs.command import command_that_runs
from hpcseg.runs.finding import choose_cells, find_own_run, run_option
from hpcseg.text import counted


def cancel(
    cells: Cells = None,
    run: RunOrPrediction = None,
    others: Annotated[
        bool, typer.Option("--others", help="Only cells of settings that the last `hpcseg grid` does not have.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be cancelled, do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel the jobs of a run's cells; `hpcseg retry` goes on from their checkpoints.

    With --run OUT, a prediction, those of its parts; the same `hpcseg predict` goes on.
    """
    if prediction := parts.find_prediction(run, cells, others=others):
        parts.cancel(prediction, cells, dry_run=dry_run, as_json=as_json)
        return
    from hpcseg.cluster.cancel import cancel_cells
    from hpcseg.cluster.states import run_status
    from hpcseg.runs.grid import planned

    status = run_status(find_own_run(run))
    chosen = choose_cells(status.cells, cells)
    if others:
        chosen = [cell_id for cell_id in chosen if cell_id in status.unplanned]
    with console.json_answer(as_json) as answer:
        cancelled = cancel_cells(status, chosen, with_report=not (cells or others), dry_run=dry_run)
        answer.update({"run": str(status.run.path), "dry_run": dry_run, "cancelled": cancelled})
        if console.tell_cancelled(cancelled, "cells", dry_run=dry_run):
            console.stdout.print(f"Cancelled {counted(len(cancelled), 'cell')}.")
            of_plan = not cancelled.keys() <= status.unplanned
            goes_on = [f"hpcseg retry{run_option(status.run)}"] if of_plan else []
            for cell_id in sorted(cancelled.keys() & status.unplanned):
                goes_on.append(command_that_runs(status.run, planned(status.run.cell(cell_id))))
            for command in dict.fromkeys(goes_on):
                console.stdout.print(f"They go on where they are with: {command}")
