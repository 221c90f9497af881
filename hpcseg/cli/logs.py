"""The verb `logs`: what a cell's job has written, without its job id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.cli.runs import choose_cells, find_run
from hpcseg.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from hpcseg.cluster.failures import Failure
    from hpcseg.cluster.states import RunStatus

_LINES = 30
_SECONDS_BETWEEN_QUESTIONS = 10.0


def logs(
    cells: Annotated[list[str] | None, typer.Argument(help="Ids or patterns.", show_default=False)] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Rank whose log is shown.", show_default="the failed one, else 0")
    ] = None,
    stage: Annotated[
        Literal["train", "evaluate"] | None,
        typer.Option(help="Stage whose log is shown.", show_default="where the cell stands"),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Of every failed cell: why, and its last lines.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as long as the cell runs.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines of each.")] = _LINES,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of cells' logs."""
    from hpcseg.cluster.logs import find_logs, tail
    from hpcseg.cluster.states import run_status

    status = run_status(find_run(run))
    if not cells and not failed:
        raise ConfigError("Name the cells whose logs you want, by id or pattern ('large-*'), or say --failed.")
    ids = list(status.failures) if failed else [cell.cell for cell in status.status]
    chosen = choose_cells(ids, cells, "failed cell" if failed else "cell")
    if follow and (as_json or len(chosen) != 1):
        raise ConfigError(
            "--follow has no end that --json could wait for. Leave one of them out."
            if as_json
            else f"--follow needs one cell, but these are {len(chosen)}. Name one."
        )
    jobs = {cell.cell: cell.job_id for cell in status.status}
    found = find_logs(status.run.logs)
    with console.json_answer(as_json) as answer:
        answer.update({"run": str(status.run.path), "cells": []})
        for cell_id in chosen:
            failure, job_id = status.failures.get(cell_id), jobs[cell_id]
            if stage is not None:
                booked = status.ledger.jobs.get((cell_id, stage))
                job_id = booked.job_id if booked else None
            wanted = rank if rank is not None else (failure.rank if failure else 0)
            there = found.get(job_id or "", {})
            log = there.get(wanted)
            _introduce(cell_id, failure, f", rank {wanted} of job {job_id}" if job_id else "")
            if log is None and not (failed or as_json):
                raise IncompleteError(f"{cell_id} has no log of rank {wanted}. {_which(there)}")
            if log is not None and follow:
                _follow(log, status, cell_id)
                return
            last = tail(log).splitlines()[-lines:] if log else []
            console.stdout.print("\n".join(last) if log else _which(there))
            answer["cells"].append(
                {
                    "cell": cell_id,
                    "job_id": job_id,
                    "rank": wanted,
                    "log": str(log) if log else None,
                    "failure": {"kind": failure.kind.name, "text": failure.text} if failure else None,
                    "lines": last,
                }
            )
        if failed and not chosen:
            console.stdout.print("No cell has failed.")


def _introduce(cell_id: str, failure: Failure | None, whose: str) -> None:
    console.stdout.print(f"== {cell_id}{whose}", style="bold")
    if failure:
        console.stdout.print(f"{failure.summary}\n{failure.kind.remedy}")


def _which(there: Mapping[int, Path]) -> str:
    return f"It has logs of rank {', '.join(map(str, there))}." if there else "Its job has written none yet."


def _follow(path: Path, status: RunStatus, cell_id: str) -> None:
    import time

    from hpcseg.cluster.logs import follow
    from hpcseg.cluster.states import run_status
    from hpcseg.runs.state import State

    # A trained cell is evaluated next, in a log of its own.
    ended = (State.FINISHED, State.FAILED, State.STOPPED, State.CANCELLED)
    looked, alive = time.monotonic(), True

    def goes_on() -> bool:
        nonlocal looked, alive
        # Slurm is asked for the whole run, so not at every look into the file.
        if time.monotonic() - looked > _SECONDS_BETWEEN_QUESTIONS:
            now = {cell.cell: cell.state for cell in run_status(status.run).status}
            looked, alive = time.monotonic(), now[cell_id] not in ended
        return alive

    try:
        for line in follow(path, goes_on):
            console.stdout.print(line)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
