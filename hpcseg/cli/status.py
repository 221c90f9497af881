"""The verb `status`: where every cell of a run stands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson, Run
from hpcseg.cli.watching import look, looks
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
# A table of more rows takes longer to lay out than to find.
_MOST_ROWS = 500
_COLOURS = {
    State.FINISHED: "green",
    State.FAILED: "red",
    State.STOPPED: "red",
    State.RUNNING: "cyan",
    State.EVALUATING: "cyan",
    State.QUEUED: "yellow",
}


def status(
    cells: Annotated[
        list[str] | None, typer.Argument(help="Names, ids or patterns; all without.", show_default=False)
    ] = None,
    run: Run = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds until all have ended; with curves of losses.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each cell's state, epoch, validation accuracy, time left, job and node.

    With --watch it ends with exit code 0 where all of them are finished, else with 1.
    """
    folder = find_run(run)
    if as_json:
        console.stdout.print(json.dumps(_as_json(look(folder, cells)), indent=1))
    elif watch:
        _watch(folder, cells)
    else:
        found = look(folder, cells)
        if console.stdout.is_terminal and len(found.status) <= _MOST_ROWS:
            console.stdout.print(_table(found))
        else:
            console.stdout.print("\n".join(_lines(found)))
        _print_summary(found)


def _watch(folder: RunFolder, patterns: Sequence[str] | None) -> None:
    from rich.live import Live

    from hpcseg.cli.curves import LossCurves

    on_terminal, told, curves = console.stdout.is_terminal, "", LossCurves()
    found: RunStatus | None = None
    stopped = False
    with Live(console=console.stdout, auto_refresh=False) if on_terminal else contextlib.nullcontext() as live:
        try:
            for found in looks(folder, patterns):
                if live:
                    live.update(_screen(found, console.stdout.height - _LINES_BELOW, curves), refresh=True)
                elif (counts := found.in_words()) != told:
                    console.stdout.print(told := counts)
        except KeyboardInterrupt:
            if found is None:
                raise
            stopped = True
    assert found is not None, "a watch begins with a look"
    if not on_terminal:
        console.stdout.print("\n".join(_lines(found)))
    _print_summary(found)
    if stopped:
        raise typer.Exit(130)
    if set(found.counts()) != {State.FINISHED}:
        raise typer.Exit(1)


def _screen(found: RunStatus, rows: int, curves: LossCurves) -> RenderableType:
    """The table, and the losses of some cells that train below it, in so many rows together."""
    from rich.console import Group

    running = [cell.cell for cell in found.status if cell.state is State.RUNNING]
    # Of ten thousand cells no more files are read than there are lines for.
    some = running[: max(0, rows // _SHARE_OF_CURVES)]
    drawn = curves.table({found.names[cell]: found.run.cell(cell) for cell in some})
    if drawn is None:
        return _table(found, rows=rows)
    return Group(_table(found, rows=rows - len(console.stdout.render_lines(drawn)) - 1), "", drawn)


def _as_json(found: RunStatus) -> dict[str, object]:
    return {
        "run": str(found.run.path),
        "slurm_answers": found.answered,
        "counts": found.counts(),
        "notes": list(found.notes),
        "cells": [dataclasses.asdict(cell) for cell in found.status],
    }


def _table(found: RunStatus, *, rows: int | None = None) -> Table:
    """One row per cell, as wide as the screen.

    Args:
        found: what is known.
        rows: where not all that is shown can be scrolled back to, at most so many, those first that run or need a look;
            None: all.
    """
    from rich.table import Table
    from rich.text import Text

    cells = found.status
    if rows is not None and len(cells) > rows:
        quiet = (State.FINISHED, State.MISSING, State.QUEUED)
        cells = tuple(sorted(cells, key=lambda cell: cell.state in quiet)[: max(1, rows)])
    shown = _columns(found, cells)
    table = Table(title=str(found.run.path), title_justify="left", box=None, pad_edge=False)
    for name in shown:
        table.add_column(name, no_wrap=name not in ("Cell", "Note"), overflow="fold")
    for cell, row in zip(cells, zip(*shown.values(), strict=True), strict=True):
        table.add_row(*(Text(text, style=_COLOURS.get(cell.state, "")) if text == cell.state else text for text in row))
    return table


def _lines(found: RunStatus) -> Iterator[str]:
    """The same for a file or a pipe, or of more rows than a screen is for: a line per cell, as long as it is."""
    yield str(found.run.path)
    columns = [[name, *texts] for name, texts in _columns(found, found.status).items()]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _columns(found: RunStatus, cells: Sequence[CellStatus]) -> dict[str, list[str]]:
    """The columns of some cells that have anything in them, by heading."""
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
    return {name: texts for name, texts in columns.items() if any(texts)}


def _print_summary(found: RunStatus) -> None:
    from hpcseg.cli.next_step import after_status

    if not found.answered:
        console.stderr.print("Slurm does not answer; this is what the files say.")
    for note in found.notes:
        console.stderr.print(note)
    console.stdout.print(found.in_words())
    ways = {
        "settings": f"`hpcseg compare {found.run.path.name}` shows them, and a `hpcseg grid` with those settings",
        "data": "a `hpcseg grid` with their --data",
    }
    for what, others in others_trained(found.run, {cell.id for cell in found.cells}, found.data_sha256).items():
        console.say(f"{counted(len(others), 'more trained cell')} of other {what}: {ways[what]} brings them back here.")
    if step := after_status(found):
        console.stdout.print(step)
