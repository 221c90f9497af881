"""The verb `status`: where every cell of a run stands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console, parts, state_table
from hpcseg.cli.options import AsJson, RunOrPrediction
from hpcseg.cli.watching import look, looks
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import find_run, others_trained
from hpcseg.runs.state import State
from hpcseg.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hpcseg.cli.curves import LossCurves
    from hpcseg.cluster.states import CellStatus, RunStatus
    from hpcseg.runs.folder import RunFolder

# Title, header, summary and prompt.
_LINES_BELOW = 5
# Of the rows that there are, curves get one of so many at most.
_SHARE_OF_CURVES = 3


def status(
    cells: Annotated[
        list[str] | None, typer.Argument(help="Names, ids or patterns; all without.", show_default=False)
    ] = None,
    run: RunOrPrediction = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds until all have ended; with curves of losses.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each cell's state, epoch, validation accuracy, time left, job and node.

    With --run OUT, a prediction, how many slices of each part are written. With --watch it ends with exit code 0 where
    all of them are finished, else with 1.
    """
    if watch and as_json:
        raise ConfigError("--watch is for a screen, and --json says how it is now. Leave one of them out.")
    if prediction := parts.find_prediction(run, cells):
        parts.status(prediction, cells, watching=watch, as_json=as_json)
        return
    folder = find_run(run)
    if as_json:
        console.stdout.print(json.dumps(_as_json(look(folder, cells)), indent=1))
    elif watch:
        _watch(folder, cells)
    else:
        found = look(folder, cells)
        state_table.show(str(found.run.path), _columns(found, found.status))
        _print_summary(found)


def _watch(folder: RunFolder, patterns: Sequence[str] | None) -> None:
    from hpcseg.cli.curves import LossCurves

    curves = LossCurves()

    def at_end(found: RunStatus) -> None:
        if not console.stdout.is_terminal:
            state_table.show(str(found.run.path), _columns(found, found.status))
        _print_summary(found)

    state_table.watch(
        looks(folder, patterns),
        lambda found: _screen(found, console.stdout.height - _LINES_BELOW, curves),
        at_end,
    )


def _screen(found: RunStatus, rows: int, curves: LossCurves) -> RenderableType:
    """The table, and the losses of some cells that train below it, in so many rows together."""
    from rich.console import Group

    running = [cell.cell for cell in found.status if cell.state is State.RUNNING]
    # Of ten thousand cells no more files are read than there are lines for.
    some = running[: max(0, rows // _SHARE_OF_CURVES)]
    drawn = curves.table({found.names[cell]: found.run.cell(cell) for cell in some})
    if drawn is None:
        return _table(found, rows)
    return Group(_table(found, rows - len(console.stdout.render_lines(drawn)) - 1), "", drawn)


def _as_json(found: RunStatus) -> dict[str, object]:
    return {
        "run": str(found.run.path),
        "slurm_answers": found.answered,
        "counts": found.counts(),
        "notes": list(found.notes),
        "cells": [dataclasses.asdict(cell) for cell in found.status],
    }


def _table(found: RunStatus, rows: int) -> Table:
    """At most so many rows, those first that run or need a look: not all that is shown can be scrolled back to."""
    cells = found.status
    if len(cells) > rows:
        quiet = (State.FINISHED, State.MISSING, State.QUEUED)
        cells = tuple(sorted(cells, key=lambda cell: cell.state in quiet)[: max(1, rows)])
    return state_table.table(str(found.run.path), _columns(found, cells))


def _columns(found: RunStatus, cells: Sequence[CellStatus]) -> state_table.Columns:
    """The columns of some cells that have anything in them."""
    columns: dict[str, list[str]] = {
        "Cell": [found.names[cell.cell] for cell in cells],
        "State": [cell.state for cell in cells],
        "Epoch": [f"{cell.epoch}/{cell.epochs}" for cell in cells],
        "Validation": ["" if (value := cell.validation_accuracy) is None else f"{value:.4f}" for cell in cells],
        "Left": ["" if (left := cell.seconds_left) is None else console.duration(left) for cell in cells],
        "Job": [cell.job_id or "" for cell in cells],
        "Node": [cell.node or "" for cell in cells],
        "Note": [cell.note for cell in cells],
    }
    return state_table.with_texts(columns)


def _print_summary(found: RunStatus) -> None:
    from hpcseg.cli.next_step import after_status

    if not found.answered:
        console.stderr.print("Slurm does not answer; this is what the files say.")
    for note in found.notes:
        console.stderr.print(note)
    console.stdout.print(state_table.in_words(found.counts()))
    ways = {
        "settings": f"`hpcseg compare {found.run.path.name}` shows them, and a `hpcseg grid` with those settings",
        "data": "a `hpcseg grid` with their --data",
    }
    for what, others in others_trained(found.run, {cell.id for cell in found.cells}, found.data_sha256).items():
        console.say(f"{counted(len(others), 'more trained cell')} of other {what}: {ways[what]} brings them back here.")
    if step := after_status(found):
        console.stdout.print(step)
