"""The only place that prints: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from hpcseg.text import for_terminal


class _Console(Console):
    """Leaves out control characters of texts, be it a file's name or a log's line; those of rich itself work."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else for_terminal(text), style, control)


# Text is printed as it stands: a name like `[red].h5` or `a:b:c.h5` is neither markup nor an emoji.
stdout = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

_NAME_WIDTH = 12


@contextlib.contextmanager
def json_answer(wanted: bool) -> Iterator[dict[str, Any]]:
    """What a script reads of a verb: the dictionary that the block fills, as one JSON object on stdout.

    Everything else that the block prints goes to stderr then. A block that fills in nothing, since it failed before it
    could, prints no object. Where it is not wanted, nothing changes.
    """
    answer: dict[str, Any] = {}
    stdout.stderr = wanted
    try:
        yield answer
    finally:
        stdout.stderr = False
        if wanted and answer:
            stdout.print(json.dumps(answer, indent=1))


def note(text: str) -> None:
    """A note, beside the results."""
    say(f"Note: {text}", to=stderr)


def tell_cancelled(cancelled: Mapping[str, str], what: str, *, dry_run: bool) -> bool:
    """Print what was ended, or would be, of cells or parts; returns whether anything was."""
    for one, ended in cancelled.items():
        stdout.print(f"  {one}: {ended}")
    if not cancelled:
        stdout.print(f"None of these {what} waits or runs, nothing to do.")
    elif dry_run:
        stdout.print("Nothing was cancelled (--dry-run).")
    return bool(cancelled) and not dry_run


def stopped() -> typer.Exit:
    """Say that the user has stopped the command; returns what ends it, with the exit code of a shell for Ctrl-C."""
    stderr.print("Stopped by you. The same command goes on where it was.")
    return typer.Exit(130)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "40 s", "12 min", "1.6 h"."""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"


def progress_bar() -> Progress:
    """A progress bar on stderr that vanishes into nothing when stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )


def say(text: str, *, to: Console = stdout, style: str | None = None) -> None:
    """Print sentences, on a terminal with line ends between words; elsewhere each line as long as it is.

    Not for a command to copy, which must stay in one piece.

    Args:
        text: one or more lines; where one goes on in the next, that is indented as it is.
        to: `stdout` or `stderr`.
        style: rich's.
    """
    if to.is_terminal:
        lines = ((line.lstrip(), len(line) - len(line.lstrip())) for line in text.splitlines())
        text = "\n".join(wrapped(line, width=to.width, indent=indent) for line, indent in lines)
    to.print(text, style=style)


def row(name: str, text: str, *, style: str = "bold") -> None:
    """Print a line of a list on stdout: a short name, and beside it sentences that go on below themselves."""
    stdout.print(f"{name:<{_NAME_WIDTH}}", style=style, end="")
    lines = wrapped(text, width=stdout.width, indent=_NAME_WIDTH) if stdout.is_terminal else text
    stdout.print(lines.removeprefix(" " * _NAME_WIDTH))


def wrapped(text: str, *, width: int | None = None, indent: int = 0) -> str:
    """A paragraph in lines between words.

    Args:
        text: the paragraph.
        width: of the lines; None: of the terminal, or 80 where there is none.
        indent: spaces before each line.
    """
    space = " " * indent
    return textwrap.fill(
        text,
        width or stdout.width,
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )
