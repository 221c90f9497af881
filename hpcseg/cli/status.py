"""The verb `status`: where every cell of a run stands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.runs import find_run

_COLOURS = {"finished": "green", "failed": "red", "running": "cyan", "evaluating": "cyan", "queued": "yellow"}


def status(
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show each cell's state, epoch, validation accuracy, time left, job and node."""
    from rich.table import Table
    from rich.text import Text

    from hpcseg.cluster.states import run_status

    folder = find_run(run)
    cells, answered = run_status(folder)
    states = [cell.state for cell in cells]
    counts = {state: states.count(state) for state in sorted(set(states))}
    if as_json:
        content = {"run": str(folder.path), "counts": counts, "cells": [dataclasses.asdict(cell) for cell in cells]}
        console.stdout.print(json.dumps(content, indent=1))
        return
    columns: dict[str, list[str]] = {
        "Cell": [cell.cell for cell in cells],
        "State": states,
        "Epoch": [f"{cell.epoch}/{cell.epochs}" for cell in cells],
        "Validation": ["" if (value := cell.validation_accuracy) is None else f"{value:.4f}" for cell in cells],
        "Left": [_duration(cell.seconds_left) for cell in cells],
        "Job": [cell.job_id or "" for cell in cells],
        "Node": [cell.node or "" for cell in cells],
        "Note": [cell.note for cell in cells],
    }
    table = Table(title=str(folder.path), title_justify="left", box=None, pad_edge=False)
    shown = {name: texts for name, texts in columns.items() if any(texts)}
    for name in shown:
        # Where nobody looks at a screen, a line per cell, as long as it is.
        width = None if console.stdout.is_terminal else max(map(len, shown[name]))
        table.add_column(name, no_wrap=name not in ("Cell", "Note"), overflow="fold", min_width=width)
    for state, row in zip(states, zip(*shown.values(), strict=True), strict=True):
        table.add_row(*(Text(text, style=_COLOURS.get(state, "")) if text == state else text for text in row))
    console.stdout.print(table)
    if not answered:
        console.stderr.print("Slurm does not answer; this is what the files say.")
    console.stdout.print(", ".join(f"{count} {state}" for state, count in counts.items()))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
