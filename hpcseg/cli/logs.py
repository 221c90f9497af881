"""The verb `logs`: the epochs of a cell and what its job has written, without its job id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console, parts, watching
from hpcseg.cli.options import AsJson, RunOrPrediction
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.runs.finding import choose_cells, find_run, listing
from hpcseg.runs.names import short_names

if TYPE_CHECKING:
    from hpcseg.cluster.states import RunStatus
    from hpcseg.runs.epochs import Epochs
    from hpcseg.runs.state import State

_LINES = 30


def logs(
    cells: Annotated[list[str] | None, typer.Argument(help="Names, ids or patterns.", show_default=False)] = None,
    run: RunOrPrediction = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Rank whose log is shown.", show_default="the failed one, else 0")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Of every failed cell: why, and its last lines.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as long as the cell runs.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines of each.")] = _LINES,
    as_json: AsJson = False,
) -> None:
    """Show the epochs of cells and the last lines of their logs; with --run OUT, a prediction, those of its parts."""
    if prediction := parts.find_prediction(run, cells, rank=rank):
        parts.logs(prediction, cells, failed=failed, following=follow, last=lines, as_json=as_json)
        return
    from hpcseg.cluster.failures import STOPPED
    from hpcseg.cluster.logs import find_logs
    from hpcseg.cluster.states import run_status
    from hpcseg.runs.epochs import Epochs

    status = run_status(find_run(run))
    if not cells and not failed:
        raise ConfigError(
            "Name the cells whose logs you want, or give a pattern ('large-*'), or --failed. "
            + listing(list(short_names(status.cells).values()))
        )
    only = status.failures if failed else None
    chosen = choose_cells(status.cells, cells, among=only, what="failed cell" if failed else "cell")
    if follow:
        watching.one_to_follow(chosen, "cell", as_json=as_json)
    jobs = {cell.cell: cell.job_id for cell in status.status}
    planned = {cell.id: cell for cell in status.cells}
    found = find_logs(status.run.logs)
    with console.json_answer(as_json) as answer:
        answer.update({"run": str(status.run.path), "cells": []})
        for cell_id in chosen:
            failure, job_id = status.failures.get(cell_id), jobs[cell_id]
            wanted = rank if rank is not None else (failure.rank if failure else 0)
            booked = status.ledger.jobs.get(cell_id)
            there = found.get(booked.job_id if booked else job_id or "", {})
            log = there.get(wanted)
            # Of a cell that is well its epochs say more than its log, which is shown whole to whoever asks for it.
            well = failure is None or failure.kind is STOPPED
            epochs = Epochs(planned[cell_id]) if well and rank is None else None
            told = list(epochs.news()) if epochs else []
            console.stdout.print(f"== {cell_id}{f', rank {wanted} of job {job_id}' if job_id else ''}", style="bold")
            if failure:
                console.stdout.print(f"{failure.summary}\n{failure.kind.remedy}")
            if log is None and len(chosen) == 1 and not (told or failed or as_json):
                raise IncompleteError(f"{cell_id} has no log of rank {wanted}. {_which(there)}")
            if follow:
                _follow(log, epochs, told, status, cell_id)
                return
            last = [*told, *_tail(log, epochs, cell_id)][-lines:]
            nothing = "No epoch is finished yet." if log else _which(there)
            console.stdout.print("\n".join(last) if last or (log and not epochs) else nothing)
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


def _tail(log: Path | None, epochs: Epochs | None, cell_id: str) -> list[str]:
    """The last lines of a log, where there are epochs to show those alone that are not said of every job."""
    from hpcseg.cluster.logs import spoken, tail

    last = tail(log, cell_id) if log else []
    return spoken(last) if epochs else last


def _which(there: Mapping[int, Path]) -> str:
    return f"It has logs of rank {', '.join(map(str, there))}." if there else "Its job has written none yet."


def _follow(log: Path | None, epochs: Epochs | None, told: list[str], status: RunStatus, cell_id: str) -> None:
    from hpcseg.cluster import logs
    from hpcseg.cluster.states import run_status

    def state(found: RunStatus) -> State:
        return next(cell.state for cell in found.status if cell.cell == cell_id)

    def lines(goes_on: Callable[[], bool]) -> Iterator[Iterable[str]]:
        yield told
        for new in logs.follow(log, cell_id, goes_on):
            yield (*epochs.news(), *logs.spoken(new)) if epochs else new

    watching.follow(cell_id, state(status), lambda remembered: state(run_status(status.run, remembered)), lines)
