"""What is looked at again and again until it has ended: for `status --watch`, `report --live` and `logs --follow`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from hpcseg.cli import console
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import choose_cells
from hpcseg.runs.state import Standing, State

if TYPE_CHECKING:
    from hpcseg.cluster.remembered import Remembered
    from hpcseg.cluster.states import RunStatus
    from hpcseg.runs.folder import RunFolder

_SECONDS_BETWEEN_LOOKS = 5.0
_SECONDS_BETWEEN_QUESTIONS = 10.0
_ENDED = (State.FINISHED, State.FAILED, State.STOPPED, State.CANCELLED)
# A cell of a local grid may have ended one stage and not yet begun the next; and squeue may miss its time once.
_LOOKS_TO_BE_SURE = 2
_LOOKS_WITHOUT_AN_ANSWER = 12


_T = TypeVar("_T", bound=Standing)
_One = TypeVar("_One")


def one_to_follow(chosen: Sequence[_One], what: str, *, as_json: bool) -> _One:
    """The only one of them; raises ConfigError for several, and beside --json."""
    if as_json:
        raise ConfigError("--follow has no end that --json could wait for. Leave one of them out.")
    if len(chosen) != 1:
        raise ConfigError(f"--follow needs one {what}, but these are {len(chosen)}. Name one.")
    return chosen[0]


def follow(
    name: str,
    state: State,
    look: Callable[[Remembered], State],
    lines: Callable[[Callable[[], bool]], Iterable[Iterable[str]]],
) -> None:
    """Print what comes into a log until what writes it has ended, and how it has.

    Args:
        name: of what is followed.
        state: of it now.
        look: finds it, given what Slurm has said before.
        lines: new ones at each look into the log, as long as what it is given says that there may be more.
    """
    from hpcseg.cluster.remembered import Remembered

    remembered, looked = Remembered(), time.monotonic()

    def goes_on() -> bool:
        nonlocal state, looked
        # The files of the whole run are read for it, so not at every look into the log.
        if time.monotonic() - looked > _SECONDS_BETWEEN_QUESTIONS:
            state, looked = look(remembered), time.monotonic()
        return state not in _ENDED

    try:
        for new in lines(goes_on):
            for line in new:
                console.stdout.print(line)
        console.stdout.print(f"{name}: {state}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def look(folder: RunFolder, patterns: Sequence[str] | None = None, remembered: Remembered | None = None) -> RunStatus:
    """The state of the cells that were asked for, among all that were planned with them.

    Args:
        folder: of the run.
        patterns: names, ids or patterns of the cells.
        remembered: what Slurm has said before; None: it is asked.
    """
    from hpcseg.cluster.states import run_status

    found = run_status(folder, remembered)
    chosen = set(choose_cells(found.cells, patterns))
    return dataclasses.replace(
        found,
        status=tuple(cell for cell in found.status if cell.cell in chosen),
        failures={cell: failure for cell, failure in found.failures.items() if cell in chosen},
    )


def looks(folder: RunFolder, patterns: Sequence[str] | None = None, *, seconds: float = 0.0) -> Iterator[RunStatus]:
    """As `again`, of what `look` finds."""
    return again(lambda remembered: look(folder, patterns, remembered), seconds=seconds)


def again(find: Callable[[Remembered], _T], *, seconds: float = 0.0) -> Iterator[_T]:
    """What is found, until nothing runs or waits any more; Slurm is asked less often than files are read.

    Args:
        find: looks, given what Slurm has said before.
        seconds: between two looks, at least; never less than a look takes, with what is done about it.
    """
    from hpcseg.cluster.remembered import Remembered

    quiet, remembered = 0, Remembered()
    while True:
        began = time.monotonic()
        yield (found := find(remembered))
        quiet = quiet + 1 if found.idle else 0
        if quiet and found.answered:
            remembered.ask_anew()
        enough = _LOOKS_TO_BE_SURE if found.answered else _LOOKS_WITHOUT_AN_ANSWER
        if quiet >= enough or set(found.counts()) == {State.FINISHED}:
            return
        rest = _SECONDS_BETWEEN_LOOKS if quiet else max(_SECONDS_BETWEEN_LOOKS, seconds)
        time.sleep(max(rest, time.monotonic() - began))
