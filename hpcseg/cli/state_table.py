"""How states are shown: a table on a terminal, lines of text elsewhere, once or until all has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from hpcseg.cli import console
from hpcseg.runs.state import Standing, State

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

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
# Columns whose texts are as long as they are.
_FOLDED = ("Cell", "Note")
_LEAST_FOLDED = 12
"""Letters in a line of these, however narrow the screen is."""
Columns = Mapping[str, Sequence[str]]
"""Texts by heading, as many in each; "State" has states."""


_T = TypeVar("_T", bound=Standing)


def in_words(counts: Mapping[State, int]) -> str:
    """How many stand where: "3 finished, 1 running"."""
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def with_texts(columns: Columns) -> Columns:
    """Those that have anything in them."""
    return {name: texts for name, texts in columns.items() if any(texts)}


def show(title: str, columns: Columns) -> None:
    """Print a table, or more rows than a screen is for as lines."""
    if console.stdout.is_terminal and all(len(texts) <= _MOST_ROWS for texts in columns.values()):
        console.stdout.print(table(title, columns))
    else:
        console.stdout.print("\n".join(lines(title, columns)))


def table(title: str, columns: Columns) -> Table:
    """One row per line, as wide as the screen; where it is narrow, without the last columns."""
    from rich.table import Table
    from rich.text import Text

    columns = _fitting(columns, console.stdout.width)
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        made.add_column(name, no_wrap=name not in _FOLDED, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        shown = zip(columns, row, strict=True)
        made.add_row(
            *(Text(text, style=_COLOURS.get(State(text), "")) if of == "State" else text for of, text in shown)
        )
    return made


def _fitting(columns: Columns, width: int) -> Columns:
    """As many of the first columns as a screen has room for, the first two in any case: a row is known by its name."""

    def room(name: str) -> int:
        return _LEAST_FOLDED if name in _FOLDED else max(map(len, (name, *columns[name])))

    kept = list(columns)
    while len(kept) > 2 and sum(room(name) + 2 for name in kept) - 2 > width:
        kept.pop()
    return {name: columns[name] for name in kept}


def lines(title: str, columns: Columns) -> Iterator[str]:
    """The same for a file or a pipe: a line per row, as long as it is."""
    yield title
    texts = [[name, *column] for name, column in columns.items()]
    widths = [max(map(len, column)) for column in texts]
    for row in zip(*texts, strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def watch(looks: Iterable[_T], screen: Callable[[_T], RenderableType], at_end: Callable[[_T], None]) -> None:
    """Show what is found at every look; ends the command with 1 where not all is finished, and with 130 by Ctrl-C.

    Args:
        looks: until all has ended.
        screen: what a terminal shows; elsewhere the counts are printed where they have changed.
        at_end: prints what is known at the end.
    """
    from rich.live import Live

    on_terminal, told = console.stdout.is_terminal, ""
    found: _T | None = None
    stopped = False
    with Live(console=console.stdout, auto_refresh=False) if on_terminal else contextlib.nullcontext() as live:
        try:
            for found in looks:
                if live:
                    live.update(screen(found), refresh=True)
                elif (counts := in_words(found.counts())) != told:
                    console.stdout.print(told := counts)
        except KeyboardInterrupt:
            if found is None:
                raise
            stopped = True
    assert found is not None, "a watch begins with a look"
    at_end(found)
    if stopped:
        raise typer.Exit(130)
    if set(found.counts()) != {State.FINISHED}:
        raise typer.Exit(1)
